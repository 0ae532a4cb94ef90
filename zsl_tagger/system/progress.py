"""Show the progress of a long run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from tqdm import tqdm

logger = logging.getLogger(__name__)

#: A shorter run shows nothing and has no overhead.
SECONDS_UNTIL_SHOWN = 1.0
#: Interval between messages if stderr is not a terminal.
SECONDS_A_MESSAGE = 30.0

Item = TypeVar("Item")


class Progress:
    """Show count, total, rate and time left: as a bar on a terminal, otherwise as a message every 30 seconds.

    Nothing is shown unless INFO messages are, so ``--quiet`` silences it. A run stopped by Ctrl-C or SIGTERM reports
    how many items are done.

    Args:
        what: what is being done, e.g. "tagging".
        total: number of items; None if it is not known (yet).
        done: number of items done by an earlier run.
        unit: plural noun for the items.
        shown: False for all but one of several processes.
        bar: False if the run prints on the same terminal; the count is still reported when the run is interrupted.
    """

    def __init__(
        self, what: str, total: int | None = None, *, done: int = 0, unit: str = "images", shown: bool = True,
        bar: bool = True,
    ):  # fmt: skip
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self._first = done
        self._shown = shown and logger.isEnabledFor(logging.INFO)
        self._has_bar = bar
        self._on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.close()
        if self._shown and isinstance(error, KeyboardInterrupt):
            logger.info("%s stopped: %s done", self.what, self._count())

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, counting each one when the next is requested."""
        for item in items:
            yield item
            self.advance()

    def advance(self, count: int = 1) -> None:
        self.update(self.done + count)

    def update(self, done: int, measured: str = "") -> None:
        """Set the number of items done.

        Args:
            measured: a measurement to show after the rate, e.g. "loss 3.2".
        """
        self.done = done
        if not self._shown:
            return
        now = time.monotonic()
        if self._on_terminal and self._has_bar and (self._bar is not None or now - self._start >= SECONDS_UNTIL_SHOWN):
            self._draw(measured)
        elif not self._on_terminal and now - self._last >= SECONDS_A_MESSAGE:
            self._last = now
            logger.info("%s", self._message(now - self._start, measured))

    def _draw(self, measured: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # no thread of its own
            self._bar = tqdm(
                desc=self.what, total=self.total, initial=self._first, unit=f" {self.unit}", dynamic_ncols=True,
                leave=None,  # a nested bar disappears at its end
                mininterval=0.2, miniters=1, file=sys.stderr,
            )  # fmt: skip
            self._bar.start_t -= SECONDS_UNTIL_SHOWN
        if measured:
            self._bar.set_postfix_str(measured, refresh=False)
        self._bar.total = self.total
        self._bar.update(self.done - self._bar.n)

    def _message(self, seconds: float, measured: str) -> str:
        """Return e.g. ``"tagging: 1,200 of 5,000 images, 33 a second, 1 min 55 s left"``."""
        rate = (self.done - self._first) / seconds
        parts = [f"{self.what}: {self._count()}", f"{rate:.0f} a second" if rate >= 1 else f"{60 * rate:.0f} a minute"]
        if self.total is not None and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, measured] if measured else parts)

    def _count(self) -> str:
        total = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done:,}{total} {self.unit}"


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Log the start of work without countable steps, and every 30 seconds that it is still running."""
    logger.info("%s", what)
    start, ended = time.monotonic(), threading.Event()

    def remind() -> None:
        while not ended.wait(SECONDS_A_MESSAGE):
            logger.info("%s: %s so far", what, duration(time.monotonic() - start))

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
        logger.debug("%s: %.1f s", what, time.monotonic() - start)


def duration(seconds: float) -> str:
    """Return e.g. ``"3 min 20 s"``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"

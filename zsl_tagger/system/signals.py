"""Ctrl-C and SIGTERM end a long run in good order, at a place where it can end.

Python would raise KeyboardInterrupt anywhere, also where a lock between threads was just taken and then stays taken for
ever: the run would hang and never end.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class StopRequest:
    """Set by SIGTERM and SIGINT: what is in hand is finished first. A second SIGINT ends at once.

    Attributes:
        signal: the number of the signal that came; None before.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._at_once:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt, or ``Terminated``, where a signal came."""
        if self.signal is not None:
            raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def iterate(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; a signal that comes while the next one is waited for is raised at once."""
        waiting = iter(items)
        while True:
            self._at_once = True
            try:
                self.check()
                item = next(waiting)
            except StopIteration:
                return
            finally:
                self._at_once = False
            yield item


@contextmanager
def watching_signals() -> Iterator[StopRequest]:
    """Handle SIGTERM and SIGINT meanwhile (in the main thread; elsewhere Python cannot). What is ignored stays so."""
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, request)
    except ValueError:  # not the main thread
        pass
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

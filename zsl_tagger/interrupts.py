"""SIGTERM ends a command as Ctrl-C does: what is open is closed in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` meanwhile (in the main thread, elsewhere Python cannot; not where ignored)."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, _raise)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Terminated

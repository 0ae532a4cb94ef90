"""Ctrl-C and SIGTERM end a long run in good order, at a place where it can end.

Python would raise KeyboardInterrupt anywhere, also where a lock between threads was just taken and then stays taken for
ever: the run would hang and never end.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")

LAST_SECONDS = 2.0  # after a second Ctrl-C, to close files in good order


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
        """Yield the same items; a signal that comes while waiting for the next one is raised at once."""
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


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """End the process with status 130 soon after a second Ctrl-C, whatever its threads are doing.

    Python handles a signal between two steps of the main thread, never while a decoder runs there, and does not exit
    before the decoders of other threads end. But it writes each signal's number to a socket at once; a thread reads it.
    """
    if threading.current_thread() is not threading.main_thread():  # only there signals can be set up
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_on_second, args=[reader], daemon=True).start()
    _watched.add(writer)
    try:
        yield
    finally:
        _watched.remove(writer)
        signal.set_wakeup_fd(before)
        writer.close()  # which ends the thread, unless it is about to end the process


def _end_on_second(reader: socket.socket) -> None:
    interrupts = 0
    with reader:
        while numbers := reader.recv(64):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                time.sleep(LAST_SECONDS)
                os._exit(130)


_watched: set[socket.socket] = set()


def _forget_in_child() -> None:
    """Stop watching signals in a child process: a terminal sends Ctrl-C to it too, and it must count once."""
    if _watched:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

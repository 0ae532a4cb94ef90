"""Stop a long run on Ctrl-C or SIGTERM at a safe point.

Python raises KeyboardInterrupt anywhere, even right after a lock between threads was taken, which is then never
released and makes the run hang.
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

LAST_SECONDS = 2.0  # grace period after a second Ctrl-C, to close files


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


class StopRequest:
    """Flag set by SIGTERM and SIGINT, so that the current item is finished first. A second SIGINT stops at once.

    Attributes:
        signal: number of the signal received; None before.
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
        """Raise KeyboardInterrupt or ``Terminated`` if a signal was received."""
        if self.signal is not None:
            raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def iterate(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items unchanged; raise at once if a signal arrives while waiting for the next one."""
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
    """Handle SIGTERM and SIGINT inside the block (main thread only). Signals that are ignored stay ignored."""
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
    """Exit with status 130 soon after a second Ctrl-C, whatever the threads are doing.

    Python handles a signal only between bytecode steps of the main thread, never inside a decoder, and exits only after
    the decoders of other threads return. But it writes each signal number to a socket at once, which a thread reads.
    """
    if threading.current_thread() is not threading.main_thread():  # signal handlers work only there
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
        writer.close()  # ends the thread, unless it is already ending the process


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
    """Stop handling signals in a child process: the terminal sends Ctrl-C to it too, and it must count once."""
    if _watched:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

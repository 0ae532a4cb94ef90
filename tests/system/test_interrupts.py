"""Signals are heeded where a run can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from paths import ROOT

from zsl_tagger.system.signals import Terminated, second_interrupt_ends, watching_signals


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_waits_until_it_is_asked_for(number: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with watching_signals() as stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(error, match=r"^$"):
            stop.check()
        with pytest.raises(error, match=r"^$"):
            next(stop.iterate([1]))
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_waiting_for_an_item_ends_at_once(number: signal.Signals, error: type[BaseException]) -> None:
    """A list on stdin that never goes on."""

    def slow() -> Iterator[int]:
        yield 1
        signal.raise_signal(number)
        raise AssertionError("not stopped")

    with watching_signals() as stop:
        items = stop.iterate(slow())
        assert next(items) == 1
        with pytest.raises(error, match=r"^$"):
            next(items)


def test_a_second_ctrl_c_ends_at_once() -> None:
    with watching_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with watching_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_go_without() -> None:
    seen: list[list[int]] = []

    def run() -> None:
        with watching_signals() as stop:
            seen.append(list(stop.iterate([1, 2])))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [[1, 2]]


HANGS = {  # for a minute, without Python's lock, as a decoder does
    "in the main thread": "hashlib.pbkdf2_hmac('sha256', b'x', b'x', 10**9)",
    "waiting for a thread": "list(map_in_order(lambda _: ctypes.CDLL(None).sleep(60), range(4), 2))",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", HANGS)
def test_a_second_ctrl_c_ends_the_command_whatever_it_does(place: str) -> None:
    script = (
        "import ctypes, hashlib, cli\n"
        "from zsl_tagger.system import signals\n"
        "from zsl_tagger.system.threads import map_in_order\n"
        "signals.LAST_SECONDS = 0.3\n"
        "with cli._errors_in_one_line('stopped'), signals.watching_signals():\n"
        f"    print('hangs', flush=True)\n    {HANGS[place]}\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == "hangs\n"
            time.sleep(0.2)
            command.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
                command.wait(0.7)  # what is in hand is finished first
            command.send_signal(signal.SIGINT)
            assert command.wait(10) == 130
        finally:
            command.kill()


def test_interrupts_of_child_processes_are_not_counted() -> None:
    """A terminal sends Ctrl-C to all of them."""
    with second_interrupt_ends():
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        watched = signal.set_wakeup_fd(-1)
        assert watched != -1
        signal.set_wakeup_fd(watched)
    assert signal.set_wakeup_fd(-1) == -1

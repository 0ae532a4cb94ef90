"""Signals are heeded where a run can end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from zsl_tagger.system.signals import Terminated, watching_signals


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

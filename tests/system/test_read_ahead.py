"""Items that a thread reads ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from zsl_tagger.system.read_ahead import ReadAhead


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_total_is_known_before_the_items_are_used() -> None:
    ahead = ReadAhead(range(1000))
    assert ahead.total is None
    with ahead as items:
        assert next(items) == 0
        until(lambda: ahead.total == 1000)
        assert list(items) == list(range(1, 1000))


def test_no_more_items_wait_than_may() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with ReadAhead(numbers(), most=5) as items:
        until(lambda: len(read) == 6)  # one more is in the hand of the thread
        time.sleep(0.05)
        assert len(read) == 6
        assert list(items) == list(range(100))


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise ValueError("no more")

    ahead = ReadAhead(broken())
    with ahead as items:
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="no more"):
            next(items)
    assert ahead.total is None


def test_the_thread_ends_with_the_run() -> None:
    before = threading.active_count()
    with ReadAhead(iter(int, 1), most=3) as items:
        assert next(items) == 0
    until(lambda: threading.active_count() == before)

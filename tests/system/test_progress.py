"""The progress bar, its messages where there is no terminal, and ``--quiet``."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest

from zsl_tagger.system import progress as module
from zsl_tagger.system.messages import OneLine
from zsl_tagger.system.progress import Progress, duration, phase


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_message_every_thirty_seconds_says_what_is_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("tagging", 5000, done=200) as progress:
        for _ in progress.over(range(100)):
            clock.now += 0.7
    assert [record.message for record in caplog.records] == [
        "tagging: 243 of 5,000 images, 1 a second, 55 min 30 s left",
        "tagging: 286 of 5,000 images, 1 a second, 55 min 0 s left",
    ]


def test_slow_work_without_a_total(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("training", unit="steps") as progress:
        clock.now += 40
        progress.update(3, "loss 3.2")
    assert [record.message for record in caplog.records] == ["training: 3 steps, 4 a minute, loss 3.2"]


def test_an_interrupted_run_says_how_many_are_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def interrupted() -> None:
        with Progress("tagging", 7) as progress:
            for number in progress.over(range(7)):
                if number == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [record.message for record in caplog.records] == ["tagging stopped: 3 of 7 images done"]


def test_a_bar_on_a_terminal_with_rate_and_time_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("tagging", 11) as progress:
        for number in progress.over(range(7)):
            clock.now += 0.5
            if number == 4:
                OneLine().emit(logging.makeLogRecord({"msg": "a twin\nwas skipped", "levelno": logging.INFO}))
        progress.update(7, "loss 3.2")
    shown = terminal.getvalue()
    assert re.search(r"tagging: .* 7/11 .*loss 3.2", shown)
    assert "\rnote: a twin\\nwas skipped\n" in shown


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_in_the_first_second_and_nothing_when_quiet(
    quiet: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.WARNING if quiet else logging.INFO)
    with Progress("tagging", 11) as progress:
        for _ in progress.over(range(11)):
            clock.now += 1 if quiet else 0.05
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (7290, "2 h 1 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_work_that_cannot_be_counted_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "SECONDS_A_MESSAGE", 0.05)
    with phase("exporting"):
        time.sleep(0.2)
    assert caplog.messages[:2] == ["exporting", "exporting: 0 s so far"]
    count = len(caplog.messages)
    time.sleep(0.1)
    assert len(caplog.messages) == count


def test_where_the_run_prints_on_the_terminal_there_is_no_bar_but_a_count(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def interrupted() -> None:
        with Progress("tagging", bar=False) as progress:
            for _ in progress.over(range(7)):
                clock.now += 40
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue() == ""
    assert caplog.messages == ["tagging stopped: 7 images done"]

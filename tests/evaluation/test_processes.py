"""Evaluation over several processes: the same bytes as one, and no process outlives the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from made_data import run_command, write_photo
from paths import ROOT

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation import processes
from zsl_tagger.evaluation.processes import Compute, Scorer, score_images
from zsl_tagger.evaluation.scoring import PARTIAL_FILES
from zsl_tagger.tagging.tagger import Tagger

LABELS = ["cat", "sky", "table"]
CAT = "targets.csv"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, one of them unreadable, and their targets."""
    folder = tmp_path_factory.mktemp("photos")
    lines = ["image,cat,sky,table"]
    for number in range(20):
        write_photo(folder / f"{number:02d}.jpg", number)
        lines.append(f"{number:02d}.jpg,{number % 2},{number % 3 == 0:d},1")
    (folder / "07.jpg").write_bytes(b"no photo")
    (folder / CAT).write_text("\n".join(lines))
    return folder


def test_less_than_one_process_is_refused() -> None:
    with pytest.raises(UserError, match="expected --processes of at least 1, got 0"):
        Compute(processes=0)


def test_a_device_that_is_not_there_is_an_error_in_one_line(examples: Path) -> None:
    data = ("--targets", examples / CAT, "--images", examples, "--device", "cuda")
    status, stdout, stderr = run_command("evaluate", "--model", "packaged", *data)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: device cuda is not available, only cpu: ")


@pytest.mark.slow
def test_several_processes_give_the_bytes_of_one(photos: Path) -> None:
    paths = [str(photos / f"{number:02d}.jpg") for number in range(20)]
    one, many = Compute(workers=2), Compute(workers=2, processes=2)
    scorer = Scorer(one.tagger(Tagger().folder.path), LABELS)
    expected, found = (list(score_images(scorer, paths, compute)) for compute in (one, many))
    assert [type(each) for each in found] == [type(each) for each in expected]
    assert found[7] == expected[7]
    arrays = [[each for each in side if not isinstance(each, str)] for side in (expected, found)]
    assert np.array(arrays[0]).tobytes() == np.array(arrays[1]).tobytes()
    assert len(arrays[0]) == 19


def _dies(paths: list[str], threads: int) -> None:  # noqa: ARG001
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_in_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_score_task", _dies)
    status, stdout, stderr = run_command(*arguments(photos), "--processes", 2)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: a process that scores images has died, perhaps for lack of memory: give fewer")
    assert stderr.count("\n") == 1


def arguments(photos: Path) -> list[object]:
    return ["evaluate", "--model", "packaged", "--targets", photos / CAT, "--images", photos, "--resamples", 0]


DRIVER = """
import sys, time
from zsl_tagger.evaluation import processes, scoring
scoring.SAVE_EVERY = 1
encode = processes.Tagger.encode
def slow(self, image):
    time.sleep(0.2)
    return encode(self, image)
processes.Tagger.encode = slow
import cli
if __name__ == "__main__":
    cli.app()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_processes_end_with_the_command_and_another_goes_on(
    photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    driver, out = tmp_path / "driver.py", tmp_path / "out"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), *map(str, arguments(photos)), "-o", str(out), "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    state = out / PARTIAL_FILES[1]
    await_(lambda: state.exists() and json.loads(state.read_text())["done"] >= 1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(number)
    _, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stderr
    await_(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    done = json.loads(state.read_text())["done"]
    assert 1 <= done < 20
    status, text, stderr = run_command(*arguments(photos), "-o", out, "--processes", 1)
    assert status == 0, stderr
    assert "19 images" in text
    assert not state.exists()


def await_(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # of a busy machine
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""``zsl-tagger prepare`` as a person types it: what is printed, what a kill or a full disk leaves."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_data import NusArchive, write_lines, write_photo
from paths import ROOT
from typer.testing import CliRunner

import cli
from zsl_tagger.datasets.read import load_dataset

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "cli", "prepare"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    result = CliRunner().invoke(cli.app, ["prepare", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def make_tree(folder: Path, count: int = 12) -> Path:
    for seed in range(count):
        write_photo(folder / ("cat" if seed % 2 else "dog") / f"{seed:03d}.jpg", seed)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_nus_wide_tells_what_it_did(tmp_path: Path) -> None:
    NusArchive(tmp_path / "raw")
    options = ["--allow-subset", "--val-fraction", "0.3"]
    status, out, err = run("nus-wide", "--source", tmp_path / "raw", "--output", tmp_path / "out", *options)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: NUS-WIDE 925/81, multi-label"
    assert lines[2].startswith("  protocol mld of: mld train ")
    assert "lesa train " in lines[2]
    assert "  labels: 5 seen, 3 unseen" in lines
    assert lines[-1] == f"  look at {tmp_path / 'out' / 'split_report.html'}"
    assert run("check", tmp_path / "out", "--images", tmp_path / "raw" / "Flickr")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nus-wide", "--source", "gone", "--output", "out"],
            "error: no folder at gone: expected the unpacked NUS-WIDE",
        ),
        (["coco", "--source", ".", "--output", "out"], "error: . has neither annotations/instances_train2014.json"),
        (
            ["voc", "--source", ".", "--output", "out"],
            "error: . has no folder VOC2007 or VOC2012 with ImageSets/Main",
        ),
        (["mirflickr", "--source", ".", "--output", "out"], "error: . has no annotation such as mirflickr25k_annota"),
        (["lvis", "--source", ".", "--output", "out"], "error: . lacks annotations/lvis_v1_train.json: unpack"),
        (["visual-genome", "--source", ".", "--output", "out"], "error: there is no image_data.json: unpack"),
        (["open-images", "--source", ".", "--output", "out"], "error: . lacks oidv7-train-annotations-human"),
        (["folders", "--source", "gone", "--output", "out"], "error: no folder at gone"),
        (
            ["folders", "--source", ".", "--output", "out", "--val-fraction", "2"],
            "error: expected --val-fraction of at",
        ),
        (["table", "--source", "gone.csv", "--output", "out"], "error: no file at gone.csv"),
        (["wordvecs", "--labels", "gone.txt"], "error: cannot read the labels file gone.txt"),
        (["report", "gone"], "error: gone is not a valid data set folder: gone: no such folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_check_tells_every_problem_and_fails(tmp_path: Path) -> None:
    make_tree(tmp_path / "in")
    assert run("folders", "--source", tmp_path / "in", "--output", tmp_path / "out")[0] == 0
    status, out, _ = run("check", tmp_path / "out", "--images", tmp_path / "in")
    assert status == 0
    assert out.endswith(
        "valid. Images: train 9, val 1, test 2; labels: 2 seen, 0 unseen; word vectors of 256 dimensions\n"
    )
    data = tmp_path / "out" / "data.csv"
    data.write_text(data.read_text().replace("[cat]", "[lion]", 1))
    (tmp_path / "in" / "dog" / "000.jpg").unlink()
    status, out, _ = run("check", tmp_path / "out", "--images", tmp_path / "in")
    assert status == 1
    assert "error: data.csv: its sha256 differs from dataset.json: it was changed after prepare wrote it" in out
    assert "'lion' is neither a seen nor an unseen label" in out
    assert out.splitlines()[-1].startswith(f"{tmp_path / 'out'}: not valid, ")


def test_wordvecs_tells_how_each_label_was_found(tmp_path: Path) -> None:
    write_lines(tmp_path / "labels.txt", ["dog", "Dining-Table", "cats", "red bicycle", "qwzx"])
    target = tmp_path / "vectors.pth"
    arguments: list[str | Path] = [
        "wordvecs",
        "--labels",
        tmp_path / "labels.txt",
        "--output",
        target,
        "--missing",
        "drop",
    ]
    status, out, _ = run(*arguments)
    assert status == 0
    assert out.splitlines() == [
        f"{target}: 4 labels, 256 wide, from packaged: lower-cased 1, singular 1, as is 1, averaged 1, "
        "not found, dropped 1",
        "  Dining-Table: lower-cased (dining table)",
        "  cats: singular (cat)",
        "  red bicycle: averaged (red + bicycle)",
        "  qwzx: not found, dropped",
    ]
    status, _, err = run(*arguments)
    assert status == 2
    assert "exists: give another name, or --overwrite" in err


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    make_tree(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    status, _, err = run("folders", "--source", tmp_path / "in", "--output", tmp_path / "out")
    assert status == 2
    assert "contains other files (thesis.tex): give an empty or new folder, or --overwrite" in err
    assert contents(tmp_path / "out") == {"thesis.tex": b"years of work"}


def test_another_data_set_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    source, out = make_tree(tmp_path / "in"), tmp_path / "out"
    assert run("folders", "--source", source, "--output", out)[0] == 0
    before = contents(out)
    status, _, err = run("folders", "--source", source, "--output", out, "--unseen", "cat")
    assert status == 2
    assert "contains another data set (unseen: '', requested 'cat'): give another folder, or --overwrite" in err
    assert contents(out) == before
    assert run("folders", "--source", source, "--output", out)[0] == 0  # the same once more
    assert contents(out) == before
    assert run("folders", "--source", source, "--output", out, "--unseen", "cat", "--overwrite")[0] == 0
    assert json.loads((out / "benchmark.json").read_text())["test class"] == ["cat"]


def test_a_report_can_be_made_anew_and_is_the_same(tmp_path: Path) -> None:
    make_tree(tmp_path / "in")
    assert run("folders", "--source", tmp_path / "in", "--output", tmp_path / "out", "--unseen", "cat")[0] == 0
    before = contents(tmp_path / "out")
    for name in ("split_report.json", "split_report.html"):
        (tmp_path / "out" / name).unlink()
    assert run("report", tmp_path / "out")[0] == 0
    assert contents(tmp_path / "out") == before


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """In an interpreter that cannot import scipy, as after a base install."""
    code = "import sys; sys.modules['scipy'] = None; import cli; cli.app()"
    result = subprocess.run(
        [sys.executable, "-c", code, "prepare", "folders", "--source", str(tmp_path), "--output", "out"],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == 'error: scipy is not installed: in a clone of zsl-tagger, run pip install ".[train]"\n'


# --- kills and full disks ---------------------------------------------------------------------------------------


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, "folders", "--source", str(source), "--output", str(out), "--workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300  # of a busy machine
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Killed while it looks at the images, then while it writes; never is the folder taken for a whole one."""
    source = make_tree(tmp_path / "in", 240)
    assert start(source, tmp_path / "undisturbed").wait(300) == 0
    out = tmp_path / "out"
    journal = out / "images.jsonl"
    process = start(source, out)
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert not (out / "dataset.json").exists()
    assert run("check", out)[0] == 1
    kept = journal.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]

    process = start(source, out)
    wait_for(lambda: (out / "data.csv").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert journal.read_bytes().startswith(kept)  # what was looked at was not looked at again
    if (out / "dataset.json").exists():  # it was done already
        assert run("check", out)[0] == 0
    else:
        assert run("check", out)[0] == 1

    assert start(source, out).wait(300) == 0
    undisturbed = contents(tmp_path / "undisturbed")
    assert contents(out) == undisturbed
    assert load_dataset(out).info["images"] == {"train": 168, "val": 24, "test": 48}


def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "in", 240)
    process = start(source, tmp_path / "out")
    journal = tmp_path / "out" / "images.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    done, interrupted = err.splitlines()
    assert re.fullmatch(r"note: looking at stopped: \d+ of 240 images done", done)
    assert (
        interrupted
        == "interrupted: no half-written file was left; run the same command again to continue where it stopped"
    )


@pytest.mark.parametrize(("images", "limit"), [(40, 3_000), (12, 6_000)])
def test_a_full_disk_is_said_and_nothing_half_written_is_left(images: int, limit: int, tmp_path: Path) -> None:
    """No file may grow beyond the limit: the journal of 40 images cannot, or the report's page."""
    source = make_tree(tmp_path / "in", images)
    out = tmp_path / "out"
    result = subprocess.run(
        [*COMMAND, "folders", "--source", str(source), "--output", str(out)],
        capture_output=True, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: cannot write {out}")
    assert "File too large" in result.stderr
    assert "to continue where it stopped" in result.stderr
    assert not (out / "dataset.json").exists()
    assert not [path for path in out.iterdir() if path.name.endswith(".writing")]
    assert run("folders", "--source", source, "--output", out)[0] == 0
    assert load_dataset(out)

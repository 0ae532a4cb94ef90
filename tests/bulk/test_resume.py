"""``tag --resume`` as a person uses it: killed at any moment, started twice at once, photos changed in between.

The photos are files of some bytes: ``quick_tagger.py`` stands for the network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import quick_tagger
from made_data import run_command
from paths import ROOT
from read_back import read_back

from zsl_tagger.records.writers import LASTING
from zsl_tagger.tagging import onnx_model
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.slow


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # of a busy machine
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


LABELS = "cat,dog,cup,sky,tree,car,boat"


class Library:
    """A folder of files that stand for photos, and the command over it."""

    def __init__(self, folder: Path, count: int = 0):
        self.folder, self.photos = folder, folder / "photos"
        self.photos.mkdir()
        for number in range(count):
            self.put(f"{number:03d}.jpg", number)

    def put(self, name: str, number: int) -> None:
        (self.photos / name).write_bytes(bytes([number % 256]) + f" photo {number}".encode())

    def start(self, *options: object, seconds: float = 0.0, code: str = "") -> subprocess.Popen[str]:
        """The command in another process, after some ``code``."""
        run = f"import runpy\n{code}\nrunpy.run_module('quick_tagger', run_name='__main__')"
        command = [sys.executable, "-c", run, "tag", "photos", "--labels", LABELS, *map(str, options)]
        path = os.pathsep.join([str(ROOT / "tests" / "helpers"), str(ROOT)])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "ASKED": "asked.txt",
            "SECONDS": str(seconds),
            "HOLD": "hold.txt",
        }
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def tag(self, *options: object) -> tuple[int, list[str]]:
        """The command in this process: exit status, and what stderr said."""
        status, _, err = run_command("tag", "photos", "--labels", LABELS, *options)
        return status, err.splitlines()

    def wait_until_asked(self, count: int) -> None:
        wait_until(lambda: len(self.asked_so_far()) >= count)

    def asked_so_far(self) -> list[str]:
        file = self.folder / "asked.txt"
        return file.read_text().split() if file.exists() else []

    def asked(self) -> list[str]:
        """The photos that the network was asked for since the last call."""
        names = self.asked_so_far()
        (self.folder / "asked.txt").unlink(missing_ok=True)
        return names

    def tags(self, kind: str, name: str) -> dict[str, list[str]]:
        """Labels of each photo in an output."""
        records = read_back(kind, self.folder / name)
        found = {
            record["path"]: ["error"] if "error" in record else [tag["label"] for tag in record["tags"]]
            for record in records
        }
        assert len(found) == len(records)
        return found


@pytest.fixture(params=LASTING)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=300)


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick tagger in this process too, in its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASKED", "asked.txt")
    monkeypatch.setenv("SECONDS", "0")
    monkeypatch.setattr(onnx_model, "OnnxModel", quick_tagger.NoNetworks)
    monkeypatch.setattr(Tagger, "encode", quick_tagger.encode)
    monkeypatch.setattr(Tagger, "tag_encoded", quick_tagger.tag_encoded)


#: Photos that a run may have asked for and not written: in work, or waiting for one before them.
IN_HAND = 2 * len(os.sched_getaffinity(0)) + 1


# --- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_here")
def test_killed_at_any_moment_it_goes_on_to_the_same_output(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 200)
    assert library.tag("--output", "whole.out", "--format", kind) == (0, [])
    assert len(library.asked()) == 200
    asked, random = 0, Random(kind)
    for _ in range(3):
        process = library.start("--output", "tags.out", "--format", kind, "--resume", seconds=0.01)
        with running(process):
            library.wait_until_asked(asked + random.randrange(60))
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=300)
        assert process.returncode == -signal.SIGKILL
        asked = len(library.asked_so_far())
    assert library.tag("--output", "tags.out", "--format", kind, "--resume")[0] == 0
    if kind in ("jsonl", "csv"):
        assert (tmp_path / "tags.out").read_bytes() == (tmp_path / "whole.out").read_bytes()
    assert list(library.tags(kind, "tags.out").items()) == list(library.tags(kind, "whole.out").items())
    assert 200 <= len(library.asked()) <= 200 + 3 * IN_HAND


@pytest.mark.usefixtures("_here")
def test_killed_while_the_parquet_file_is_made(tmp_path: Path) -> None:
    library = Library(tmp_path, 20)
    assert library.tag("--output", "tags.parquet") == (0, [])
    library.put("new.jpg", 25)
    library.asked()
    stuck = "import time, zsl_tagger.records.parquet as p; p.write = lambda *_: (open('stuck', 'w'), time.sleep(60))"
    with running(library.start("--output", "tags.parquet", "--resume", code=stuck)):
        wait_until((tmp_path / "stuck").exists)
    assert len(library.tags("parquet", "tags.parquet")) == 20
    assert library.tag("--output", "tags.parquet", "--resume") == (0, ["note: done already and skipped: 21"])
    assert len(library.tags("parquet", "tags.parquet")) == 21
    assert library.asked() == ["new.jpg"]


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_the_output_and_resume_goes_on(kind: str, number: int, status: int, tmp_path: Path) -> None:
    library = Library(tmp_path, 60)
    with running(library.start("--output", "tags.out", "--format", kind, seconds=0.05)) as process:
        library.wait_until_asked(IN_HAND + 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == status
    written = library.tags(kind, "tags.out")
    assert err.splitlines() == [
        f"note: tagging stopped: {len(written)} of 60 images done",
        "interrupted: everything written so far is complete and readable; with --output, add --resume to continue",
    ]
    assert 1 <= len(written) < 60
    library.asked()
    assert library.tag("--output", "tags.out", "--format", kind, "--resume")[0] == 0
    assert len(library.asked()) == 60 - len(written)
    assert list(library.tags(kind, "tags.out")) == [f"photos/{number:03d}.jpg" for number in range(60)]


# --- what changed in between --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_here")
def test_new_renamed_copied_changed_and_broken_photos(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 6)
    (library.photos / "folder.jpg").symlink_to("nowhere")
    options = ["--output", "tags.out", "--format", kind]
    assert library.tag(*options)[0] == 1
    assert len(library.asked()) == 6
    (library.photos / "000.jpg").rename(library.photos / "renamed.jpg")
    (library.photos / "copied.jpg").write_bytes((library.photos / "001.jpg").read_bytes())
    library.put("002.jpg", 5)  # what 005.jpg is
    library.put("003.jpg", 13)
    library.put("new.jpg", 20)
    status, told = library.tag(*options, "--resume")
    assert (status, told) == (1, ["note: done already and skipped: 3"])
    assert sorted(library.asked()) == ["003.jpg", "new.jpg"]
    found = library.tags(kind, "tags.out")
    names = LABELS.split(",")
    assert {path.removeprefix("photos/"): len(tags) for path, tags in found.items() if path[-10:] != "folder.jpg"} == {
        "000.jpg": 0, "001.jpg": 1, "002.jpg": 5, "003.jpg": 13 % 7, "004.jpg": 4, "005.jpg": 5, "renamed.jpg": 0,
        "copied.jpg": 1, "new.jpg": 20 % 7,
    }  # fmt: skip
    assert all(tags == names[: len(tags)] for path, tags in found.items() if path[-10:] != "folder.jpg")
    assert found["photos/folder.jpg"] == ["error"]
    (library.photos / "folder.jpg").unlink()
    library.put("folder.jpg", 3)
    assert library.tag(*options, "--resume")[0] == 0
    assert library.tags(kind, "tags.out")["photos/folder.jpg"] == names[:3]
    assert library.tag(*options, "--resume") == (0, ["note: done already and skipped: 9"])


@pytest.mark.usefixtures("_here")
def test_sidecars_of_photos_that_are_done_come_from_the_known_tags(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 3)
    options = ["--output", "tags.out", "--format", kind]
    library.tag(*options)
    before = library.tags(kind, "tags.out")
    library.asked()
    assert library.tag(*options, "--resume", "--sidecar", "txt") == (0, ["note: sidecars: 2 new, 1 unchanged"])
    assert library.asked() == []
    assert "dog" in (library.photos / "002.jpg.txt").read_text().split()
    assert library.tags(kind, "tags.out") == before


@pytest.mark.usefixtures("_here")
def test_other_settings_are_refused(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 3)
    options = ["--output", "tags.out", "--format", kind]
    library.tag(*options)
    before = (tmp_path / "tags.out").read_bytes()
    for more, told in [
        (["--top-k", "2"], "top-k: None, requested 2"),
        (["--threshold", "0.25"], "threshold: \"each label's own ("),
        (["--exclude", "cat"], "labels: \"'boat', 'car', 'cat', 'cup', 'dog' and 2 more ("),
    ]:
        status, err = library.tag(*options, "--resume", *more)
        assert status == 2
        assert len(err) == 1
        assert f"tags.out was written with other settings ({told}" in err[0]
        assert err[0].endswith("use the same settings, another --output, or --overwrite")
    assert (tmp_path / "tags.out").read_bytes() == before


# --- two at once --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_here")
def test_a_second_run_to_the_same_output_is_refused(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 200)
    (tmp_path / "link.out").symlink_to("tags.out")
    with running(library.start("--output", "tags.out", "--format", kind, seconds=0.01)) as first:
        library.wait_until_asked(IN_HAND + 5)
        (tmp_path / "hold.txt").touch()
        for options in ([], ["--resume"], ["--overwrite"]):
            status, told = library.tag("--output", "link.out", "--format", kind, *options)
            assert (status, len(told)) == (2, 1)
            assert told[0].endswith("tags.out: another run is writing to it: wait for it, or give another file")
            assert first.poll() is None
        (tmp_path / "hold.txt").unlink()
        first.communicate(timeout=300)
    assert first.returncode == 0
    assert len(library.tags(kind, "tags.out")) == 200


def test_two_runs_over_the_same_photos_to_two_outputs(tmp_path: Path) -> None:
    library = Library(tmp_path, 50)
    first, second = (library.start("--output", f"{name}.jsonl", seconds=0.005) for name in "ab")
    with running(first), running(second):
        for process in (first, second):
            process.communicate(timeout=300)
            assert process.returncode == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len(library.tags("jsonl", "a.jsonl")) == 50


def test_many_at_once_leave_one_whole_output(tmp_path: Path) -> None:
    """Whoever comes while another one ends; the lock is handed on without a gap."""
    library = Library(tmp_path, 20)
    processes = [library.start("--output", "tags.jsonl", "--resume", seconds=0.001) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=300)
    assert {process.returncode for process in processes} <= {0, 2}
    assert len(library.tags("jsonl", "tags.jsonl")) == 20
    assert {path.name for path in tmp_path.glob(".*")} == set()


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_here")
def test_a_full_disk_is_told_and_resume_goes_on(kind: str, tmp_path: Path) -> None:
    library = Library(tmp_path, 300)
    limit = 100_000 if kind == "sqlite" else 20_000
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = library.start("--output", "tags.out", "--format", kind, code=code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error: cannot write ")
    library.asked()
    assert library.tag("--output", "tags.out", "--format", kind, "--resume")[0] == 0
    assert len(library.tags(kind, "tags.out")) == 300
    assert 1 <= len(library.asked()) < 300


@pytest.mark.usefixtures("_here")
def test_parquet_without_pyarrow_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path, 3)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = 'error: pyarrow is not installed: in a clone of zsl-tagger, run pip install ".[parquet]"'
    assert library.tag("--output", "tags.parquet") == (2, [message])
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume needs an --output FILE in jsonl, csv, parquet, sqlite, got table"),
        (
            ["--resume", "-o", "a.json"],
            "--resume needs an --output FILE in jsonl, csv, parquet, sqlite, got json",
        ),
        (["--resume", "--overwrite", "-o", "a.csv"], "give --resume or --overwrite, not both"),
        (["--format", "sqlite"], "sqlite cannot be printed: give --output FILE"),
        (["--format", "parquet", "-o", "/dev/null"], "cannot write --output /dev/null: parquet needs a regular file"),
        (["-o", "folder"], "cannot write --output folder: it is a folder, expected a file"),
        (["-o", "gone/a.jsonl"], "cannot write --output gone/a.jsonl: No such file or directory"),
        (["-o", "gone/a.db"], "cannot write --output gone/a.db: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    options: list[str], message: str, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert run_command("tag", examples / "cat.jpg", "--labels", "cat", *options) == (2, "", f"error: {message}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jsonl", "jsonl"), ("a.CSV", "csv"), ("a.parquet", "parquet"), ("a.sqlite", "sqlite"), ("a.db", "sqlite")],
)
def test_the_suffix_says_the_format(name: str, kind: str, examples: Path, tmp_path: Path) -> None:
    arguments = ["tag", examples / "cat.jpg", "--labels", "cat,dog", "--output", tmp_path / name]
    assert run_command(*arguments) == (0, "", "")
    (record,) = read_back(kind, tmp_path / name)
    assert (record["path"], [tag["label"] for tag in record["tags"]]) == (str(examples / "cat.jpg"), ["cat"])
    assert len(record["sha256"]) == 64
    assert run_command(*arguments, "--resume") == (0, "", "note: done already and skipped: 1\n")
    assert read_back(kind, tmp_path / name) == [record]


def test_a_long_output_is_not_replaced_unasked(examples: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    output.write_bytes(b"x" * 200_000)
    arguments = ["tag", examples / "cat.jpg", "--labels", "cat", "--output", output]
    message = f"error: {output} already exists, 200,000 bytes: --resume continues it, --overwrite replaces it\n"
    assert run_command(*arguments) == (2, "", message)
    assert output.stat().st_size == 200_000
    assert run_command(*arguments, "--overwrite")[0] == 0
    assert len(read_back("jsonl", output)) == 1
    assert run_command(*arguments)[0] == 0  # a short one is, as ever

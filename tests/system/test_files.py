"""zsl_tagger/system/files.py: a folder that one run at a time writes to, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from paths import ROOT

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import locked, locked_file, sha256_of, whole_folder, write_whole

pytest.importorskip("fcntl", reason="locks are the system's")

REFUSED = "another run is writing here: wait for it, or give another folder"

#: Holds the lock, says so, and waits; of a forked child it says the number first.
HOLD = """
import os, sys, time
from pathlib import Path
from zsl_tagger.system.files import locked
with locked(Path(sys.argv[1])):
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(child)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_process(folder: Path, *words: str, code: str = HOLD) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """One that holds the lock, and what it said; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    said: list[str] = []
    try:
        assert process.stdout is not None
        while not said or said[-1] not in ("held", ""):
            said.append(process.stdout.readline().strip())
        assert said[-1] == "held"
        yield process, said
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for number in said[:-1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)


def test_another_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with another_process(tmp_path) as (process, _):
        with pytest.raises(UserError, match=REFUSED), locked(tmp_path):
            pass
        with locked(tmp_path / "other"):  # a folder of its own
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


def test_a_child_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path: Path) -> None:
    with another_process(tmp_path, "fork") as (process, said):
        with pytest.raises(UserError, match=REFUSED), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(int(said[0]), 0)  # the child lives
        for _ in range(100):  # until it has come so far as to let go
            with contextlib.suppress(UserError), locked(tmp_path):
                return
            time.sleep(0.05)
        pytest.fail("the child holds its parent's lock")


def test_a_child_that_dies_does_not_free_its_parents_lock(tmp_path: Path) -> None:
    with another_process(tmp_path, "fork") as (_, said):
        os.kill(int(said[0]), signal.SIGKILL)
        with pytest.raises(UserError, match=REFUSED), locked(tmp_path):
            pass


def test_a_second_run_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(UserError, match=f"^{tmp_path}: {REFUSED}$"), locked(tmp_path):
            pass
        with pytest.raises(UserError, match=REFUSED), locked(tmp_path):  # being refused frees nothing
            pass
    with locked(tmp_path):
        pass


def test_the_lock_goes_with_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="by zero"), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("this system does not list them")
    before = len(list(folder.iterdir()))
    for _ in range(7):
        with locked(tmp_path), pytest.raises(UserError, match=REFUSED), locked(tmp_path):
            pass
    assert len(list(folder.iterdir())) == before


# --- the lock of a file -------------------------------------------------------------------------------------------

FILE_REFUSED = "another run is writing to it: wait for it, or give another file"

HOLD_FILE = HOLD.replace("locked", "locked_file")


def test_a_locked_file_is_refused_until_its_holder_has_died(tmp_path: Path) -> None:
    with another_process(tmp_path / "a.csv", code=HOLD_FILE) as (process, _):
        with pytest.raises(UserError, match=f"a.csv: {FILE_REFUSED}$"), locked_file(tmp_path / "a.csv"):
            pass
        with locked_file(tmp_path / "b.csv"):
            pass
        process.kill()
        process.wait()
        assert (tmp_path / ".a.csv.lock").exists()
        with locked_file(tmp_path / "a.csv"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_locked_file_may_be_replaced(tmp_path: Path) -> None:
    with locked_file(tmp_path / "a.csv"):
        write_whole(tmp_path / "a.csv", b"new")
        with pytest.raises(UserError, match=FILE_REFUSED), locked_file(tmp_path / "a.csv"):
            pass
    with locked_file(tmp_path / "a.csv"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


COUNT_UP = """
import sys
from pathlib import Path
from zsl_tagger.errors import UserError
from zsl_tagger.system.files import locked_file
path, done = Path(sys.argv[1]), 0
while done < 200:
    try:
        with locked_file(path):
            path.write_text(str(int(path.read_text()) + 1))
            done += 1
    except UserError:
        pass
"""


@pytest.mark.slow
def test_the_lock_is_handed_on_without_a_gap(tmp_path: Path) -> None:
    """Its file is removed by one process while others open it: never do two of them hold it."""
    path = tmp_path / "count.txt"
    path.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT_UP, str(path)], cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert path.read_text() == "600"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = b"0123456789" * 300_007
    (tmp_path / "large").write_bytes(large)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(large).hexdigest()


@pytest.mark.parametrize("to_disk", [True, False])
def test_a_file_is_written_whole(tmp_path: Path, to_disk: bool) -> None:
    write_whole(tmp_path / "a.txt", b"old", to_disk)
    write_whole(tmp_path / "a.txt", lambda file: file.write(b"new"), to_disk)
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (
            OSError(28, "No space left on device"),
            UserError,
            "cannot write .*a.txt: No space left on device. No half-written file",
        ),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ],
)
def test_what_was_there_stays_when_writing_fails(
    tmp_path: Path, error: BaseException, told: type[BaseException], message: str
) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    write_whole(tmp_path / "a.txt", b"old")
    with pytest.raises(told, match=message):
        write_whole(tmp_path / "a.txt", fail)
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "of a killed run"])
def test_a_folder_appears_when_it_is_whole(before: str, tmp_path: Path) -> None:
    path = tmp_path / "more" / "model"
    if before == "an empty folder":
        path.mkdir(parents=True)
    elif before == "of a killed run":
        (path.parent / ".model.writing").mkdir(parents=True)
        (path.parent / ".model.writing" / "old.txt").write_text("old")
    with whole_folder(path) as folder:
        (folder / "new.txt").write_text("new")
        assert not (path / "new.txt").exists()
    assert [file.name for file in path.iterdir()] == ["new.txt"]
    assert [file.name for file in path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("there", ["a file", "a folder with a file"])
def test_a_folder_takes_no_others_place(there: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    mine = path if there == "a file" else path / "notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    message = "model already exists: give a new or empty folder"
    with pytest.raises(UserError, match=message), whole_folder(path):
        pass
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, OSError])
def test_a_folder_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "half.txt").write_text("half")
            raise error("the reason")

    with pytest.raises(UserError if error is OSError else error, match="the reason"):
        fail()
    assert list(tmp_path.iterdir()) == []

"""The folder a run writes: nobody else's is touched, and a file is there whole or not at all, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from paths import ROOT

from data_prep.output import OutputFolder, json_bytes, write_whole
from zsl_tagger.datasets.format import CLAIM_FILE
from zsl_tagger.errors import UserError

IDENTITY: dict[str, Any] = {"prepare": "folders", "source": "/photos", "unseen": "", "seed": 0, "val_fraction": 0.1}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def finished(folder: Path, identity: dict[str, Any]) -> None:
    """A folder with two files that a run has finished."""
    out = OutputFolder(folder, identity)
    with out.claimed():
        out.start_replacing()
        out.write("data.csv", b"path,labels,split\n")
        out.write_json("benchmark.json", {"test class": []})
        out.finish({"format_version": 1})


def claimed(folder: Path, identity: dict[str, Any], overwrite: bool = False) -> OutputFolder:
    """A folder in which a run was stopped before it wrote anything."""
    out = OutputFolder(folder, identity, overwrite)
    with out.claimed():
        pass
    return out


# --- whose folder it is -------------------------------------------------------------------------------------------


def test_a_new_folder_is_claimed(tmp_path: Path) -> None:
    assert not OutputFolder(tmp_path / "a" / "b" / "out", IDENTITY).path.exists()  # asking costs nothing
    out = claimed(tmp_path / "a" / "b" / "out", IDENTITY)
    assert out.path == tmp_path / "a" / "b" / "out"
    assert not out.resumed
    assert {name: json.loads(content) for name, content in contents(out.path).items()} == {CLAIM_FILE: IDENTITY}


def test_an_empty_folder_is_claimed_though_it_has_hidden_files(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"of the file manager")
    assert not OutputFolder(tmp_path, IDENTITY).resumed
    assert contents(tmp_path)[".DS_Store"] == b"of the file manager"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["thesis.tex"], r"thesis\.tex"),
        (["b.txt", "a.txt", "c.txt"], r"a\.txt, b\.txt, c\.txt"),
        (["d", "b", "a", "c"], r"a, b, c, \.\.\."),
        (["dataset.json"], r"dataset\.json"),  # but no word of who prepared it
    ],
)
def test_other_files_are_left_alone(names: list[str], told: str, tmp_path: Path) -> None:
    for name in [*names, ".data.csv.writing"]:
        (tmp_path / name).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(
        UserError,
        match=rf"^/.* contains other files \({told}\): give an empty or new folder, or --overwrite$",
    ):
        OutputFolder(tmp_path, IDENTITY)
    assert contents(tmp_path) == before


def test_a_folder_inside_counts_as_another_file(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"contains other files \(photos\)"):
        OutputFolder(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": "/other"}, "source: '/photos', requested '/other'"),
        ({"seed": 3, "unseen": "25%"}, "unseen: '', requested '25%'; seed: 0, requested 3"),
        ({"normalize": False}, "normalize: None, requested False"),
        ({"val_fraction": 0.2}, "val_fraction: 0.1, requested 0.2"),
    ],
)
def test_another_data_set_is_refused_and_the_difference_told(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    finished(tmp_path, IDENTITY)
    before = contents(tmp_path)
    message = f"{tmp_path} contains another data set ({told}): give another folder, or --overwrite"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        OutputFolder(tmp_path, {**IDENTITY, **change})
    assert contents(tmp_path) == before


def test_an_option_that_is_asked_no_more_is_told(tmp_path: Path) -> None:
    finished(tmp_path, {**IDENTITY, "protocol": "mld"})
    with pytest.raises(UserError, match=r"another data set \(protocol: 'mld', requested None\)"):
        OutputFolder(tmp_path, IDENTITY)


def test_an_attempt_that_wrote_nothing_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A mistyped option is put right without --overwrite; what was found in the images still holds."""
    claimed(tmp_path, IDENTITY)
    (tmp_path / "images.jsonl").write_text("what was looked at")
    assert OutputFolder(tmp_path, {**IDENTITY, "seed": 3}).resumed
    assert not OutputFolder(tmp_path, {**IDENTITY, "source": "/other"}).resumed


def test_a_failed_overwrite_leaves_the_folder_to_its_owner(tmp_path: Path) -> None:
    finished(tmp_path, IDENTITY)
    claimed(tmp_path, {**IDENTITY, "seed": 3}, overwrite=True)
    assert OutputFolder(tmp_path, IDENTITY).resumed


def test_two_runs_do_not_write_at_once(tmp_path: Path) -> None:
    first, second = OutputFolder(tmp_path, IDENTITY), OutputFolder(tmp_path, IDENTITY)
    with first.claimed(), pytest.raises(UserError, match="another run is writing here: wait for it"), second.claimed():
        pass
    with second.claimed():
        pass


def test_a_file_that_is_no_benchmark_is_not_deleted(tmp_path: Path) -> None:
    finished(tmp_path, IDENTITY)
    (tmp_path / "precious.txt").write_text("years of work")
    (tmp_path / "dataset.json").write_text(json.dumps({"benchmark": "precious.txt"}))
    out = OutputFolder(tmp_path, IDENTITY, overwrite=True)
    with out.claimed():
        out.start_replacing()
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("whole", [False, True], ids=["unfinished", "finished"])
def test_the_same_data_set_goes_on(whole: bool, tmp_path: Path) -> None:
    """However its options are ordered, and though JSON knows no tuples."""
    identity = {**IDENTITY, "size": (3, 4), "folder": {"b": 1, "a": 2}}
    if whole:
        finished(tmp_path, identity)
    else:
        claimed(tmp_path, identity)
    (tmp_path / "images.jsonl").write_text("what was looked at")
    again = OutputFolder(tmp_path, dict(reversed(identity.items())))
    assert again.resumed
    assert (tmp_path / "images.jsonl").read_text() == "what was looked at"
    assert (tmp_path / "dataset.json").exists() == whole  # until it is replaced


def test_overwrite_takes_any_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    out = claimed(tmp_path, IDENTITY, overwrite=True)
    assert not out.resumed
    other = {**IDENTITY, "source": "/other"}
    assert not claimed(tmp_path, other, overwrite=True).resumed
    assert claimed(tmp_path, other, overwrite=True).resumed  # the same once more
    assert contents(tmp_path)["thesis.tex"] == b"years of work"  # only what is written is replaced


@pytest.mark.parametrize("claim", ["", "{", "[3]", '"photos"'])
def test_a_claim_that_cannot_be_read_is_nobodys(claim: str, tmp_path: Path) -> None:
    (tmp_path / CLAIM_FILE).write_text(claim)
    assert not OutputFolder(tmp_path, IDENTITY).resumed
    (tmp_path / CLAIM_FILE).write_text(claim)
    (tmp_path / "data.csv").write_text("")
    with pytest.raises(UserError, match=r"contains other files \(data\.csv\)"):
        OutputFolder(tmp_path, IDENTITY)


def test_a_source_whose_name_is_not_utf8_goes_on_too(tmp_path: Path) -> None:
    identity = {**IDENTITY, "source": os.fsdecode(b"/caf\xe9")}
    claimed(tmp_path, identity)
    (tmp_path / "images.jsonl").write_text("what was looked at")
    assert OutputFolder(tmp_path, identity).resumed


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"^cannot write /.*/file: expected a folder, got a file\."):
        OutputFolder(tmp_path / "file", IDENTITY)
    with pytest.raises(UserError, match=r"^cannot write /.*/file/out: Not a directory\."):
        claimed(tmp_path / "file" / "out", IDENTITY)
    assert (tmp_path / "file").read_text() == "kept"


# --- whole or not -------------------------------------------------------------------------------------------------


def test_the_folder_is_whole_only_between_finish_and_the_next_start(tmp_path: Path) -> None:
    info = tmp_path / "dataset.json"
    out = claimed(tmp_path, IDENTITY)
    out.start_replacing()  # nothing there yet: no error
    out.write("data.csv", b"one")
    assert not info.exists()
    out.finish({"images": {"train": 3}})
    assert json.loads(info.read_text()) == {"images": {"train": 3}, "prepared_by": IDENTITY}
    assert not (tmp_path / CLAIM_FILE).exists()

    again = claimed(tmp_path, IDENTITY)
    assert info.exists()  # looking at images again replaces nothing
    again.start_replacing()
    assert not info.exists()
    assert OutputFolder(tmp_path, IDENTITY).resumed  # stopped here, it goes on
    again.write("data.csv", b"two")
    assert not info.exists()
    again.finish({"images": {"train": 5}})
    assert json.loads(info.read_text())["images"] == {"train": 5}
    assert contents(tmp_path).keys() == {"data.csv", "dataset.json"}


def test_an_overwritten_data_set_is_whole_until_it_is_replaced(tmp_path: Path) -> None:
    finished(tmp_path, IDENTITY)
    before = contents(tmp_path)
    OutputFolder(tmp_path, {**IDENTITY, "seed": 1}, overwrite=True)
    assert {name: content for name, content in contents(tmp_path).items() if name != CLAIM_FILE} == before


def test_json_is_for_people_too() -> None:
    assert json_bytes({"labels": ["é"], "n": 3}).decode() == '{\n "labels": [\n  "é"\n ],\n "n": 3\n}\n'


# --- one file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_disk", [True, False])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_appears_when_it_is_whole(old: bytes | None, to_disk: bool, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    if old is not None:
        path.write_bytes(old)

    def write(file: BinaryIO) -> None:
        for _ in range(3):
            file.write(b"x" * 100_003)
            assert (path.read_bytes() if path.exists() else None) == old

    write_whole(path, write, to_disk)
    assert contents(tmp_path) == {"data.csv": b"x" * 300_009}
    write_whole(path, b"bytes", to_disk)
    assert contents(tmp_path) == {"data.csv": b"bytes"}


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    write_whole(path, b"a" * 1_000_003)
    seen: set[tuple[int, bytes]] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            content = path.read_bytes()
            seen.add((len(content), content[:1]))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        write_whole(path, (b"b" if number % 2 else b"c") * 500_009, to_disk=False)
    done.set()
    reader.join()
    assert seen <= {(1_000_003, b"a"), (500_009, b"b"), (500_009, b"c")}


@pytest.mark.parametrize(
    "error", [RuntimeError("of the writer"), KeyboardInterrupt("Ctrl-C"), UserError("of the user")]
)
def test_a_writer_that_fails_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"x" * 100_003)
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_whole(tmp_path / "data.csv", write)
    assert contents(tmp_path) == {"data.csv": b"old"}


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept.txt").write_text("kept")
    with pytest.raises(UserError, match=r"^cannot write /.*/folder: Is a directory\. No half-written file was"):
        write_whole(tmp_path / "folder", b"new")
    with pytest.raises(UserError, match=r"^cannot write /.*/gone/data\.csv: No such file or directory\."):
        write_whole(tmp_path / "gone" / "data.csv", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert contents(tmp_path / "folder") == {"kept.txt": b"kept"}


# --- kills and full disks -----------------------------------------------------------------------------------------


def python(code: str, *arguments: str | Path, limit: int = -1) -> subprocess.Popen[str]:
    """Another interpreter, in which no file may grow beyond ``limit`` bytes."""
    preamble = f"""
import resource, sys
from pathlib import Path
from data_prep.output import *
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", preamble + code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


WRITE_FOR_EVER = """
import itertools, json
out = OutputFolder(Path(sys.argv[1]), json.loads(sys.argv[2]))
claim = out.claimed()
claim.__enter__()
out.start_replacing()
def write(file):
    for number in itertools.count():
        file.write(b"y" * 100_003)
        if number == 20:
            print("in the middle", flush=True)
            sys.stdin.read()
out.write("data.csv", write)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    finished(tmp_path, IDENTITY)
    process = python(WRITE_FOR_EVER, tmp_path, json.dumps(IDENTITY))
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    left = contents(tmp_path)
    assert left["data.csv"] == b"path,labels,split\n"
    assert "dataset.json" not in left
    assert [len(content) > 1_000_000 for name, content in left.items() if name.endswith(".writing")] == [True]

    with pytest.raises(UserError, match="another data set"):
        OutputFolder(tmp_path, {**IDENTITY, "seed": 1})
    assert claimed(tmp_path, IDENTITY).resumed
    assert contents(tmp_path).keys() == {"data.csv", "benchmark.json", CLAIM_FILE}


WRITERS = {
    "bytes": 'b"y" * 5003',
    "one chunk": 'lambda file: file.write(b"y" * 5003)',
    "many chunks": 'lambda file: [file.write(b"y" * 11) for _ in range(500)]',
    "far more than a buffer": 'lambda file: [file.write(b"y" * 100_003) for _ in range(5)]',
}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_said_and_leaves_the_old_file(writer: str, old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    if old is not None:
        path.write_bytes(old)
    process = python(f"write_whole(Path(sys.argv[1]), {WRITERS[writer]})", path, limit=1009)
    _, err = process.communicate(timeout=60)
    assert err.splitlines()[-1] == (
        f"zsl_tagger.errors.UserError: cannot write {path}: File too large. No half-written file was left; "
        "fix that, then run the same command again to continue where it stopped"
    )
    assert "Exception ignored" not in err
    assert contents(tmp_path) == ({} if old is None else {"data.csv": old})


CLAIM = "OutputFolder(Path(sys.argv[1]), {'source': 'y' * 5003}).claimed().__enter__()"
FINISH = """
out = OutputFolder(Path(sys.argv[1]), {'a': 1})
with out.claimed():
    out.start_replacing()
    out.finish({'labels': 'y' * 5003})
"""


def test_a_full_disk_at_the_claim_or_at_the_end(tmp_path: Path) -> None:
    process = python(CLAIM, tmp_path / "out", limit=1009)
    assert f"UserError: cannot write {tmp_path}/out/{CLAIM_FILE}: File too large" in process.communicate(timeout=60)[1]
    assert contents(tmp_path / "out") == {}
    for _ in range(2):
        process = python(FINISH, tmp_path / "out", limit=1009)
        assert f"cannot write {tmp_path}/out/dataset.json: File too large" in process.communicate(timeout=60)[1]
        assert contents(tmp_path / "out").keys() == {CLAIM_FILE}


@pytest.mark.slow
def test_a_full_disk_while_the_word_vectors_are_written(tmp_path: Path) -> None:
    code = """
import numpy as np
from data_prep.wordvecs import WordVectors, matrix_bytes
vectors = WordVectors(["sky"], np.ones((1, 5003), np.float32), {}, [], "packaged", True)
write_whole(Path(sys.argv[1]), matrix_bytes(vectors))
"""
    process = python(code, tmp_path / "wordvec_array.pth", limit=1009)
    assert "UserError: cannot write" in process.communicate(timeout=60)[1]
    assert contents(tmp_path) == {}

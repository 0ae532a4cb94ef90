"""``tag --engine ray``: the records of the local engine, whatever becomes of the workers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from disturbed import below, disturbed, until, with_killed_workers
from made_data import run_command, write_photo
from paths import ROOT

from zsl_tagger.assets import PACKAGED
from zsl_tagger.bulk.engine import TagRequest
from zsl_tagger.bulk.ray_engine import Image, TagTask
from zsl_tagger.errors import UserError
from zsl_tagger.records.record import Record
from zsl_tagger.tagging.ray_pool import Job, numbered_results
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.ray

PHOTOS = 48
INTERRUPTED = "interrupted: everything written so far is complete and readable; with --output, add --resume to continue"
LABELS = ("--labels", "red,cat,texture", "--threshold", "0")


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_bytes().splitlines()]


# --- the command in a process of its own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of photos, and the local engine's records of them."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(PHOTOS):
        write_photo(folder / "photos" / f"{seed:03d}.jpg", seed)
    assert run_command("tag", folder / "photos", *LABELS, "--output", folder / "local.jsonl")[0] == 0
    return folder / "photos", folder / "local.jsonl"


def records_beside(output: Path) -> Callable[[], bool]:
    """Return whether some records have been written."""
    journal = output if output.suffix == ".jsonl" else output.with_name(f"{output.name}.journal.jsonl")
    return lambda: journal.exists() and len(journal.read_bytes().splitlines()) >= 8


def test_a_stopped_run_leaves_whole_parquet_and_no_process_and_goes_on(
    tmp_path: Path, many_photos: tuple[Path, Path]
) -> None:
    """By Ctrl-C, which a terminal sends to all processes of the command. The local engine goes on with the file."""
    photos, local = many_photos
    output = tmp_path / "ray.parquet"
    started: list[int] = []

    def interrupt(process: subprocess.Popen[str]) -> None:
        started.extend(below(process.pid))
        os.killpg(process.pid, signal.SIGINT)

    # Two workers might be done before the signal comes.
    arguments: list[object] = ["tag", photos, *LABELS, "--workers", 1, "--output", output]
    status, printed = disturbed(arguments, records_beside(output), interrupt)
    *_, count, interrupted = printed.splitlines()  # before them the progress, where it took half a minute
    assert (status, interrupted) == (130, INTERRUPTED)
    assert re.fullmatch(rf"note: tagging stopped: \d+ of {PHOTOS} images done", count)
    done = pq.read_table(output).num_rows
    assert 8 <= done < PHOTOS
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in started))
    status, _, stderr = run_command("tag", photos, *LABELS, "--resume", "--output", output)
    assert (status, stderr) == (0, f"note: done already and skipped: {done}\n")
    rows = pq.read_table(output, columns=["path", "sha256", "error"]).to_pylist()
    assert rows == [{"path": line["path"], "sha256": line["sha256"], "error": None} for line in lines_of(local)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heatmap", "maps"], "error: --heatmap works on this machine only: leave out --engine ray\n"),
        (["foo://bucket/photos"], "error: cannot open foo://bucket/photos: Protocol not known: foo\n"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(examples: Path, options: list[str], message: str) -> None:
    assert run_command("tag", examples / "cat.jpg", *options, "--engine", "ray") == (2, "", message)


def test_a_missing_extra_and_a_missing_cluster(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["tag", examples / "cat.jpg", "--labels", "cat", "--engine", "ray"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        message = 'error: ray is not installed: in a clone of zsl-tagger, run pip install ".[ray]"\n'
        assert run_command(*arguments) == (2, "", message)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    status, stdout, stderr = run_command(*arguments)
    assert (status, stdout, len(stderr.splitlines())) == (2, "", 1)
    assert stderr.startswith("error: the Ray cluster of RAY_ADDRESS=127.0.0.1:1 cannot be reached: ")


# --- with one Ray for all ------------------------------------------------------------------------


USES_RAY = pytest.mark.usefixtures("ray_runs")


@USES_RAY
def test_killed_workers_cost_no_photo(tmp_path: Path, many_photos: tuple[Path, Path]) -> None:
    """The command runs in another process and joins this Ray, as one joins a cluster."""
    photos, local = many_photos
    output = tmp_path / "ray.jsonl"
    status, printed = with_killed_workers(["tag", photos, *LABELS, "--output", output], records_beside(output))
    assert status == 0, printed
    assert output.read_bytes() == local.read_bytes()
    assert [line for line in printed.splitlines() if not line.startswith(("note: ", "warning: "))] == []


def ugly_photos(folder: Path, examples: Path) -> Path:
    """Photos under names that need care, and files that are none."""
    for seed, name in enumerate(["a b.jpg", 'it\'s "one".jpg', "line\nbreak.jpg", "später.jpg", "deep/er/x.JPG"]):
        write_photo(folder / name, seed)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes((folder / "a b.jpg").read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("a letter")
    (folder / "cut.jpg").write_bytes((examples / "cat.jpg").read_bytes()[:9000])
    (folder / "large.jpg").write_bytes((examples / "rocket.jpg").read_bytes())  # decoded at a reduced scale
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("no photo")
    (folder / "loop").symlink_to(folder)
    return folder


@USES_RAY
def test_the_same_file_as_the_local_engine_writes(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, with its errors, from paths that start in this folder, and with a model that is sent."""
    ugly_photos(tmp_path / "photos", examples)
    model = tmp_path / "model"
    model.mkdir()
    for path in PACKAGED.iterdir():
        (model / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    arguments = ["tag", "photos", "gone.jpg", "photos/a b.jpg", "", *LABELS]
    local = run_command(*arguments, "--output", "local.parquet")
    assert local[0] == 1
    assert run_command(*arguments, "--output", "ray.parquet", "--model", model, "--engine", "ray") == local
    assert Path("ray.parquet").read_bytes() == Path("local.parquet").read_bytes()


@USES_RAY
def test_photos_of_an_archive_have_the_tags_of_the_files(tmp_path: Path, examples: Path, tagger: Tagger) -> None:
    """Through fsspec: the bytes are decoded as the file is, and what is broken is told in the same words."""
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("cat.jpg", "rocket.jpg"):
            archive.write(examples / name, f"in/{name}")
        archive.writestr("in/empty.jpg", b"")
        archive.writestr("in/.thumbnails/cat.jpg", b"hidden")
        archive.writestr("in/notes.txt", b"no photo")
    inside = f"::file://{tmp_path}/photos.zip"
    arguments = [f"zip://in{inside}", f"zip://in/gone.jpg{inside}", f"file://{examples}/cat.jpg", *LABELS]
    status, _, stderr = run_command("tag", *arguments, "--engine", "ray", "--output", tmp_path / "ray.jsonl")
    assert (status, stderr) == (1, "note: 1 file skipped, not photos: .txt\n")
    records = {record["path"]: record for record in lines_of(tmp_path / "ray.jsonl")}
    assert records.pop(f"zip://in/empty.jpg{inside}")["error"] == "empty file (0 bytes)"
    assert records.pop(f"zip://in/gone.jpg{inside}")["error"] == "no such file"
    local = Record("", tagger.tag(examples / "cat.jpg", ["red", "cat", "texture"], threshold=0)).as_dict()["tags"]
    assert records.pop(str(examples / "cat.jpg"))["tags"] == local
    assert records.pop(f"zip://in/cat.jpg{inside}")["tags"] == local
    assert list(records) == [f"zip://in/rocket.jpg{inside}"]


@USES_RAY
def test_the_page_shows_what_its_command_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
    command = re.search(r"`zsl-tagger (tag examples gone.jpg --engine ray [^`]+)`", page)
    assert command is not None
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert run_command(*shlex.split(command[1]))[0] == 1
    for row in pq.read_table("tags.parquet").to_pylist():
        tags = ", ".join(f"{tag['label']} {tag['score']:.2f}" for tag in row["tags"])
        shown = re.search(rf"^\| {row['path']} \| (.*) \| (.*) \|$", page, re.MULTILINE)
        assert shown is not None
        assert (re.sub(r"\d\.\d+", "#", shown[1]), shown[2]) == (re.sub(r"\d\.\d+", "#", tags), row["error"] or "")


@USES_RAY
def test_resume_goes_on_by_content_with_what_the_local_engine_wrote(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out.jsonl"
    for seed in range(4):
        write_photo(photos / f"{seed}.jpg", seed)
    arguments = ["tag", photos, *LABELS, "--output"]
    run_command(*arguments, output)
    write_photo(photos / "2.jpg", 22)
    write_photo(photos / "4.jpg", 4)
    status, _, stderr = run_command(*arguments, output, "--resume", "--engine", "ray")
    assert (status, stderr) == (0, "note: done already and skipped: 3\n")
    run_command(*arguments, tmp_path / "anew.jsonl")
    assert sorted(output.read_bytes().splitlines()) == sorted((tmp_path / "anew.jsonl").read_bytes().splitlines())


def task(tagger: Tagger, kind: type[TagTask] = TagTask) -> TagTask:
    """For :class:`Image` of full paths."""
    request = TagRequest(labels=tagger.label_set(["cat", "red"]), threshold=0.0)
    return kind(request, hashed=False, folder="/")


class DeadlyTask(TagTask):
    """Kills its worker with a photo named so, as by a decoder that crashes."""

    def __call__(self, tagger: Tagger, photo: tuple[Image, Any]) -> Record | None:
        if "deadly" in photo[0].path:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(tagger, photo)


@USES_RAY
def test_a_photo_that_kills_every_worker_costs_only_itself(
    tmp_path: Path, tagger: Tagger, logged: pytest.LogCaptureFixture
) -> None:
    import ray.cloudpickle

    names = [*(f"{number}.jpg" for number in range(12)), "deadly.jpg", "last.jpg"]
    for seed, name in enumerate(names):
        write_photo(tmp_path / name, seed)
    images = [Image(str(tmp_path / name), None) for name in names]
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find this file
    found = list(numbered_results(list(enumerate(images)), Job(None, task(tagger, DeadlyTask)), 2))
    assert [number for number, _ in found] == list(range(14))
    records = [record for _, record in found if record is not None]
    assert records[12] == Record(str(tmp_path / "deadly.jpg"), [], "3 workers died while tagging it")
    expected = [
        Record(path, tagger.tag(path, ["cat", "red"], threshold=0)) for path, _ in images if "deadly" not in path
    ]
    assert [record.as_dict() for record in records[:12] + records[13:]] == [record.as_dict() for record in expected]
    ours = [record.getMessage() for record in logged.records if record.name.startswith("zsl_tagger.")]  # Ray logs too
    assert ours == ["3 times a worker died while tagging; its images were tagged again"]


def test_what_nobody_foresaw_becomes_a_record(tagger: Tagger, examples: Path) -> None:
    class Full:
        def tag(self, *_: Any, **__: Any) -> None:
            raise MemoryError("no room")

    photo = (Image("cat.jpg", None), str(examples / "cat.jpg"))
    found = task(tagger)(Full(), photo)  # type: ignore[arg-type]
    assert found == Record("cat.jpg", [], "cannot be tagged: MemoryError: no room")


@USES_RAY
def test_workers_that_cannot_start_end_the_run(tagger: Tagger, examples: Path) -> None:
    broken = Job({"config.json": b"{}"}, task(tagger))
    with pytest.raises(UserError, match=r"^Ray gave up: .*model folder .* is incomplete; missing files: "):
        list(numbered_results([(0, Image(str(examples / "cat.jpg"), None))], broken, 1))

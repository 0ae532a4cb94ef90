"""A folder that cannot be written to: each writer says so in one line, and leaves what was there."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep.output import OutputFolder
from zsl_tagger.bulk import settings
from zsl_tagger.bulk.options import TagRun
from zsl_tagger.bulk.output import open_sinks, record_file
from zsl_tagger.errors import UserError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import LASTING, WRITERS
from zsl_tagger.search.store import IndexMeta, Store
from zsl_tagger.sidecars.run import KINDS, Sidecars
from zsl_tagger.system.files import scratch_inside, whole_folder, write_whole
from zsl_tagger.tagging.heatmap import HeatmapFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of other systems")

NOBODY = 65534
#: Modules that writers load when they are needed: the code may lie where nobody but root can read it.
LATE = ("record_files", "parquet_file", "parquet", "sqlite")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder with a file, neither of which can be written to, not even where root runs the tests.

    It lies in the system's folder for temporary files: nobody but root may enter ``tmp_path`` then.
    """
    for name in LATE:
        importlib.import_module(f"zsl_tagger.records.{name}")
    top = Path(tempfile.mkdtemp())
    folder = top / "photos"
    folder.mkdir()
    (folder / "there.txt").write_text("as it was")
    (folder / "there.txt").chmod(0o444)
    folder.chmod(0o555)
    top.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(top)


def tag_output(folder: Path, kind: Any, name: str = "tags.out") -> None:
    """Open an output as ``tag`` does."""
    run = TagRun(paths=["a.jpg"], output=folder / name, format=kind)
    with contextlib.ExitStack() as stack:
        lasting = record_file(run, [], None, None, stack)  # type: ignore[arg-type]
        open_sinks(run, lasting, stack)


def enter(context: contextlib.AbstractContextManager[object]) -> None:
    with context:
        pass


WRITES: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: write_whole(folder / "new", b"x"),
    "a file that is there": lambda folder: write_whole(folder / "there.txt", b"x"),
    "a folder": lambda folder: enter(whole_folder(folder / "new")),
    "an export": lambda folder: enter(scratch_inside(folder)),
    "heat maps": lambda folder: HeatmapFolder(folder / "maps", []),
    "a data set": lambda folder: enter(OutputFolder(folder / "data", {}).claimed()),
    "an index": lambda folder: Store(folder, IndexMeta(None, "", ["dog"])),
    **{kind: partial(tag_output, kind=kind) for kind in {*WRITERS, *LASTING}},
    **{f"{kind} that is there": partial(tag_output, kind=kind, name="there.txt") for kind in WRITERS},
}


@pytest.mark.parametrize("what", sorted(WRITES))
def test_a_writer_says_that_it_cannot_write(read_only: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(settings, "settings_of", lambda *_, **__: {})  # of a model, which is not needed
    with pytest.raises(UserError, match=r"annot .*(Permission denied|unable to open database file)") as refused:
        WRITES[what](read_only)
    assert "\n" not in str(refused.value)
    assert {path.name for path in read_only.iterdir()} == {"there.txt"}
    assert (read_only / "there.txt").read_text() == "as it was"


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_in_a_read_only_folder_keeps_its_tags(read_only: Path, kind: str) -> None:
    tags = [Tag("dog", 0.9)]
    record = Sidecars(kind).tagged(Record(str(read_only / "a.jpg"), tags))
    assert record.tags == tags
    assert record.error is not None
    assert record.error.startswith(f"cannot write {read_only / 'a.jpg'}")
    assert "Permission denied" in record.error

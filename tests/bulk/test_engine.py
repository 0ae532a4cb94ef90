"""The rule by which an image becomes a record, and the images of a run."""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zsl_tagger.bulk import run as bulk_run
from zsl_tagger.bulk.engine import Earlier, Item, TagRequest, record_of
from zsl_tagger.bulk.local_engine import LocalEngine
from zsl_tagger.bulk.options import TagRun
from zsl_tagger.bulk.output import EarlierRecords
from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.sidecars.keywords import SidecarError
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.signals import StopRequest

TAGS = [Tag("cat", 0.9)]


class Known:
    """Earlier runs that tagged ``done.jpg``, whose content has the hash "d"."""

    def is_done(self, path: str, sha256: str) -> bool:
        return (path, sha256) == ("done.jpg", "d")

    def tags_of(self, sha256: str) -> list[Tag] | None:
        return TAGS if sha256 == "d" else None


def fails(path: str) -> list[Tag]:
    raise AssertionError(f"{path} is tagged")


def test_an_error_of_finding_images_is_its_own_record() -> None:
    error = Record("loop", [], "folder loop")
    assert record_of(error, fails, Known(), fails) is error  # type: ignore[arg-type]


def test_what_is_done_is_skipped_and_known_content_keeps_its_tags() -> None:
    assert record_of("done.jpg", fails, Known(), lambda _: "d") is None
    assert record_of("renamed.jpg", fails, Known(), lambda _: "d") == Record("renamed.jpg", TAGS, sha256="d")


def test_new_content_is_tagged() -> None:
    assert record_of("done.jpg", lambda _: TAGS, Known(), lambda _: "e") == Record("done.jpg", TAGS, sha256="e")
    assert record_of("a.jpg", lambda _: TAGS, Known(), lambda _: None) == Record("a.jpg", TAGS)
    assert record_of("a.jpg", lambda _: TAGS) == Record("a.jpg", TAGS)


@pytest.mark.parametrize("kind", [ImageError, SidecarError])
def test_an_error_of_one_photo_is_its_record(kind: type[UserError]) -> None:
    def broken(_: str) -> list[Tag]:
        raise kind("cannot be read")

    assert record_of("a.jpg", broken, Known(), lambda _: "e") == Record("a.jpg", [], "cannot be read")


def test_an_error_of_the_run_ends_it() -> None:
    def full(_: str) -> list[Tag]:
        raise UserError("no space left")

    with pytest.raises(UserError, match="no space left"):
        record_of("a.jpg", full)


@pytest.mark.parametrize(
    ("skips", "reuses", "expected"),
    [
        (True, True, [None, TAGS]),
        (False, True, [TAGS, TAGS]),  # sidecars
        (True, False, [None, "new"]),  # heat maps
    ],
)
def test_sidecars_and_heat_maps_are_made_of_what_is_done_too(skips: bool, reuses: bool, expected: list[Any]) -> None:
    earlier: Earlier = EarlierRecords(Known(), skips, reuses)  # type: ignore[arg-type]
    new = [Tag("new", 0.5)]
    records = [record_of(path, lambda _: new, earlier, lambda _: "d") for path in ("done.jpg", "copy.jpg")]
    assert [record and record.tags for record in records] == [new if one == "new" else one for one in expected]


def test_the_local_engine_yields_a_record_an_item_in_order() -> None:
    def encode(path: str) -> str:
        if "bad" in path:
            raise ImageError("not an image")
        return path

    tagger: Any = SimpleNamespace(workers=3, encode=encode, tag_encoded=lambda path, *_, **__: [Tag(path, 0.5)])
    engine = LocalEngine(tagger, TagRequest(labels=None), None)  # type: ignore[arg-type]
    loop = Record("loop", [], "folder loop")
    items: list[Item] = ["0.jpg", loop, *(f"{number}.jpg" for number in range(1, 30)), "bad.jpg"]
    records = [record for record in engine.records(items) if record is not None]
    assert [record.path for record in records] == [item if isinstance(item, str) else item.path for item in items]
    assert records[1] is loop
    assert records[-1].error == "not an image"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "c.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def test_the_images_of_a_run_keep_their_order_and_are_counted(folder: Path) -> None:
    paths = [str(folder), str(folder / "gone*.jpg")]
    selection = Selection()
    with ExitStack() as stack:
        images = bulk_run.Images(TagRun(paths=paths), selection, StopRequest(), stack)
        assert list(images) == list(find_images(paths))
        assert images.total == 6  # with two errors
    assert selection.summary() == "1 file skipped, not photos: .txt"


def test_an_error_of_finding_images_reaches_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        yield from map(str, range(100))
        raise UserError("cannot list this bucket")

    monkeypatch.setattr(bulk_run, "find_images", broken)
    with ExitStack() as stack:
        images = iter(bulk_run.Images(TagRun(paths=[str(folder)]), Selection(), StopRequest(), stack))
        assert [next(images) for _ in range(100)] == [str(number) for number in range(100)]
        with pytest.raises(UserError, match="cannot list this bucket"):
            next(images)


def test_stdin_is_read_as_its_lines_come_and_has_no_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\nb.jpg\n")))
    with ExitStack() as stack:
        images = bulk_run.Images(TagRun(paths=["-"]), Selection(), StopRequest(), stack)
        assert list(images) == ["a.jpg", "b.jpg"]
        assert images.total is None


def test_the_progress_knows_the_total(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int | None, int]] = []

    class Watched(Progress):
        def __exit__(self, *error: Any) -> None:
            seen.append((self.total, self.done))

    monkeypatch.setattr(bulk_run, "Progress", Watched)
    assert bulk_run.run_tagging(TagRun(paths=[str(folder)], sidecar="txt", remove=True)) == 1  # the folder loop
    assert seen == [(5, 5)]

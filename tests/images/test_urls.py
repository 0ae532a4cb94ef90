"""Images at URLs: chosen as files are chosen, read as bytes, and errors in the words of local files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

from zsl_tagger.errors import MissingExtraError, UserError
from zsl_tagger.images import urls
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.images.urls import fetched, find_urls, is_url, read_url
from zsl_tagger.records.record import Record


@pytest.fixture
def bucket() -> Iterator[Any]:
    """memory://bucket with photos and what is none."""
    files = fsspec.filesystem("memory")
    names = ["b.jpg", "a.JPG", "deep/er/c.png", "x/.thumbs/d.jpg", "x/._e.jpg", "notes.txt", "no suffix", "q #%.webp"]
    for name in names:
        files.pipe_file(f"/bucket/{name}", name.encode())
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def found(url: str) -> list[str]:
    return [item if isinstance(item, str) else f"{item.path}: {item.error}" for item in find_urls(url)]


def test_folders_are_walked_as_local_ones_are(bucket: str, tmp_path: Path) -> None:
    expected = ["a.JPG", "b.jpg", "deep/er/c.png", "q #%.webp"]
    assert found(bucket) == found(f"{bucket}/") == [f"memory:///bucket/{name}" for name in expected]
    fsspec.filesystem("memory").get("/bucket", str(tmp_path), recursive=True)
    local = [str(Path(str(path)).relative_to(tmp_path / "bucket")) for path in find_images([str(tmp_path)])]
    assert sorted(local) == expected
    assert [read_url(url) for url in found(bucket)] == [name.encode() for name in expected]


def test_system_folders_and_excluded_paths_are_left_out_and_others_counted(bucket: str) -> None:
    for name in ("@eaDir/f.jpg", "deep/__MACOSX/g.jpg", "film.mp4"):
        fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", b"x")
    selection = Selection(["er", "b.*"])
    assert [str(url).rpartition("/")[2] for url in find_urls(bucket, selection)] == ["a.JPG", "q #%.webp"]
    assert selection.summary() == "3 files skipped, not photos: .mp4, .txt, others"


def test_globs(bucket: str) -> None:
    assert found(f"{bucket}/*.jpg") == ["memory:///bucket/b.jpg"]
    assert found(f"{bucket}/d*") == ["memory:///bucket/deep/er/c.png"]  # a folder is walked
    assert found(f"{bucket}/**/*.png") == ["memory:///bucket/deep/er/c.png"]
    assert found(f"{bucket}/*.bmp") == [f"{bucket}/*.bmp: no file matches this pattern"]


def test_what_is_named_is_taken(bucket: str) -> None:
    assert found(f"{bucket}/no suffix") == [f"{bucket}/no suffix"]
    assert found(f"{bucket}/gone.jpg") == [f"{bucket}/gone.jpg"]


def test_a_web_address_is_one_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_opened", lambda url: (fsspec.filesystem("memory"), url))  # aiohttp need not be there
    assert found("https://example.org/photo?id=1&size=*") == ["https://example.org/photo?id=1&size=*"]


def test_file_urls_are_local_paths(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    loop = f"{tmp_path / 'loop'}: folder loop: it links back to a folder that contains it"
    assert found(f"file://{tmp_path}") == [str(tmp_path / "a.jpg"), loop]
    assert read_url(f"file://{tmp_path}/a.jpg") == str(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("s3://b/x.jpg", True), ("zip://a::b.zip", True), ("C://x.jpg", False), ("a/b://c", False), ("x.jpg", False)],
)
def test_what_is_a_url(argument: str, expected: bool) -> None:
    assert is_url(argument) is expected


def test_a_missing_package_and_an_unknown_kind_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^cannot open foo://bucket/x: Protocol not known: foo$"):
        list(find_urls("foo://bucket/x"))

    def without_s3fs(url: str) -> None:
        raise ImportError(f"Install s3fs to access S3\n{url}")

    monkeypatch.setattr("fsspec.core.url_to_fs", without_s3fs)
    message = r"^cannot open s3:// URLs: Install s3fs to access S3$"
    with pytest.raises(UserError, match=message):
        list(find_urls("s3://bucket/x"))
    with pytest.raises(ImageError, match=message):
        read_url("s3://bucket/x")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (FileNotFoundError("x"), "^no such file$"),
        (PermissionError("Forbidden"), "^no permission to read it$"),
        (IsADirectoryError("x"), "^is a folder, not an image$"),
        (RuntimeError("503 slow down\nmore"), "^cannot be read: 503 slow down$"),
    ],
)
def test_what_a_file_system_raises(
    bucket: str, monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(memory, "open", fail)
    with pytest.raises(ImageError, match=message):
        read_url(f"{bucket}/b.jpg")
    monkeypatch.setattr(memory, "isdir", fail)
    listed = list(find_urls(bucket))
    assert isinstance(listed[0], Record)
    assert (listed[0].error or "").startswith("cannot be listed: ")


def test_a_file_that_is_too_large_is_not_read(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(b"b.jpg")
    monkeypatch.setattr(urls, "MAX_BYTES", size)
    assert read_url(f"{bucket}/b.jpg") == b"b.jpg"
    monkeypatch.setattr(urls, "MAX_BYTES", size - 1)
    monkeypatch.setattr(MemoryFile, "read", pytest.fail)
    with pytest.raises(ImageError, match=r"^too large: more than 0 MB$"):
        read_url(f"{bucket}/b.jpg")


def test_a_url_needs_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    message = r'^URLs need fsspec, which is not installed: .* run pip install "\.\[urls\]"$'
    for read in (read_url, fetched, lambda url: list(find_urls(url))):
        with pytest.raises(MissingExtraError, match=message):
            read("https://example.org/a.jpg")


@pytest.mark.parametrize("image", ["a.jpg", "a/b://c", Path("https://example.org/a.jpg"), b"https://example.org/a.jpg"])
def test_only_text_that_is_a_url_is_fetched(image: Any) -> None:
    assert fetched(image) is image

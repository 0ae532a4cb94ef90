"""What the user names -> files, in a stable order, whatever the folders look like."""

from __future__ import annotations

import contextlib
import glob
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsl_tagger.images import finding
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES
from zsl_tagger.records.record import Record


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finding, "reads_raw", lambda: False)  # whether the extra is installed or not


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def find(*arguments: str, selection: Selection | None = None) -> list[str]:
    """The paths found; a record stands for its path and error."""
    items = list(find_images(arguments, selection=selection))
    return [f"{item.path}: {item.error}" if isinstance(item, Record) else Path(item).as_posix() for item in items]


def test_folders_are_walked_in_the_order_of_names() -> None:
    touch(
        "photos/b.jpg", "photos/c/z.png", "photos/c/deep/er/y.webp", "photos/a.jpg", "photos/notes.txt", "photos/d.gif"
    )
    assert find("photos") == [
        "photos/a.jpg",
        "photos/b.jpg",
        "photos/c/deep/er/y.webp",
        "photos/c/z.png",
        "photos/d.gif",
    ]


def test_every_image_suffix_counts_in_upper_case_too() -> None:
    names = [f"photos/a{suffix}" for suffix in IMAGE_SUFFIXES] + [
        f"photos/B{suffix.upper()}" for suffix in IMAGE_SUFFIXES
    ]
    touch(*names, "photos/c.pdf", "photos/jpg", "photos/d.jpg.part")
    assert sorted(find("photos")) == sorted(names)


def test_hidden_images_and_folders_are_left_out() -> None:
    touch("photos/.hidden.jpg", "photos/.folder/a.jpg", "photos/.jpg")  # the last is a name without a suffix
    assert find("photos") == []
    assert find("photos/.hidden.jpg") == ["photos/.hidden.jpg"]


SYSTEM = ["@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "lost+found", "__MACOSX"]


@pytest.mark.parametrize("folder", SYSTEM)
def test_system_folders_are_left_out_unless_they_are_named(folder: str) -> None:
    touch("photos/a.jpg", f"photos/{folder}/b.jpg", f"photos/s/{folder}/c/d.jpg")
    for argument in ("photos", "photos/**/*.jpg", "photos/**", "phot*"):
        assert find(argument) == ["photos/a.jpg"]
    assert find("photos/*", "photos/*/*.jpg", "photos/s/*/c/*") == ["photos/a.jpg"]
    assert find(f"photos/{folder}") == find(f"photos/{folder}/*.jpg") == [f"photos/{folder}/b.jpg"]
    assert find(f"photos/**/{folder}/*.jpg") == [f"photos/{folder}/b.jpg"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["raw"], ["photos/a.jpg", "photos/a_small.jpg", "photos/s/b.jpg"]),
        (["raw/"], ["photos/a.jpg", "photos/a_small.jpg", "photos/s/b.jpg"]),
        (["s/raw"], ["photos/a.jpg", "photos/a_small.jpg", "photos/raw/d.jpg", "photos/s/b.jpg"]),
        (["./photos/r*", "*_small.jpg"], ["photos/a.jpg", "photos/s/b.jpg", "photos/s/raw/c.jpg"]),
        (["s/**/c.*"], ["photos/a.jpg", "photos/a_small.jpg", "photos/raw/d.jpg", "photos/s/b.jpg"]),
        (["aw", "photos", "b.*", "a*.jpg", "d.jpg"], ["photos/s/raw/c.jpg"]),  # "photos" itself is named
    ],
)
def test_what_exclude_path_names_is_left_out(exclude: list[str], left: list[str]) -> None:
    touch("photos/a.jpg", "photos/a_small.jpg", "photos/s/b.jpg", "photos/s/raw/c.jpg", "photos/raw/d.jpg")
    for argument in ("photos", "photos/**/*.jpg"):
        assert sorted(find(argument, selection=Selection(exclude))) == left
    assert find("photos/raw/d.jpg", selection=Selection(exclude)) == ["photos/raw/d.jpg"]  # named explicitly
    globs = ("photos/*.jpg", "photos/*/*.jpg", "photos/*/*/*.jpg")
    assert sorted(find(*globs, selection=Selection(exclude))) == left


def test_files_that_are_no_photos_are_counted_but_sidecars_are_not() -> None:
    touch("photos/a.jpg", "photos/a.jpg.xmp", "photos/a.xmp", "photos/a.jpg.txt", "photos/a.JPG.tags.json")
    selection = Selection()
    assert find("photos", selection=selection) == ["photos/a.jpg"]
    assert selection.summary() == ""
    touch("photos/b.CR2")
    find("photos", selection=selection)
    raw = '1 raw photo skipped (.cr2): in a clone of zsl-tagger, run pip install ".[raw]"'
    assert selection.summary() == raw
    touch("photos/s/c.mp4", "photos/.hidden.mov", "photos/__MACOSX/d.mov")
    selection = Selection()
    find("photos", "photos/s", "photos/s/c.mp4", "photos/*.CR2", selection=selection)
    assert selection.summary() == f"1 file skipped, not photos: .mp4; {raw}"
    touch("photos/README", "photos/odd.\x1b[31m", "photos/notes.txt")
    selection = Selection()
    find("photos", selection=selection)
    assert selection.summary() == f"4 files skipped, not photos: .mp4, .txt, others; {raw}"


def test_arguments_keep_their_order_and_a_named_file_may_have_any_suffix() -> None:
    touch("z/b.jpg", "a/c.jpg", "scan.dat")
    assert find("z", "scan.dat", "missing.jpg", "a") == ["z/b.jpg", "scan.dat", "missing.jpg", "a/c.jpg"]


def test_a_folder_named_twice_is_walked_once() -> None:
    touch("photos/a.jpg", "photos/c/b.jpg")
    assert find("photos/c", "photos", "photos/c") == ["photos/c/b.jpg", "photos/a.jpg"]


def test_empty_folder() -> None:
    Path("empty/nested").mkdir(parents=True)
    assert find("empty") == []


# --- patterns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.jpg", ["photos/a.jpg", "photos/b.jpg"]),
        ("photos/[bc].*", ["photos/b.jpg", "photos/c.txt"]),  # what a pattern matches is named explicitly
        ("photos/?", ["photos/s/a.jpg", "photos/s/t/u.jpg"]),  # a matched folder is walked
        ("**/*.jpg", ["photos/a.jpg", "photos/b.jpg", "photos/s/a.jpg", "photos/s/t/u.jpg"]),
        ("photos/**/u.*", ["photos/s/t/u.jpg"]),
    ],
)
def test_pattern(pattern: str, expected: list[str]) -> None:
    touch("photos/b.jpg", "photos/a.jpg", "photos/c.txt", "photos/s/a.jpg", "photos/s/t/u.jpg")
    assert find(pattern) == expected


@pytest.mark.parametrize("pattern", ["photos/**", "photos/**/*", "**"])
def test_a_pattern_of_folders_and_their_files_gives_each_file_once(pattern: str) -> None:
    touch("photos/a.jpg", "photos/s/b.jpg", "photos/s/t/c.jpg")
    assert sorted(find(pattern)) == ["photos/a.jpg", "photos/s/b.jpg", "photos/s/t/c.jpg"]


names = st.sampled_from(["a", "ab", "b.jpg", "c.png", ".h", "[x]"])
parts = st.sampled_from(["**", "**", "*", "a*", "*.jpg", "?", "[ab]*", ".*", "a", "b.jpg"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # of _in_tmp_path, which it does not need
@given(
    files=st.sets(st.lists(names, min_size=1, max_size=4).map(tuple), max_size=6), pattern=st.lists(parts, max_size=4)
)
def test_patterns_match_what_glob_matches(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[str, ...]], pattern: list[str]
) -> None:
    top = tmp_path_factory.mktemp("tree")
    for file in files:
        with contextlib.suppress(OSError):  # a file where a folder would be
            top.joinpath(*file).parent.mkdir(parents=True, exist_ok=True)
            top.joinpath(*file).touch()
    asked = os.sep.join([glob.escape(str(top)), *pattern, "**", "*.jpg"])  # noqa: PTH118
    found = [item for item in find_images([asked]) if isinstance(item, str)]
    expected = {path for path in glob.glob(asked, recursive=True) if Path(path).is_file()}  # noqa: PTH207
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_a_pattern_without_a_match_is_an_error_record() -> None:
    assert find("photos/*.jpg") == ["photos/*.jpg: no file matches this pattern"]


def test_existing_names_with_pattern_characters_are_names() -> None:
    touch("a[1].jpg", "a1.jpg", "what?/b.jpg", "whats/c.jpg")
    assert find("a[1].jpg", "what?") == ["a[1].jpg", "what?/b.jpg"]


# --- links ------------------------------------------------------------------------------------------------


def test_a_linked_folder_is_walked_once() -> None:
    touch("photos/real/a.jpg", "elsewhere/b.jpg")
    Path("photos/same").symlink_to("real")
    Path("photos/outside").symlink_to("../elsewhere")
    assert find("photos") == ["photos/outside/b.jpg", "photos/real/a.jpg"]


def test_links_to_files_are_taken_even_broken_ones() -> None:
    touch("a.jpg", "photos/b.jpg")
    Path("photos/linked.jpg").symlink_to("../a.jpg")
    Path("photos/broken.jpg").symlink_to("nowhere.jpg")
    assert find("photos") == ["photos/b.jpg", "photos/broken.jpg", "photos/linked.jpg"]


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_folder_loop_gives_one_error_record_and_ends(target: str) -> None:
    touch("top/photos/sub/a.jpg")
    Path("top/photos/sub/loop").symlink_to(target)
    assert find("top") == [
        "top/photos/sub/a.jpg",
        "top/photos/sub/loop: folder loop: it links back to a folder that contains it",
    ]


@pytest.mark.parametrize("pattern", ["top/**/*.jpg", "top/**", "**/sub/**/*.jpg", "top/**/**/a.*", "./**/a.jpg"])
def test_a_folder_loop_in_a_pattern_gives_each_file_once_and_ends(pattern: str) -> None:
    touch("top/photos/sub/a.jpg")
    Path("top/photos/sub/loop").symlink_to("..")
    Path("top/photos/sub/another").symlink_to("../..")
    assert sorted(Path(found).as_posix() for found in find(pattern)) == [
        "top/photos/sub/a.jpg",
        "top/photos/sub/another: folder loop: it links back to a folder that contains it",
        "top/photos/sub/loop: folder loop: it links back to a folder that contains it",
    ]


def test_a_pattern_follows_a_linked_folder() -> None:
    touch("elsewhere/b.jpg")
    Path("photos").mkdir()
    Path("photos/outside").symlink_to("../elsewhere")
    assert find("photos/**/*.jpg") == ["photos/outside/b.jpg"]


def test_a_link_to_itself_does_not_end_the_walk() -> None:
    touch("photos/a.jpg", "photos/z.jpg")
    Path("photos/link").symlink_to("link")
    found = find("photos")
    assert found[0] == "photos/a.jpg"
    assert found[-1] == "photos/z.jpg"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_an_error_record() -> None:
    touch("photos/a.jpg", "photos/secret/b.jpg", "photos/z.jpg")
    Path("photos/secret").chmod(0)
    try:
        found = find("photos")
    finally:
        Path("photos/secret").chmod(0o700)
    assert found == ["photos/a.jpg", "photos/secret: cannot open this folder: Permission denied", "photos/z.jpg"]

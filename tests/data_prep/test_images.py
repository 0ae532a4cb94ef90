"""Looking at images: every problem has a name, a stopped run goes on, and near-duplicates are found, all of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import write_photo
from paths import ROOT
from PIL import Image, ImageEnhance

from data_prep import images
from data_prep.images import (
    MAX_DISTANCE,
    PLACEHOLDER_COPIES,
    Look,
    find_placeholders,
    look_at_images,
    near_duplicates,
    reason,
)
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_array

pytestmark = pytest.mark.slow


def look(folder: Path, paths: Sequence[str], journal: Path | None = None, workers: int = 1) -> dict[str, Look]:
    return look_at_images(paths, folder, journal or folder.parent / "images.jsonl", workers)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with five photos, the names in another order than the seeds."""
    for seed, name in enumerate(["c.jpg", "a.jpg", "sub/e.jpg", "b.jpg", "d ä.jpg"]):
        write_photo(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


NAMES = ["d ä.jpg", "a.jpg", "c.jpg", "sub/e.jpg", "b.jpg"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []

    def load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
        names.append(path.name)
        return load_array(path, preprocessing)

    monkeypatch.setattr(images, "load_array", load)
    return names


# --- what is found --------------------------------------------------------------------------------------------


def test_a_whole_photo(photos: Path) -> None:
    found = look(photos, ["sub/e.jpg"])["sub/e.jpg"]
    content, status = (photos / "sub/e.jpg").read_bytes(), (photos / "sub/e.jpg").stat()
    assert (found.path, found.problem) == ("sub/e.jpg", None)
    assert (found.size, found.changed) == (len(content), status.st_mtime_ns)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert len(found.phash) == 16
    assert int(found.phash, 16) != 0


def slow_perceptual_hash(pixels: np.ndarray) -> str:
    """Which of the 64 lowest frequencies of a 32 x 32 grey picture exceed their median, the first the highest bit."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    place = np.arange(32)
    strengths = []
    for down in range(8):
        for along in range(8):
            wave = np.outer(np.cos(np.pi * down * (place + 0.5) / 32), np.cos(np.pi * along * (place + 0.5) / 32))
            strengths.append(float((grey * wave).sum()))
    bits = "".join("1" if strength > np.median(strengths) else "0" for strength in strengths)
    return f"{int(bits, 2):016x}"


def test_the_perceptual_hash_is_the_slow_one(examples: Path, tmp_path: Path) -> None:
    """Journals of earlier runs hold these hashes."""
    names = sorted(path.name for path in examples.glob("*.jpg"))
    for name, found in look(examples, names, tmp_path / "images.jsonl").items():
        assert found.phash == slow_perceptual_hash(load_array(examples / name, Preprocessing(64)))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_asked(workers: int, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path, preprocessing: Preprocessing) -> np.ndarray:
        time.sleep(0.05 if path.name in ("d ä.jpg", "c.jpg") else 0)  # later ones are done before
        return load_array(path, preprocessing)

    monkeypatch.setattr(images, "load_array", load)
    found = look(photos, NAMES, workers=workers)
    assert list(found) == [one.path for one in found.values()] == NAMES
    lines = (photos.parent / "images.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == NAMES


def test_many_threads_find_what_one_finds(photos: Path, tmp_path: Path) -> None:
    assert look(photos, NAMES, tmp_path / "one", 1) == look(photos, NAMES, tmp_path / "four", 4)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "four").read_bytes()


def huge_png() -> bytes:
    """A few bytes that claim 60,000 x 60,000 pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def test_every_kind_of_problem_has_its_reason(photos: Path) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("no photo")
    (photos / "page.jpg").write_text("<html>429: too many requests (try later)</html>")
    (photos / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "third.jpg").write_bytes(whole[: len(whole) // 3])
    (photos / "folder.jpg").mkdir()
    (photos / "huge.png").write_bytes(huge_png())
    (photos / "broken_link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(photos / "pipe.jpg")
    names = sorted(path.name for path in photos.iterdir() if path.name != "sub")
    found = look(photos, [*names, "gone.jpg", "a.jpg/inside.jpg", "n" * 300 + ".jpg"])
    problems = {path: one.problem for path, one in found.items() if one.problem}
    assert Counter(map(reason, problems.values())) == {
        "missing": 4,
        "empty file": 1,
        "not an image that Pillow can read": 2,
        "broken image data": 2,
        "is a folder, not an image": 1,
        "too large": 1,
        "not a regular file": 1,
    }
    assert problems["empty.jpg"] == "empty file (0 bytes)"
    assert problems["huge.png"] == "too large: 60000 x 60000 pixels, the limit is 150 million"
    assert not set(problems) & set(NAMES)
    for path in problems:
        assert (found[path].sha256, found[path].phash) == ("", "")
        assert (found[path].size == -1) == (problems[path] == "missing")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("missing", "missing"),
        ("empty file (0 bytes)", "empty file"),
        ("too large: 60000 x 60000 pixels, the limit is 150 million", "too large"),
        ("broken image data (image file is truncated (9 bytes: 4 of 13))", "broken image data"),
        ("is a folder, not an image", "is a folder, not an image"),
    ],
)
def test_reason(problem: str, expected: str) -> None:
    assert reason(problem) == expected


def test_an_interrupted_look_says_how_many_images_are_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(_root: Path, path: str, _known: Look | None) -> Look:
        if path == NAMES[2]:
            raise KeyboardInterrupt
        return Look(path)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(images, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look_at_images(NAMES, photos, tmp_path / "images.jsonl", 1)
    assert caplog.messages == [f"looking at stopped: 2 of {len(NAMES)} images done"]


# --- the journal ----------------------------------------------------------------------------------------------


def test_what_the_journal_has_is_not_read_again(photos: Path, reads: list[str]) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    names = [*NAMES, "empty.jpg", "gone.jpg"]
    first = look(photos, names)
    assert reads == ["d ä.jpg", "a.jpg", "c.jpg", "e.jpg", "b.jpg", "empty.jpg"]
    journal = (photos.parent / "images.jsonl").read_bytes()
    reads.clear()
    assert look(photos, names[::-1]) == first
    assert reads == ["empty.jpg"]  # what could not be used may have been put right
    assert (photos.parent / "images.jsonl").read_bytes() == journal


def test_more_images_are_added(photos: Path, reads: list[str]) -> None:
    look(photos, NAMES[:2])
    reads.clear()
    assert list(look(photos, NAMES)) == NAMES
    assert reads == ["c.jpg", "e.jpg", "b.jpg"]


def same_size(path: Path) -> None:
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def same_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [same_size, same_time, gone])
def test_a_file_that_has_changed_is_read_again(
    change: Callable[[Path], None], photos: Path, reads: list[str], tmp_path: Path
) -> None:
    before = look(photos, NAMES)
    change(photos / "c.jpg")
    reads.clear()
    after = look(photos, NAMES)
    assert reads == ([] if change is gone else ["c.jpg"])
    assert after["c.jpg"] != before["c.jpg"]
    assert after == look(photos, NAMES, tmp_path / "anew")
    reads.clear()
    assert look(photos, NAMES) == after  # the later line counts
    assert reads == (["c.jpg"] if after["c.jpg"].size >= 0 and after["c.jpg"].problem else [])


def test_a_file_that_comes_later_is_read(photos: Path, reads: list[str]) -> None:
    assert look(photos, ["new.jpg"])["new.jpg"].problem == "missing"
    write_photo(photos / "new.jpg", 9)
    assert look(photos, ["new.jpg"])["new.jpg"].problem is None
    assert reads == ["new.jpg"]


def test_a_journal_cut_off_anywhere_is_gone_on_with(photos: Path, reads: list[str]) -> None:
    journal = photos.parent / "images.jsonl"
    expected = look(photos, NAMES)
    whole = journal.read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 5
    for length in sorted(
        {*range(0, len(whole), 17), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}
    ):
        journal.write_bytes(whole[:length])
        reads.clear()
        assert look(photos, NAMES) == expected
        assert reads == [Path(name).name for name, end in zip(NAMES, ends, strict=True) if end > length]
        assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    "line", [b"{", b"", b"null", b"[]", b"{}", b'{"path": "a.jpg", "colour": 3}', b"caf\xe9", b'"a.jpg"']
)
def test_a_broken_line_in_the_middle_is_named(line: bytes, photos: Path) -> None:
    look(photos, NAMES)
    journal = photos.parent / "images.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = line
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(
        UserError, match=r"images\.jsonl:3: is not a line written by prepare: delete the file to start over$"
    ):
        look(photos, NAMES)


def test_a_journal_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot write .*/no folder/images\.jsonl: No such file or directory\."):
        look(photos, NAMES, tmp_path / "no folder" / "images.jsonl")


def test_a_journal_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(UserError, match="journal"):
        look(photos, NAMES, tmp_path / "journal")


FULL_DISK = """
import resource, sys
from pathlib import Path
from data_prep.images import look_at_images
from zsl_tagger.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
folder, journal = Path(sys.argv[1]), Path(sys.argv[2])
try:
    look_at_images(sorted(path.name for path in folder.iterdir()), folder, journal, 2)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100, 3001])  # the first line is too long; it breaks off in some line
def test_a_full_disk_is_said_and_what_is_written_counts(limit: int, tmp_path: Path, reads: list[str]) -> None:
    folder, journal = tmp_path / "photos", tmp_path / "images.jsonl"
    for seed in range(43):
        write_photo(folder / f"{seed:02d}.jpg", seed, side=16)
    names = [f"{seed:02d}.jpg" for seed in range(43)]
    expected = look(folder, names, tmp_path / "undisturbed.jsonl")
    result = subprocess.run(
        [sys.executable, "-B", "-c", FULL_DISK, str(folder), str(journal), str(limit)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.stderr == ""
    assert result.stdout == (
        f"cannot write {journal}: File too large. Images checked so far are saved: fix the problem, then "
        "run the same command again to continue where it stopped\n"
    )
    assert journal.stat().st_size == limit
    kept = journal.read_bytes().count(b"\n")
    assert (kept > 5) == (limit > 100)
    reads.clear()
    assert look(folder, names, journal) == expected
    assert reads == names[kept:]
    assert journal.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


# --- placeholders ---------------------------------------------------------------------------------------------


def test_a_known_placeholder_is_found_by_its_bytes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256((photos / "b.jpg").read_bytes()).hexdigest()
    monkeypatch.setattr(images, "PLACEHOLDER_SHA256", frozenset({digest, "0" * 64}))
    assert find_placeholders(look(photos, NAMES).values()) == {"b.jpg"}


def test_the_same_file_under_many_names_is_a_placeholder(photos: Path) -> None:
    content = (photos / "a.jpg").read_bytes()
    copies = [f"copy{number}.jpg" for number in range(PLACEHOLDER_COPIES - 1)]  # and a.jpg itself
    for name in copies:
        (photos / name).write_bytes(content)
    for number in range(PLACEHOLDER_COPIES + 1):
        (photos / f"empty{number}.jpg").write_bytes(b"")  # these have their own reason
    empty = [f"empty{number}.jpg" for number in range(PLACEHOLDER_COPIES + 1)]
    found = look(photos, [*NAMES, *copies, *empty])
    assert find_placeholders(found.values()) == {"a.jpg", *copies}
    del found[copies[3]]
    assert find_placeholders(iter(found.values())) == set()


# --- near-duplicates ------------------------------------------------------------------------------------------


def slow_near_duplicates(hashes: Sequence[str], max_distance: int) -> list[list[int]]:
    """All pairs; of equal hashes only the first is compared with others, and each of the rest with that first."""
    pairs = []
    for i, one in enumerate(hashes):
        for j, other in enumerate(hashes):
            if i < j and one and other and hashes.index(one) == i:
                distance = bin(int(one, 16) ^ int(other, 16)).count("1")
                if one == other or (distance <= max_distance and hashes.index(other) == j):
                    pairs.append([i, j, distance])
    return pairs


@st.composite
def hash_lists(draw: st.DrawFn) -> list[str]:
    """Hashes in a few clusters, so that there are pairs at every distance; some are equal, some empty."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    hashes = []
    for centre in draw(st.lists(st.sampled_from([*centres, None]), max_size=14)):
        flipped = draw(st.sets(st.integers(0, 63), max_size=5))
        hashes.append("" if centre is None else f"{centre ^ sum(1 << bit for bit in flipped):016x}")
    return hashes + draw(st.lists(st.sampled_from(hashes), max_size=5)) if hashes else hashes


@settings(max_examples=300, deadline=None)
@given(hash_lists(), st.integers(0, 6))
def test_near_duplicates_are_those_of_the_slow_loop(hashes: list[str], max_distance: int) -> None:
    assert near_duplicates(hashes, max_distance).tolist() == slow_near_duplicates(hashes, max_distance)


@pytest.mark.parametrize("max_distance", range(7))
def test_bits_that_differ_as_far_apart_as_can_be(max_distance: int) -> None:
    """So that all bands but one differ, whichever that is."""
    spread = [int((place + 0.5) * 64 / (max_distance + 1)) for place in range(max_distance + 1)]
    centre = 0x9A5C3E7104F2B8D6
    for left_alone in spread:
        near = centre ^ sum(1 << bit for bit in spread if bit != left_alone)
        far = centre ^ sum(1 << bit for bit in spread)
        found = near_duplicates([f"{far:016x}", f"{centre:016x}", f"{near:016x}"], max_distance).tolist()
        expected = [[0, 2, 1], [1, 2, max_distance]]  # far and near differ in one bit
        assert found == [pair for pair in expected if pair[2] <= max_distance]


def test_many_random_hashes_with_planted_neighbours() -> None:
    random = np.random.default_rng(5)
    values = random.integers(0, 2**64, 311, dtype=np.uint64)
    planted = []
    for index in range(0, 240, 3):
        bits = random.choice(64, index % 8, replace=False)
        planted.append(int(values[index]) ^ sum(1 << int(bit) for bit in bits))
    hashes = [f"{value:016x}" for value in [*map(int, values), *planted]]
    found = near_duplicates(hashes, 4)
    assert found.dtype == np.int64
    assert found.tolist() == slow_near_duplicates(hashes, 4)
    assert Counter(found[:, 2].tolist()) == dict.fromkeys(range(5), 10)


def test_equal_hashes_give_a_pair_each_with_the_first() -> None:
    one, other, near_one = "00000000000000ff", "ffffffff00000000", "00000000000000fe"
    hashes = [other, one, "", one, near_one, one, "", near_one, other]
    assert near_duplicates(hashes, 4).tolist() == [[0, 8, 0], [1, 3, 0], [1, 4, 1], [1, 5, 0], [4, 7, 0]]
    assert near_duplicates(hashes, 0).tolist() == [[0, 8, 0], [1, 3, 0], [1, 5, 0], [4, 7, 0]]


@pytest.mark.parametrize("hashes", [[], [""], ["", ""], ["00000000000000ff"], ["00000000000000ff", "", ""]])
def test_no_pair(hashes: list[str]) -> None:
    found = near_duplicates(hashes)
    assert (found.shape, found.dtype) == ((0, 3), np.int64)


# --- real photos ----------------------------------------------------------------------------------------------


def resized(image: Image.Image, path: Path) -> None:
    image.resize((image.width * 3 // 5, image.height * 3 // 5)).save(path.with_suffix(".png"))


def encoded_again(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".jpg"), quality=35)


def brighter(image: Image.Image, path: Path) -> None:
    ImageEnhance.Brightness(image).enhance(1.07).save(path.with_suffix(".webp"), quality=90)


def grey(image: Image.Image, path: Path) -> None:
    image.convert("L").save(path.with_suffix(".bmp"))


def test_copies_of_a_photo_are_found_and_other_photos_are_not(examples: Path, tmp_path: Path) -> None:
    originals = sorted(examples.glob("*.jpg"))
    for original in originals:
        (tmp_path / f"{original.stem}.original.jpg").write_bytes(original.read_bytes())
        with Image.open(original) as image:
            for change in (resized, encoded_again, brighter, grey):
                change(image.convert("RGB"), tmp_path / f"{original.stem}.{change.__name__}.x")
    paths = sorted(path.name for path in tmp_path.iterdir())
    assert len(paths) == 5 * len(originals) == 20
    found = look(tmp_path, paths, tmp_path / "images.jsonl", 2)
    hashes = [found[path].phash for path in paths]
    group = list(range(len(paths)))  # images that pairs join get one number
    for i, j, _ in near_duplicates(hashes, MAX_DISTANCE).tolist():
        group = [group[i] if number == group[j] else number for number in group]
    for i, one in enumerate(paths):
        for j, other in enumerate(paths):
            assert (group[i] == group[j]) == (one.split(".")[0] == other.split(".")[0]), (one, other)

"""NUS-WIDE from raw archives: what lands in the folder, and what is said where an archive is not what it should be."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import NusArchive, write_lines, write_photo

from data_prep import binary_matrix, nus_wide_archive
from data_prep.binary_matrix import read_binary_matrix
from data_prep.nus_wide import NusWide
from data_prep.nus_wide_archive import Archive
from data_prep.pipeline import Options, prepare
from data_prep.results import DatasetInfo
from zsl_tagger.datasets.format import parse_labels
from zsl_tagger.datasets.read import load_dataset, read_dataset
from zsl_tagger.errors import UserError

pytestmark = pytest.mark.slow

OPTIONS = Options(missing="random", val_fraction=0.2)


@pytest.fixture
def archive(tmp_path: Path) -> NusArchive:
    return NusArchive(tmp_path / "raw")


def prepared(archive: NusArchive, out: Path, options: Options = OPTIONS, protocol: Any = "mld") -> DatasetInfo:
    return prepare(NusWide(source=archive.folder, protocol=protocol, allow_subset=True), out, options)


def rows_of(folder: Path) -> dict[str, tuple[set[str], str]]:
    with (folder / "data.csv").open(newline="") as file:
        return {row["path"]: (set(parse_labels(row["labels"])), row["split"]) for row in csv.DictReader(file)}


def test_seen_labels_are_tags_and_unseen_ones_human(archive: NusArchive, tmp_path: Path) -> None:
    """A slow loop over the archive as it was made says the same, image by image."""
    info = prepared(archive, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    expected = {}
    for row, (image, split) in enumerate(zip(archive.images, archive.split, strict=True)):
        labels = archive.labels_of(row)
        if split == "train":
            labels -= set(archive.CONCEPTS)
        if labels & set(archive.CONCEPTS) or (labels and split == "train"):
            expected[image] = (labels, split)
    assert {path: (labels, split.replace("val", "train")) for path, (labels, split) in rows.items()} == expected
    assert archive.images[4] not in rows  # no seen label
    assert archive.images[5] not in rows  # no unseen label
    assert info.images == dict(Counter(split for _, split in rows.values()))
    assert info.source["images_of_each_concept"] == dict(
        zip(archive.CONCEPTS, archive.concept_rows.sum(axis=0).tolist(), strict=True)
    )


def test_the_folder_is_sound_and_complete(archive: NusArchive, tmp_path: Path) -> None:
    prepared(archive, tmp_path / "out")
    dataset, problems = read_dataset(tmp_path / "out", archive.folder / "Flickr")
    assert dataset is not None, problems
    assert dataset.labels == ("boat", "car", "dog", "dogs", "nature", "sky", "sunset", "water")
    seen, unseen = ["boat", "dogs", "nature", "sunset", "water"], ["car", "dog", "sky"]
    assert [label for label, is_seen in zip(dataset.labels, dataset.seen, strict=True) if is_seen] == seen
    benchmark = json.loads((tmp_path / "out" / "benchmark_81_v0.json").read_text())
    assert benchmark == {"train class": seen, "test class": unseen}
    matrix = torch.load(tmp_path / "out" / "wordvec_array.pth", weights_only=True)
    assert matrix.shape == (256, 8)
    assert matrix.dtype == torch.float32
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    assert report["twins"] == [{"seen": "dogs", "unseen": "dog"}]
    assert report["same_vector"] == [["dog", "dogs"]]  # the packaged table reads the plural as the singular


def test_lesa_keeps_every_image_and_both_protocols_are_counted(archive: NusArchive, tmp_path: Path) -> None:
    small = archive.folder / "Flickr" / archive.images[7]
    write_photo(small, 7, side=16)
    assert 0 < small.stat().st_size <= 4000
    mld = prepared(archive, tmp_path / "mld")
    lesa = prepared(archive, tmp_path / "lesa", protocol="lesa")
    assert mld.images_by_protocol == lesa.images_by_protocol
    assert mld.images == mld.images_by_protocol["mld"]
    assert lesa.images == lesa.images_by_protocol["lesa"]
    assert sum(lesa.images.values()) == 22  # all but the small file
    assert lesa.dropped == {"file smaller than 4,001 bytes": 1}
    assert archive.images[7] not in rows_of(tmp_path / "lesa")


@pytest.mark.parametrize("place", ["AllLabels", "Groundtruth/AllLabels"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_both_unpackings_and_both_line_ends(place: str, end: str, tmp_path: Path) -> None:
    archive = NusArchive(tmp_path / "raw", labels=place, photos=False, end=end)
    opened = Archive.open(tmp_path / "raw")
    assert opened.images == archive.images
    targets = opened.targets().toarray()
    for row in range(len(archive.images)):
        assert {opened.labels[column] for column in np.flatnonzero(targets[row])} == archive.labels_of(row)


def test_images_that_cannot_be_used_are_counted_and_listed(archive: NusArchive, tmp_path: Path) -> None:
    flickr = archive.folder / "Flickr"
    (flickr / archive.images[0]).unlink()
    (flickr / archive.images[1]).write_bytes(b"")
    (flickr / archive.images[2]).write_bytes((flickr / archive.images[2]).read_bytes()[:700])
    placeholder = tmp_path / "placeholder.jpg"
    write_photo(placeholder, 999)
    for row in range(11, 21):
        (flickr / archive.images[row]).write_bytes(placeholder.read_bytes())
    info = prepared(archive, tmp_path / "out", protocol="lesa")
    assert info.dropped["photo-unavailable placeholder"] == 10
    assert info.dropped["missing"] == 1
    assert info.dropped["empty file"] == 1
    assert info.dropped["broken image data"] == 1
    with (tmp_path / "out" / "dropped.csv").open(newline="") as file:
        dropped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert dropped[archive.images[0]] == "missing"
    assert set(archive.images[11:21]) <= set(dropped)
    assert not set(dropped) & set(rows_of(tmp_path / "out"))


def test_near_duplicates_in_train_and_test_are_reported(archive: NusArchive, tmp_path: Path) -> None:
    flickr = archive.folder / "Flickr"
    write_photo(flickr / archive.images[3], seed=2, side=128)  # image 2 (train) once more, as image 3 (test)
    prepared(archive, tmp_path / "out", protocol="lesa")
    near = json.loads((tmp_path / "out" / "split_report.json").read_text())["near_duplicates"]
    assert [set(pair["images"]) for pair in near["pairs"]] == [{archive.images[2], archive.images[3]}]
    page = (tmp_path / "out" / "split_report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2


def test_skipping_the_images_needs_none(tmp_path: Path) -> None:
    archive = NusArchive(tmp_path / "raw", photos=False)
    info = prepared(archive, tmp_path / "out", Options(missing="random", skip_images=True), "lesa")
    assert sum(info.images.values()) == 23
    assert info.images_looked_at is False
    assert "not looked at" in (tmp_path / "out" / "split_report.html").read_text()


def test_counts_are_asserted_and_the_differing_ones_named(archive: NusArchive, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tags: expected 1,000, got 7; .*test images: expected 107,859, got 11\."):
        prepare(NusWide(source=archive.folder), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_the_right_counts_need_no_leave(archive: NusArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nus_wide_archive, "EXPECTED", archive.COUNTS)
    prepare(NusWide(source=archive.folder), tmp_path / "out", OPTIONS)
    assert load_dataset(tmp_path / "out")


def damage(path: str, change: Callable[[list[str]], list[str]]) -> Callable[[NusArchive], None]:
    def apply(archive: NusArchive) -> None:
        file = archive.folder / path
        write_lines(file, change(file.read_text().splitlines()))

    return apply


TAGS, LABELS = "NUS_WID_Tags/AllTags1k.txt", "Groundtruth/AllLabels/Labels_dog.txt"
IMAGES, TRAIN, TEST = (f"ImageList/{name}.txt" for name in ("Imagelist", "TrainImagelist", "TestImagelist"))


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (damage(TAGS, lambda rows: [*rows[:4], rows[4][2:], *rows[5:]]), r"AllTags1k.txt:5: expected 7 values, got 6"),
        (damage(TAGS, lambda rows: [*rows[:4], rows[4] + "1", *rows[5:]]),
         r"AllTags1k.txt:5: expected 7 values, got 8"),
        (damage(TAGS, lambda rows: [*rows[:8], rows[8].replace("0", "2", 1), *rows[9:]]),
         r"AllTags1k.txt:9: expected 0 or 1 in column \d, got '2'"),
        (damage(TAGS, lambda rows: [*rows[:8], rows[8][:-2] + "1.0", *rows[9:]]),
         r"AllTags1k.txt:9: expected 0 or 1 in column 7, got '[01]?1.0'"),
        (damage(TAGS, lambda rows: rows[:-1]), r"AllTags1k.txt: expected 23 rows, one for each image .*, got 22"),
        (damage(TAGS, lambda rows: [*rows[:3], "", *rows[3:]]), r"AllTags1k.txt:4: expected 7 values, got 0"),
        (damage(LABELS, lambda rows: [*rows, "1"]), r"Labels_dog.txt: expected 23 rows, one for each image .*, got 24"),
        (damage(LABELS, lambda rows: [*rows[:6], "yes", *rows[7:]]), r"Labels_dog.txt:7: expected 0 or 1 .*got 'yes'"),
        (damage(IMAGES, lambda rows: [*rows[:9], rows[2], *rows[10:]]),
         r"Imagelist.txt:10: the image 'folder2/0002_1002.jpg' is already listed in line 3"),
        (damage(IMAGES, lambda rows: [*rows[:9], r"..\..\etc\passwd", *rows[10:]]),
         r"Imagelist.txt:10: the path '../../etc/passwd' leaves the image root"),
        (damage(IMAGES, lambda rows: [*rows[:9], r"C:\photos\a.jpg", *rows[10:]]),
         r"Imagelist.txt:10: expected a path below the image root"),
        (damage(TRAIN, lambda rows: [*rows[:2], r"x\y.jpg", *rows[3:]]),
         r"TrainImagelist.txt:3: the image 'x/y.jpg' is not in .*Imagelist.txt"),
        (damage(TEST, lambda rows: [*rows, r"folder0\0000_1000.jpg"]),
         r"TestImagelist.txt:12: the image 'folder0/0000_1000.jpg' is already in the train list"),
        (damage(TEST, lambda rows: rows[1:]),
         r"Imagelist.txt: images neither in TrainImagelist.txt nor in TestImagelist.txt \(1\)"),
        (damage("NUS_WID_Tags/TagList1k.txt", lambda rows: [*rows[:3], "sky", *rows[4:]]),
         r"TagList1k.txt:4: 'sky' is already listed in line 2"),
        (lambda archive: (archive.folder / TAGS).unlink(),
         r"missing: NUS_WID_Tags/AllTags1k.txt or AllTags1k.txt\. Exp"),
        (lambda archive: (archive.folder / LABELS).unlink(), r"lacks 1 of 3 files: Labels_dog.txt"),
    ],
)  # fmt: skip
def test_a_broken_archive_is_told_with_file_and_line(
    archive: NusArchive, tmp_path: Path, damaged: Callable[[NusArchive], None], message: str
) -> None:
    damaged(archive)
    with pytest.raises(UserError, match=message):
        prepared(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "data.csv").exists()


def test_wrong_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*gone: expected the unpacked NUS-WIDE archives"):
        Archive.open(tmp_path / "gone")
    with pytest.raises(UserError, match=r"missing: ConceptsList/Concepts81.txt or Concepts81.txt; NUS_WID_Tags"):
        Archive.open(tmp_path)


def test_names_in_latin_1_are_read(archive: NusArchive) -> None:
    tags = archive.folder / "NUS_WID_Tags/TagList1k.txt"
    tags.write_bytes(tags.read_bytes().replace(b"nature", "café".encode("latin-1")))
    assert Archive.open(archive.folder).tags[0] == "café"


# --- the matrix reader ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 13, 64, 1 << 20])
@pytest.mark.parametrize("between", [" ", "\t", "  \t"])
def test_a_matrix_is_the_same_in_blocks_of_any_size(
    block: int, between: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(3).integers(0, 2, (37, 11))
    path = tmp_path / "matrix.txt"
    path.write_text("\r\n".join(between.join(map(str, row)) + " " for row in values) + "\r\n\r\n")
    monkeypatch.setattr(binary_matrix, "_CHUNK", block)
    assert np.array_equal(read_binary_matrix(path, 11, 37).toarray(), values)


@pytest.mark.parametrize("block", [1, 64, 1 << 20])
def test_the_line_of_a_fault_is_right_in_blocks_of_any_size(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["0 1 1"] * 40
    lines[28] = "0 1 x"
    (tmp_path / "matrix.txt").write_text("\n".join(lines))
    monkeypatch.setattr(binary_matrix, "_CHUNK", block)
    with pytest.raises(UserError, match=r"matrix.txt:29: expected 0 or 1 in column 3, got 'x'"):
        read_binary_matrix(tmp_path / "matrix.txt", 3, 40)


def test_values_that_touch_are_not_two(tmp_path: Path) -> None:
    (tmp_path / "matrix.txt").write_text("01 1\n1 0 1\n")
    with pytest.raises(UserError, match=r"matrix.txt:1: expected 3 values, got 2"):
        read_binary_matrix(tmp_path / "matrix.txt", 3, 2)


def test_an_empty_matrix_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "matrix.txt").write_text("")
    with pytest.raises(UserError, match=r"expected 5 rows, one for each image of the image list, got 0"):
        read_binary_matrix(tmp_path / "matrix.txt", 3, 5)

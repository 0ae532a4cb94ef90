"""NUS-WIDE 925/81 from the raw archives.

Seen labels are the 1,000 most frequent Flickr tags (``AllTags1k``) less the 81 concepts; unseen labels are the 81
concepts, as people have annotated them (``AllLabels``), not as tags. 75 of the concepts are among the 1,000 tags, so
925 labels are seen and the vocabulary has 1,006.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.sparse import csr_array, hstack

from data_prep.output import OutputFolder
from data_prep.pipeline import Found, Options, Protocol, build, vectors_for
from data_prep.text import read_text
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError

BENCHMARK_FILE = "benchmark_81_v0.json"

#: mld: the released ML-Decoder code drops test images without an unseen label and train images without a seen one.
#: lesa: LESA keeps all of them (BiAM too), but takes a file of 4,000 bytes or less for a placeholder.
PROTOCOLS = {
    "mld": Protocol(train_shows_seen=True, test_shows="unseen"),
    "lesa": Protocol(train_shows_seen=False, test_shows="nothing", min_bytes=4001),
}

#: What the archive of 2009 holds.
EXPECTED = {
    "tags": 1000,
    "concepts": 81,
    "tags that are concepts": 75,
    "seen labels": 925,
    "labels": 1006,
    "images": 269_648,
    "train images": 161_789,
    "test images": 107_859,
}

_CONCEPTS = ("ConceptsList/Concepts81.txt", "Concepts81.txt")
_TAGS = ("NUS_WID_Tags/TagList1k.txt", "TagList1k.txt")
_TAG_MATRIX = ("NUS_WID_Tags/AllTags1k.txt", "AllTags1k.txt")
_LABEL_FOLDERS = ("AllLabels", "Groundtruth/AllLabels")
_IMAGE_FOLDERS = ("Flickr", "images/Flickr", "Flickr/Flickr")
_CHUNK = 16 << 20  # bytes of the tag matrix read at a time


@dataclass(frozen=True)
class Archive:
    """The parts of an archive, found and checked against each other; the matrices are not read yet.

    Attributes:
        tags, concepts: names in file order.
        images: all image paths in file order, with ``/``, below ``image_root``.
        splits: "train" or "test" for each image.
    """

    source: Path
    tags: list[str]
    concepts: list[str]
    images: list[str]
    splits: np.ndarray
    tag_matrix: Path
    label_files: list[Path]
    image_root: Path

    @classmethod
    def open(cls, source: Path) -> Archive:
        """Find the files and read the lists.

        Raises:
            UserError: parts are missing (all are named), or a list is not what it should be (file and line).
        """
        if not source.is_dir():
            raise UserError(f"no folder at {source}: expected the unpacked NUS-WIDE archives")
        parts = {name: _find(source, places) for name, places in _PLACES.items()}
        missing = [" or ".join(_PLACES[name]) for name, path in parts.items() if path is None]
        if missing:
            raise UserError(
                f"{source} is not the whole NUS-WIDE archive, it lacks: {'; '.join(missing)}. Expected the unpacked "
                "ConceptsList, NUS_WID_Tags, Groundtruth (AllLabels) and ImageList"
            )
        found = {name: path for name, path in parts.items() if path is not None}
        concepts, tags = (_read_names(found[name]) for name in ("concepts", "tags"))
        for name, names in (("concepts", concepts), ("tags", tags)):
            if not names:
                raise UserError(f"{found[name]} names no label")
        label_files = [found["labels"] / f"Labels_{concept}.txt" for concept in concepts]
        absent = [path.name for path in label_files if not path.is_file()]
        if absent:
            raise UserError(f"{found['labels']} lacks {len(absent)} of {len(concepts)} files: {', '.join(absent[:5])}")
        images = _read_image_list(found["images"])
        image_root = _find(source, _IMAGE_FOLDERS) or source / "Flickr"
        return cls(
            source, tags, concepts, images, _read_splits(found["train"], found["test"], found["images"], images),
            found["tag matrix"], label_files, image_root,
        )  # fmt: skip

    @property
    def seen(self) -> list[str]:
        return [tag for tag in self.tags if tag not in set(self.concepts)]

    @property
    def labels(self) -> list[str]:
        return sorted({*self.seen, *self.concepts})

    def counts(self) -> dict[str, int]:
        """What :data:`EXPECTED` has, for this archive."""
        return {
            "tags": len(self.tags),
            "concepts": len(self.concepts),
            "tags that are concepts": len(set(self.tags) & set(self.concepts)),
            "seen labels": len(self.seen),
            "labels": len(self.labels),
            "images": len(self.images),
            "train images": int((self.splits == "train").sum()),
            "test images": int((self.splits == "test").sum()),
        }

    def check_counts(self) -> None:
        counts = self.counts()
        differing = [f"{name}: expected {EXPECTED[name]:,}, got {counts[name]:,}" for name in EXPECTED
                     if counts[name] != EXPECTED[name]]  # fmt: skip
        if differing:
            raise UserError(
                f"{self.source} is not the NUS-WIDE of the papers: {'; '.join(differing)}. "
                "--allow-subset prepares it all the same"
            )

    def targets(self) -> csr_array:
        """bool ``(N, K)`` over :attr:`labels`: tags for the seen labels, human annotation for the unseen."""
        tags = read_binary_matrix(self.tag_matrix, len(self.tags), len(self.images))
        human = hstack([read_binary_matrix(path, 1, len(self.images)) for path in self.label_files], format="csr")
        names = [*self.tags, *self.concepts]
        column = {name: index for index, name in enumerate(names)}  # a concept's column is the human one: it is later
        return csr_array(hstack([tags, human], format="csc")[:, [column[label] for label in self.labels]])


_PLACES = {
    "concepts": _CONCEPTS,
    "tags": _TAGS,
    "tag matrix": _TAG_MATRIX,
    "labels": _LABEL_FOLDERS,
    "images": ("ImageList/Imagelist.txt", "ImageList/ImageList.txt"),
    "train": ("ImageList/TrainImagelist.txt",),
    "test": ("ImageList/TestImagelist.txt",),
}


def prepare_nus_wide(
    source: Path, output: Path, options: Options, protocol: str = "mld", allow_subset: bool = False
) -> dict[str, Any]:
    """``prepare nus-wide``.

    Args:
        source: folder of the unpacked archives.
        protocol: "mld" or "lesa", see :data:`PROTOCOLS`; the images that both would keep are counted.
        allow_subset: prepare an archive with other counts than :data:`EXPECTED`.

    Returns:
        The content of ``dataset.json``.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"expected --protocol of {', '.join(PROTOCOLS)}; got {protocol!r}")
    archive = Archive.open(source)
    if not allow_subset:
        archive.check_counts()
    identity = {"prepare": "nus-wide", "source": str(source.resolve()), "protocol": protocol, **options.identity()}
    out = OutputFolder(output, identity, options.overwrite)
    vectors = vectors_for(archive.labels, options)  # before the long reading: it may fail
    with out.claimed():
        targets = archive.targets()
        per_label = dict(zip(archive.labels, targets.sum(axis=0).tolist(), strict=True))
        found = Found(
            name="NUS-WIDE 925/81",
            image_root=Path(os.path.realpath(archive.image_root)),
            paths=archive.images,
            labels=archive.labels,
            targets=targets,
            splits=archive.splits,
            unseen=archive.concepts,
            benchmark=BENCHMARK_FILE,
            protocols=PROTOCOLS,
            protocol=protocol,
            placeholders=True,
            facts={
                **archive.counts(),
                "seen labels are": "Flickr user tags",
                "unseen labels are": "human annotation",
                "images of each concept": {concept: per_label[concept] for concept in archive.concepts},
            },
        )
        return build(found, vectors, out, options)


# --- reading the files ----------------------------------------------------------------------------------------


def _find(source: Path, places: Sequence[str]) -> Path | None:
    return next((source / place for place in places if (source / place).exists()), None)


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, line) of a list; blank lines are left out."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), start=1)]
    return [(number, line) for number, line in lines if line]


def _read_names(path: Path) -> list[str]:
    first: dict[str, int] = {}
    for number, name in _read_lines(path):
        if name in first:
            raise UserError(f"{path}:{number}: {name!r} is listed already in line {first[name]}")
        first[name] = number
    return list(first)


def _read_image_list(path: Path) -> list[str]:
    first: dict[str, int] = {}
    for number, line in _read_lines(path):
        image = line.replace("\\", "/")
        if fault := path_fault(image):
            raise UserError(f"{path}:{number}: {fault}")
        if image in first:
            raise UserError(f"{path}:{number}: the image {image!r} is listed already in line {first[image]}")
        first[image] = number
    return list(first)


def _read_splits(train: Path, test: Path, all_images: Path, images: list[str]) -> np.ndarray:
    row = {image: index for index, image in enumerate(images)}
    splits = np.full(len(images), "", "<U5")
    for split, path in (("train", train), ("test", test)):
        for number, line in _read_lines(path):
            image = line.replace("\\", "/")
            if image not in row:
                raise UserError(f"{path}:{number}: the image {image!r} is not in {all_images}")
            if splits[row[image]]:
                raise UserError(f"{path}:{number}: the image {image!r} is in the {splits[row[image]]} list already")
            splits[row[image]] = split
    without = np.flatnonzero(splits == "")
    if len(without):
        raise UserError(
            f"{all_images}: images neither in {train.name} nor in {test.name} ({len(without)}), "
            f"the first is {images[without[0]]!r}"
        )
    return splits


def read_binary_matrix(path: Path, columns: int, rows: int) -> csr_array:
    """A text of 0 and 1, columns between spaces or tabs -> bool ``(rows, columns)``.

    Raises:
        UserError: a row is too short or too long, a value is neither 0 nor 1, or the number of rows is another one; the
            message names file and line.
    """
    parts, line = [], 1
    with path.open("rb") as file:
        end = _content_end(file)
        while block := file.read(min(_CHUNK, max(end - file.tell(), 0))):
            block += file.readline()
            parts.append(_parse_block(block, columns, path, line))
            line += block.count(b"\n")
    lengths = np.concatenate([counts for counts, _ in parts]) if parts else np.zeros(0, np.int64)
    if len(lengths) != rows:
        raise UserError(f"{path}: expected {rows:,} rows, one for each image of the image list, got {len(lengths):,}")
    indices = np.concatenate([ones for _, ones in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((np.ones(len(indices), bool), indices, starts), shape=(rows, columns))


def _content_end(file: BinaryIO) -> int:
    """Where the blank lines at the end of a file begin; the file is left at its start."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - 4096, 0)
        file.seek(start)
        if content := file.read(end - start).rstrip():
            end = start + len(content)
            break
        end = start
    file.seek(0)
    return end


def _parse_block(block: bytes, columns: int, path: Path, first_line: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole lines -> (ones in each row, columns of all ones).

    Values are single characters here, so that no text has to be split: half a gigabyte is read in seconds.
    """
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    is_value = (text != ord(" ")) & (text != ord("\t")) & (text != ord("\r")) & (text != ord("\n"))
    at = np.flatnonzero(is_value)
    values = text[at]
    ends = np.searchsorted(at, np.flatnonzero(text == ord("\n")))  # values before the end of each line
    widths = np.diff(ends, prepend=0)
    if (widths != columns).any() or (is_value[1:] & is_value[:-1]).any() or ((values | 1) != ord("1")).any():
        raise UserError(_first_fault(block, columns, path, first_line))
    ones = (values == ord("1")).reshape(-1, columns)  # (rows, columns)
    return ones.sum(axis=1), np.flatnonzero(ones).astype(np.int32) % columns


def _first_fault(block: bytes, columns: int, path: Path, first_line: int) -> str:
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        values = line.split()
        if len(values) != columns:
            return f"{path}:{number}: expected {columns:,} values, got {len(values):,}"
        for column, value in enumerate(values, start=1):
            if value not in (b"0", b"1"):
                return f"{path}:{number}: expected 0 or 1 in column {column}, got {value[:20].decode('latin-1')!r}"
    raise AssertionError(f"{path}: no fault found from line {first_line}")

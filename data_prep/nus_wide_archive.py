"""Find and read the files of the NUS-WIDE archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, hstack

from data_prep.binary_matrix import read_binary_matrix
from data_prep.source import first_existing
from data_prep.text import numbered_lines
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError

#: Counts in the archive of 2009.
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


@dataclass(frozen=True)
class Archive:
    """Parts of an archive, checked against each other; the matrices are not read yet.

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
            UserError: parts are missing (the message names all), or a list is invalid (it names file and line).
        """
        if not source.is_dir():
            raise UserError(f"no folder at {source}: expected the unpacked NUS-WIDE archives")
        parts = {name: first_existing(source, places) for name, places in _PLACES.items()}
        missing = [" or ".join(_PLACES[name]) for name, path in parts.items() if path is None]
        if missing:
            raise UserError(
                f"{source} is not the complete NUS-WIDE archive, missing: {'; '.join(missing)}. Expected the unpacked "
                "ConceptsList, NUS_WID_Tags, Groundtruth (AllLabels) and ImageList"
            )
        found = {name: path for name, path in parts.items() if path is not None}
        concepts, tags = (_read_names(found[name]) for name in ("concepts", "tags"))
        for name, names in (("concepts", concepts), ("tags", tags)):
            if not names:
                raise UserError(f"{found[name]} has no labels")
        label_files = [found["labels"] / f"Labels_{concept}.txt" for concept in concepts]
        absent = [path.name for path in label_files if not path.is_file()]
        if absent:
            raise UserError(f"{found['labels']} lacks {len(absent)} of {len(concepts)} files: {', '.join(absent[:5])}")
        images = _read_image_list(found["images"])
        image_root = first_existing(source, _IMAGE_FOLDERS) or source / "Flickr"
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
        """Count the items of :data:`EXPECTED` in this archive."""
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
                "--allow-subset prepares it anyway"
            )

    def targets(self) -> csr_array:
        """Return bool ``(N, K)`` over :attr:`labels`: tags for the seen labels, human annotation for the unseen."""
        tags = read_binary_matrix(self.tag_matrix, len(self.tags), len(self.images))
        human = hstack([read_binary_matrix(path, 1, len(self.images)) for path in self.label_files], format="csr")
        names = [*self.tags, *self.concepts]
        column = {name: index for index, name in enumerate(names)}  # for a concept the human annotation, which is later
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


def _read_names(path: Path) -> list[str]:
    first: dict[str, int] = {}
    for number, name in numbered_lines(path):
        if name in first:
            raise UserError(f"{path}:{number}: {name!r} is already listed in line {first[name]}")
        first[name] = number
    return list(first)


def _read_image_list(path: Path) -> list[str]:
    first: dict[str, int] = {}
    for number, line in numbered_lines(path):
        image = line.replace("\\", "/")
        if fault := path_fault(image):
            raise UserError(f"{path}:{number}: {fault}")
        if image in first:
            raise UserError(f"{path}:{number}: the image {image!r} is already listed in line {first[image]}")
        first[image] = number
    return list(first)


def _read_splits(train: Path, test: Path, all_images: Path, images: list[str]) -> np.ndarray:
    row = {image: index for index, image in enumerate(images)}
    splits = np.full(len(images), "", "<U5")
    for split, path in (("train", train), ("test", test)):
        for number, line in numbered_lines(path):
            image = line.replace("\\", "/")
            if image not in row:
                raise UserError(f"{path}:{number}: the image {image!r} is not in {all_images}")
            if splits[row[image]]:
                raise UserError(f"{path}:{number}: the image {image!r} is already in the {splits[row[image]]} list")
            splits[row[image]] = split
    without = np.flatnonzero(splits == "")
    if len(without):
        raise UserError(
            f"{all_images}: images neither in {train.name} nor in {test.name} ({len(without)}), "
            f"the first is {images[without[0]]!r}"
        )
    return splits

"""Read OpenImages V4 to V7 from its CSV files: labels verified by people on nine million images.

A row records that a class is on an image (confidence 1) or is not (confidence 0). Pairs without a row are unknown.
Files are read in blocks, and an image id is stored as the value of its 16 hexadecimal digits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from data_prep.open_images_classes import Classes
from data_prep.source import VECTORS_OF_PAPERS, Found, Protocol, Source, first_existing
from zsl_tagger.errors import UserError, first_line, require

#: Split -> its image folder, which is also its name in versions 4 to 6.
FOLDERS = {"train": "train", "val": "validation", "test": "test"}

_PLACES = (".", "annotations", "labels", "metadata", "2018_04")
_HOST = "https://storage.googleapis.com/openimages/web/download_v7.html"
_COLUMNS = ("ImageID", "LabelName", "Confidence")
_BLOCK = 1 << 24  # bytes of CSV at a time
_DIGITS = 16

#: The value of each hexadecimal digit; 255 for all other bytes.
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True, kw_only=True)
class OpenImages(Source):
    """Options of OpenImages.

    Attributes:
        source: folder of the CSV files (see docs/prepare.md) and of ``train/``, ``validation/`` and ``test/`` with the
            images (or ``images/...``).
        seen_classes: a file with the ids or names of the seen classes, one per line; None for the trainable ones.
        unseen_classes: a file with the unseen ones, or LESA's ``top_400_unseen.csv``; None for none.
        machine_labels: count machine-generated labels of training images as positive from this confidence (0..1) on, if
            no person has verified them; None: do not use them.
        keep_unlabelled: keep images without a positive label.
    """

    command = "open-images"

    seen_classes: Path | None = None
    unseen_classes: Path | None = None
    machine_labels: float | None = None
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.machine_labels is not None and not 0 < self.machine_labels <= 1:
            raise UserError(f"expected --machine-labels above 0 and at most 1, got {self.machine_labels}")

    def read(self, _output: Path, /) -> Found:
        require("pyarrow", "train")
        files = {split: self._find(*_names(split, "human"), folder=folder) for split, folder in FOLDERS.items()}
        machine = None if self.machine_labels is None else self._find(*_names("train", "machine"), folder="train")
        classes = Classes.read(
            self._find("oidv7-class-descriptions.csv", "oidv6-class-descriptions.csv", "class-descriptions.csv"),
            self.seen_classes
            or self._find("oidv7-classes-trainable.txt", "oidv6-classes-trainable.txt", "classes-trainable.txt"),
            self.unseen_classes,
        )
        parts = {split: _Rows.read(file, classes) for split, file in files.items()}
        if machine is not None and self.machine_labels is not None:
            parts["train"] = parts["train"].joined(_Rows.read(machine, classes, self.machine_labels))
        return self._found(classes, {split: rows.verified(len(classes.labels)) for split, rows in parts.items()})

    def _found(self, classes: Classes, parts: dict[str, Verified]) -> Found:
        root = self.source / "images" if (self.source / "images").is_dir() else self.source
        paths = [path for split, part in parts.items() for path in _paths(root, FOLDERS[split], part.images)]
        return Found(
            name="OpenImages",
            image_root=root.resolve(),
            paths=paths,
            labels=classes.labels,
            targets=csr_array(vstack([part.positive for part in parts.values()], format="csr")),
            negatives=csr_array(vstack([part.negative for part in parts.values()], format="csr")),
            splits=np.repeat(list(parts), [len(part.images) for part in parts.values()]),
            unseen=classes.unseen,
            benchmark="benchmark_open_images.json",
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            vectors_of_papers=VECTORS_OF_PAPERS if classes.unseen else "",
            facts={
                "classes_described": len(classes.columns),
                "labels": len(classes.labels),
                "images": {split: len(part.images) for split, part in parts.items()},
                "labels_verified_both_ways": {split: part.contradictory for split, part in parts.items()},
                "machine_labels_from_confidence": self.machine_labels,
            },
        )

    def _find(self, *names: str, folder: str = ".") -> Path:
        """Return the first of these files that exists, in the source, a usual folder or the folder of the split."""
        if not self.source.is_dir():
            raise UserError(f"no folder at {self.source}: expected OpenImages' CSV files, from {_HOST}")
        places = (f"{place}/{inner}/{name}" for name in names for place in _PLACES for inner in (".", folder))
        found = first_existing(self.source, places)
        if found is None:
            raise UserError(f"{self.source} lacks {names[0]} (or {', '.join(names[1:])}): download it from {_HOST}")
        return found


@dataclass(frozen=True)
class Verified:
    """Labels of the n images of a split.

    Attributes:
        images: uint64 ``(n,)``, sorted ids.
        positive, negative: bool ``(n, K)``.
        contradictory: number of labels that are verified both as present and as absent, and are therefore unknown.
    """

    images: np.ndarray
    positive: csr_array
    negative: csr_array
    contradictory: int


@dataclass(frozen=True)
class _Rows:
    """Rows of a label file whose class is a label.

    Attributes:
        images: uint64 ``(rows,)``.
        columns: int32 ``(rows,)``, label of each row.
        kinds: uint8 ``(rows,)``: 0 absent, 1 present, 2 present according to a machine.
    """

    images: np.ndarray
    columns: np.ndarray
    kinds: np.ndarray

    @classmethod
    def read(cls, file: Path, classes: Classes, machine: float | None = None) -> _Rows:
        """Read a file; ``machine`` is the minimum confidence in a file of machine-generated labels."""
        blocks = list(_read_blocks(file, classes, machine))
        if not blocks:
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.uint8))
        return cls(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))

    def joined(self, other: _Rows) -> _Rows:
        """Concatenate the rows of both."""
        return _Rows(*(np.concatenate(both) for both in zip(vars(self).values(), vars(other).values(), strict=True)))

    def verified(self, labels: int) -> Verified:
        """Return the labels of each image; people overrule machines."""
        images, rows = np.unique(self.images, return_inverse=True)
        pairs = rows.astype(np.int64) * labels + self.columns  # one number per image and label
        absent, there, by_machine = (np.unique(pairs[self.kinds == kind]) for kind in range(3))
        both = np.intersect1d(absent, there, assume_unique=True)
        there = np.union1d(there, np.setdiff1d(by_machine, absent, assume_unique=True))
        positive, negative = (
            _matrix(np.setdiff1d(known, both, assume_unique=True), (len(images), labels)) for known in (there, absent)
        )
        return Verified(images, positive, negative, contradictory=len(both))


def _matrix(pairs: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Return bool ``(n, K)`` from the numbers of its True entries."""
    return csr_array((np.ones(len(pairs), bool), np.divmod(pairs, shape[1])), shape=shape, dtype=bool)


def _names(split: str, kind: str) -> list[str]:
    """Return the names of a split's label file in versions 7, 6 and 4 to 5."""
    tail = f"annotations-{kind}-imagelabels.csv"
    return [f"oidv7-{split}-{tail}", f"oidv6-{FOLDERS[split]}-{tail}", f"{FOLDERS[split]}-{tail}"]


def _paths(root: Path, folder: str, images: np.ndarray) -> list[str]:
    """Return the paths of images; archives train_0 to train_f are named after the first digit of the ids."""
    in_parts = not (root / folder).is_dir() and (root / f"{folder}_0").is_dir()
    ids = [f"{number:0{_DIGITS}x}" for number in images.tolist()]
    return [f"{folder}_{one[0]}/{one}.jpg" if in_parts else f"{folder}/{one}.jpg" for one in ids]


def _read_blocks(
    file: Path, classes: Classes, machine: float | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield image ids, columns and kinds of the rows of each block whose class is a label."""
    line = 2
    for block in _blocks(file):
        names = block.column("LabelName").dictionary_encode()
        known = [classes.columns.get(name) for name in names.dictionary.to_pylist()]
        places = names.indices.to_numpy()
        if None in known:
            row = int(np.flatnonzero(places == known.index(None))[0])
            raise UserError(
                f"{file}:{line + row}: the class {names[row].as_py()!r} is not among the "
                f"{len(classes.columns):,} of {classes.file}: are they from the same version?"
            )
        at = np.array(known, np.int32)[places] if known else np.zeros(0, np.int32)
        confidence = block.column("Confidence").to_numpy(zero_copy_only=False)
        _check_confidence(file, line, confidence, machine is not None)
        images = _numbers(file, line, block.column("ImageID"))
        if machine is None:
            keep, kinds = at >= 0, confidence.astype(np.uint8)
        else:
            keep, kinds = (at >= 0) & (confidence >= machine), np.full(len(at), 2, np.uint8)
        yield images[keep], at[keep], kinds[keep]
        line += len(at)


def _check_confidence(file: Path, line: int, values: np.ndarray, machine: bool) -> None:
    with np.errstate(invalid="ignore"):
        fits = (values >= 0) & (values <= 1) if machine else (values == 0) | (values == 1)
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        expected = "of 0 to 1" if machine else "of 0 (verified to be absent) or 1 (present)"
        raise UserError(f"{file}:{line + row}: expected a Confidence {expected}, got {values[row]:g}")


def _blocks(file: Path) -> Iterator[Any]:
    """Yield the three columns of a label file, a few hundred thousand rows at a time."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    with file.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
        header = next(csv.reader([opened.readline()]), [])
    if missing := [name for name in _COLUMNS if name not in header]:
        raise UserError(
            f"{file}: no column {', '.join(map(repr, missing))}, it has {', '.join(map(repr, header[:10])) or 'none'}"
        )
    types = dict(zip(_COLUMNS, (pyarrow.string(), pyarrow.string(), pyarrow.float64()), strict=True))
    try:
        yield from arrow_csv.open_csv(
            file,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            convert_options=arrow_csv.ConvertOptions(include_columns=list(_COLUMNS), column_types=types),
        )
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is not a readable file of labels: {first_line(error)}") from None


def _numbers(file: Path, line: int, ids: Any) -> np.ndarray:
    """Return image ids as uint64 ``(rows,)``."""
    import pyarrow
    from pyarrow import compute

    lengths = compute.binary_length(ids).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != _DIGITS)
    if not len(wrong):
        text = ids.cast(pyarrow.binary()).cast(pyarrow.binary(_DIGITS))
        digits = _NIBBLES[np.frombuffer(text.buffers()[1], np.uint8).reshape(-1, _DIGITS)]  # (rows, 16)
        wrong = np.flatnonzero((digits == 255).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        got = ids[row].as_py()[:40]
        raise UserError(f"{file}:{line + row}: expected an ImageID of {_DIGITS} hexadecimal digits, got {got!r}")
    bytes_ = digits[:, 0::2] << 4 | digits[:, 1::2]  # (rows, 8)
    return np.ascontiguousarray(bytes_).view(">u8").ravel().astype(np.uint64)

"""What is evaluated against: images, labels, which of them are unseen, and what is true of which image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.datasets.format import SPLITS
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError, some
from zsl_tagger.evaluation.score_files import read_targets
from zsl_tagger.words.label_lists import names_with_marks, read_labels_file

LABELS = ("all", "seen", "unseen")


@dataclass(frozen=True)
class EvaluationData:
    """N images and K labels.

    Attributes:
        images: paths below ``root``.
        seen: bool ``(K,)``.
        targets, ignored: bool ``(N, K)``; ``ignored`` is None where every entry is known.
        root: where the images are; None where that is not known.
        vectors: ``(K, word_dim)``, word vectors of the labels; ``training_images`` ``(K,)``: without a data set None.
        lacks_seen_only: images without an unseen label were left out when the data set was prepared.
    """

    name: str
    split: str
    images: list[str]
    labels: list[str]
    seen: np.ndarray
    targets: np.ndarray
    ignored: np.ndarray | None = None
    root: Path | None = None
    vectors: np.ndarray | None = None
    training_images: np.ndarray | None = None
    lacks_seen_only: bool = False

    @property
    def single_label(self) -> bool:
        return bool((self.targets.sum(axis=1) == 1).all())

    def rows(self, keep: np.ndarray) -> EvaluationData:
        """Return the images of a mask or of indices."""
        index = np.flatnonzero(keep) if keep.dtype == bool else keep
        ignored = None if self.ignored is None else self.ignored[index]
        images = [self.images[row] for row in index.tolist()]
        return replace(self, images=images, targets=self.targets[index], ignored=ignored)

    def restricted(self, columns: np.ndarray) -> EvaluationData:
        """Return the data with some labels only, given by their indices in ascending order."""
        return replace(
            self,
            labels=[self.labels[k] for k in columns.tolist()],
            seen=self.seen[columns],
            targets=self.targets[:, columns],
            ignored=None if self.ignored is None else self.ignored[:, columns],
            vectors=None if self.vectors is None else self.vectors[columns],
            training_images=None if self.training_images is None else self.training_images[columns],
        )

    def columns(self, asked: str) -> np.ndarray:
        """Return the indices of the labels of ``--classes``: all, seen or unseen.

        Raises:
            UserError: there are none.
        """
        if asked not in LABELS:
            raise UserError(f"expected --classes {', '.join(LABELS)}; got {asked!r}")
        mask = {"all": np.ones(len(self.labels), bool), "seen": self.seen, "unseen": ~self.seen}[asked]
        if not mask.any():
            raise UserError(f"{self.name} has no {asked} labels: prepare it with --unseen, or give other --classes")
        return np.flatnonzero(mask)


def data_of_dataset(folder: Path, split: str, images: Path | None) -> EvaluationData:
    """Read a split of a prepared folder.

    Raises:
        UserError: the folder is not sound, or has no image of the split.
    """
    if split not in SPLITS:
        raise UserError(f"expected --split {', '.join(SPLITS)}; got {split!r}")
    dataset = load_dataset(folder)
    rows = dataset.rows(split)
    if not len(rows):
        counts = ", ".join(f"{name} {len(dataset.rows(name)):,}" for name in SPLITS)
        raise UserError(f"{folder} has no image of the split {split}; its images: {counts}")
    root = images or dataset.image_root
    if root is not None and not root.is_dir():
        raise UserError(f"no folder of images at {root}: give --images DIR")
    return EvaluationData(
        dataset.info.get("name") or folder.name,
        split,
        [dataset.paths[row] for row in rows.tolist()],
        list(dataset.labels),
        dataset.seen,
        dataset.targets(rows),
        dataset.unknown(rows),
        root=root,
        vectors=dataset.word_vectors,
        training_images=dataset.images_per_label("train"),
        lacks_seen_only=split == "test" and _test_shows(dataset.info) == "unseen",
    )


def _test_shows(info: dict[str, Any]) -> Any:
    """Return which test images ``prepare`` kept, as ``dataset.json`` has it; None where it does not say."""
    protocol = info.get("protocol")
    return protocol.get("test_shows") if isinstance(protocol, dict) else None


def data_of_targets(path: Path, unseen_file: Path | None, images: Path | None) -> EvaluationData:
    """Read a file of targets, as :func:`zsl_tagger.evaluation.score_files.read_targets` has it.

    Args:
        unseen_file: names of the unseen labels, one a line; without it all are seen.
    """
    names, labels, targets, ignored = read_targets(path)
    unseen = set(read_labels_file(unseen_file, names_with_marks(labels))) if unseen_file is not None else set()
    unknown = sorted(unseen - set(labels))
    if unknown:
        raise UserError(f"{unseen_file} names what is no label of {path}: {some(unknown)}")
    seen = np.array([label not in unseen for label in labels], bool)
    known = ignored if ignored.any() else None
    return EvaluationData(path.stem, "all", names, labels, seen, targets, known, root=images)

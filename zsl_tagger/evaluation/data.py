"""Ground truth of an evaluation: images, labels, seen and unseen, and targets."""

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
    """Ground truth for N images and K labels.

    Attributes:
        images: paths below ``root``.
        seen: bool ``(K,)``.
        targets, ignored: bool ``(N, K)``; ``ignored`` is None if every entry is known.
        root: folder of the images; None if unknown.
        vectors: ``(K, word_dim)``, word vectors of the labels; ``training_images`` ``(K,)``; both None without a data
            set.
        lacks_seen_only: the data set was prepared without images that have no unseen label.
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
        """Return the data of some images, given by a mask or indices."""
        index = np.flatnonzero(keep) if keep.dtype == bool else keep
        ignored = None if self.ignored is None else self.ignored[index]
        images = [self.images[row] for row in index.tolist()]
        return replace(self, images=images, targets=self.targets[index], ignored=ignored)

    def restricted(self, columns: np.ndarray) -> EvaluationData:
        """Return the data of some labels, given by ascending indices."""
        return replace(
            self,
            labels=[self.labels[k] for k in columns.tolist()],
            seen=self.seen[columns],
            targets=self.targets[:, columns],
            ignored=None if self.ignored is None else self.ignored[:, columns],
            vectors=None if self.vectors is None else self.vectors[columns],
            training_images=None if self.training_images is None else self.training_images[columns],
        )

    def columns(self, group: str) -> np.ndarray:
        """Return the indices of the labels of ``--classes``: all, seen or unseen.

        Raises:
            UserError: there are none.
        """
        if group not in LABELS:
            raise UserError(f"expected --classes {', '.join(LABELS)}; got {group!r}")
        mask = {"all": np.ones(len(self.labels), bool), "seen": self.seen, "unseen": ~self.seen}[group]
        if not mask.any():
            raise UserError(f"{self.name} has no {group} labels: prepare it with --unseen, or give other --classes")
        return np.flatnonzero(mask)


def data_of_dataset(folder: Path, split: str, images: Path | None) -> EvaluationData:
    """Read a split of a prepared folder.

    Raises:
        UserError: the folder is invalid, or has no images in the split.
    """
    if split not in SPLITS:
        raise UserError(f"expected --split {', '.join(SPLITS)}; got {split!r}")
    dataset = load_dataset(folder)
    rows = dataset.rows(split)
    if not len(rows):
        counts = ", ".join(f"{name} {len(dataset.rows(name)):,}" for name in SPLITS)
        raise UserError(f"{folder} has no images in the split {split}; its images: {counts}")
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
    """Return which test images ``prepare`` kept according to ``dataset.json``; None if not recorded."""
    protocol = info.get("protocol")
    return protocol.get("test_shows") if isinstance(protocol, dict) else None


def data_of_targets(path: Path, unseen_file: Path | None, images: Path | None) -> EvaluationData:
    """Read a file of targets, see :func:`zsl_tagger.evaluation.score_files.read_targets`.

    Args:
        unseen_file: names of the unseen labels, one per line; None: all labels are seen.
    """
    names, labels, targets, ignored = read_targets(path)
    unseen = set(read_labels_file(unseen_file, names_with_marks(labels))) if unseen_file is not None else set()
    unknown = sorted(unseen - set(labels))
    if unknown:
        raise UserError(f"{unseen_file} has names that are not labels of {path}: {some(unknown)}")
    seen = np.array([label not in unseen for label in labels], bool)
    known = ignored if ignored.any() else None
    return EvaluationData(path.stem, "all", names, labels, seen, targets, known, root=images)

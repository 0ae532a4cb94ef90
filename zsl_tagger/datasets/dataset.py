"""Prepared data set folder.

======================  =====================================================================================
``data.csv``            a header, then one row per image: path below the image root, labels as ``[sky, red car]``,
                        split: train, val or test; with partial labels, a fourth column ``negatives`` lists the
                        labels verified to be absent, and labels in neither column are unknown
``<benchmark>.json``    ``{"train class": [seen labels], "test class": [unseen labels]}``
``wordvec_array.pth``   float tensor (word_dim, K); the columns are the K labels in sorted order
``dataset.json``        format version, image root, labels, counts, what was dropped and why, how each word vector
                        was found, and the sha256 of the three files above
======================  =====================================================================================

``zsl-tagger prepare`` writes it. The first three files are in the format of the released ML-Decoder code, which uses
300-dimensional word vectors and other names for the splits (``--released-splits``); folders from there have no
``dataset.json`` and may lack "train class" (then every label that is not unseen is seen). In folders of zsl-tagger,
train and val images have seen labels only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PreparedDataset:
    """Data set read from a valid folder.

    Attributes:
        image_root: folder that the paths are relative to; None if it is not recorded.
        paths: N image paths, relative, with ``/``.
        splits: N of "train", "val", "test".
        label_indices: N int arrays, indices into ``labels``.
        labels: K names, sorted.
        seen: bool ``(K,)``.
        word_vectors: float32 ``(K, word_dim)``, one row per label.
        info: content of ``dataset.json``; empty if there is none.
        negative_indices: N int arrays, the labels verified to be absent; None if labels are complete.
    """

    folder: Path
    image_root: Path | None
    paths: list[str]
    splits: np.ndarray
    label_indices: list[np.ndarray]
    labels: tuple[str, ...]
    seen: np.ndarray
    word_vectors: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    negative_indices: list[np.ndarray] | None = None

    def rows(self, split: str) -> np.ndarray:
        """Return the indices of a split's images."""
        return np.flatnonzero(self.splits == split)

    @property
    def single_label(self) -> bool:
        """Return whether every image has exactly one label and labels are complete."""
        return not self.partial and all(len(labels) == 1 for labels in self.label_indices)

    @property
    def partial(self) -> bool:
        """Return whether labels of an image may be unknown."""
        return self.negative_indices is not None

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return which labels the images have: bool ``(len(rows), K)``; unknown ones are False."""
        targets = np.zeros((len(rows), len(self.labels)), bool)
        for row, index in enumerate(rows):
            targets[row, self.label_indices[index]] = True
        return targets

    def unknown(self, rows: np.ndarray) -> np.ndarray | None:
        """Return which labels of the images are unknown: bool ``(len(rows), K)``; None if labels are complete.

        Each pair of image and label is either unknown or a target that is True or False.
        """
        if self.negative_indices is None:
            return None
        unknown = np.ones((len(rows), len(self.labels)), bool)
        for row, index in enumerate(rows):
            unknown[row, self.label_indices[index]] = False
            unknown[row, self.negative_indices[index]] = False
        return unknown

    def images_per_label(self, split: str) -> np.ndarray:
        """Return the number of images per label in a split: int64 ``(K,)``."""
        counts = np.zeros(len(self.labels), np.int64)
        for row in self.rows(split):
            counts[self.label_indices[row]] += 1
        return counts


# --- reading and checking -----------------------------------------------------------------------------------

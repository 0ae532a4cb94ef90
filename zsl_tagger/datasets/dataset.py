"""The prepared dataset folder: what is in it, how it is read, and how it is checked.

======================  =====================================================================================
``data.csv``            a header, then one row an image: path below the image root, labels as ``[sky, red car]``,
                        split: train, val or test; where labels are partial, a fourth column ``negatives`` has the
                        labels that are verified to be absent, and those in neither column are unknown
``<benchmark>.json``    ``{"train class": [seen labels], "test class": [unseen labels]}``
``wordvec_array.pth``   float tensor (word_dim, K); its columns are the K labels in sorted order
``dataset.json``        format version, image root, labels, counts, what was dropped and why, how each word vector
                        was found, and the sha256 of the three files above
======================  =====================================================================================

``zsl-tagger prepare`` writes it. The first three files are in the format of the released ML-Decoder code, which takes
word vectors that are 300 wide and has other names of the splits (``--released-splits``); a folder of that origin has no
``dataset.json`` and may lack "train class" (then every label that is not unseen is seen). In a folder of ours, images
of the splits train and val carry seen labels only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PreparedDataset:
    """A folder that was read and found sound.

    Attributes:
        image_root: where the paths start; None where the folder does not say.
        paths: N image paths, relative, with ``/``.
        splits: N of "train", "val", "test".
        label_indices: N int arrays, indices into ``labels``.
        labels: K names, sorted.
        seen: bool ``(K,)``.
        word_vectors: float32 ``(K, word_dim)``, a row a label.
        info: the content of ``dataset.json``; empty where there is none.
        negative_indices: N int arrays, the labels that are verified to be absent; None where labels are complete.
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
        """Return whether every image has exactly one label, and is known to have no other."""
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
        """Return which labels nobody looked for on the images: bool ``(len(rows), K)``; None where labels are complete.

        A pair of an image and a label is either unknown, or a target that is True or False.
        """
        if self.negative_indices is None:
            return None
        unknown = np.ones((len(rows), len(self.labels)), bool)
        for row, index in enumerate(rows):
            unknown[row, self.label_indices[index]] = False
            unknown[row, self.negative_indices[index]] = False
        return unknown

    def images_per_label(self, split: str) -> np.ndarray:
        """Return how many images of a split have each label: int64 ``(K,)``."""
        counts = np.zeros(len(self.labels), np.int64)
        for row in self.rows(split):
            counts[self.label_indices[row]] += 1
        return counts


# --- reading and checking -----------------------------------------------------------------------------------

"""Let words that were never trained hear the classes whose names are similar to them.

The decoder knows such a word by its vector alone. The backbone's classes and the detector's objects have vectors too,
those of their names, so a photo in which similar ones are probable is likely to show the word (ConSE, Norouzi et al.
2014, arXiv 1312.5650, uses the classes in this way, without a decoder)::

    n         = ln(sum over the NEAREST classes of p * exp(SHARPNESS * (cosine - 1)) + LEAST)
    log-odds += WEIGHT * (n - mean of n over the background photos)

with the probability p of each class and the cosine of its vector and the word's. The mean keeps words that are similar
to common classes from being tags of every photo. benchmarks/README.md explains the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.background import DAMAGED

CLASS_VECTORS_FILE = "class_vectors.npy"

NEAREST = 20
SHARPNESS = 10.0
LEAST = 1e-3
WEIGHT = 0.6

_LABELS_AT_ONCE = 2048


@dataclass(frozen=True)
class Near:
    """The classes near M labels.

    Attributes:
        labels: indices of the labels among K, int64 ``(M,)``.
        columns: their classes, n for each, int64 ``(M * n,)``.
        factors: ``exp(SHARPNESS * (cosine - 1))``, float32 ``(M, n)``.
        centres: mean of n over the background photos, float32 ``(M,)``.
    """

    labels: np.ndarray
    columns: np.ndarray
    factors: np.ndarray
    centres: np.ndarray

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Return what is added before the weight, float32 ``(B, M)``.

        Args:
            probabilities: those of ``columns``, ``(B, M * n)``.
        """
        return _nearness(probabilities, self.factors) - self.centres

    def only(self, keep: list[int]) -> Near:
        """Return the classes near the labels with the indices ``keep``, which are numbered from 0 again."""
        row_of = {label: row for row, label in enumerate(self.labels.tolist())}
        pairs = [(number, row_of[label]) for number, label in enumerate(keep) if label in row_of]
        numbers, rows = np.array(pairs, np.int64).reshape(-1, 2).T
        columns = self.columns.reshape(self.factors.shape)[rows].ravel()
        return Near(numbers, columns, self.factors[rows], self.centres[rows])


def near_classes(labels: np.ndarray, queries: np.ndarray, vectors: np.ndarray, background: np.ndarray) -> Near:
    """Find the classes near labels.

    Args:
        labels: indices of the labels, int64 ``(M,)``.
        queries: their word vectors, ``(M, word_dim)``.
        vectors: unit word vectors of the classes, float32 ``(N, word_dim)``.
        background: class probabilities of the background photos, ``(P, N)``.
    """
    count, parts = min(NEAREST, len(vectors)), []
    for start in range(0, len(labels), _LABELS_AT_ONCE):
        cosines = _unit(queries[start : start + _LABELS_AT_ONCE]) @ vectors.T  # (m, N)
        columns = np.argpartition(-cosines, count - 1, axis=1)[:, :count]  # (m, n)
        factors = np.exp(SHARPNESS * (np.take_along_axis(cosines, columns, axis=1) - 1)).astype(np.float32)
        usual = np.stack([_nearness(row[None, columns.ravel()], factors)[0] for row in background])  # (P, m)
        parts.append((columns.ravel(), factors, usual.mean(axis=0)))
    columns, factors, centres = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Near(labels, columns, factors, centres)


def _nearness(probabilities: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return n, float32 ``(B, M)``, from probabilities ``(B, M * n)`` and factors ``(M, n)``."""
    each = probabilities.reshape(len(probabilities), *factors.shape)  # (B, M, n)
    nearness: np.ndarray = np.log((each * factors).sum(axis=2) + np.float32(LEAST))
    return nearness


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


def read_class_vectors(path: Path) -> np.ndarray:
    """Read ``class_vectors.npy``: vectors of the classes, then of the objects; return them with length 1.

    Returns:
        float32 ``(N + M, word_dim)``.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGED:
        raise UserError(f"{path} is not a file of class vectors: expected an array of numpy") from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise UserError(f"{path} is not a file of class vectors: expected rows of finite numbers")
    return _unit(vectors)

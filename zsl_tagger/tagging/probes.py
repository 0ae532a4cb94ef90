"""Score trained words with a linear probe each, in addition to the decoder.

The decoder scores every word with the same weights, from its vector. A word with enough training photos has weights of
its own too, learned on the pooled features of these photos (:mod:`.pooled`)::

    logit = decoder's logit + step * weights @ features + offset

So probes are not zero-shot: words that were never trained have none. The weights are stored in four bits each, which
costs no accuracy (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.background import DAMAGED

PROBES_FILE = "probes.npy"

_LEVELS = 7  # a weight is one of -7 to 7, stored as 1 to 15
_ZERO = 8
#: Larger weights are clipped, in standard deviations of the probe's weights, which is better than coarser steps.
_CLIPPED = 3.2


@dataclass(frozen=True)
class LabelProbes:
    """The probes of M of K labels.

    Attributes:
        labels: indices of the labels, int64 ``(M,)``.
        rows: their rows of the file, structured ``(M,)``; two weights in a byte.
    """

    labels: np.ndarray
    rows: np.ndarray

    @cached_property
    def weights(self) -> np.ndarray:
        """Return the weights, float32 ``(M, F)``."""
        weights = _unpacked(self.rows["weights"])
        weights *= self.rows["step"][:, None]  # in place: these are megabytes
        return weights

    def added(self, features: np.ndarray, count: int) -> np.ndarray:
        """Return what the probes add to the decoder's logits, float32 ``(B, K)``; 0 for labels without a probe.

        Args:
            features: pooled features, ``(B, F)``.
            count: number of labels K.

        Raises:
            UserError: the probes were made for other features.
        """
        if features.shape[1] != self.weights.shape[1]:
            raise UserError(
                f"{PROBES_FILE} belongs to another model: expected {features.shape[1]} weights a probe, got "
                f"{self.weights.shape[1]}"
            )
        added = np.zeros((len(features), count), np.float32)
        # not BLAS, whose threads compete with those of the networks: a folder took 1.4 times as long
        products = np.einsum("bf,mf->bm", features, self.weights)
        added[:, self.labels] = products + self.rows["offset"]
        return added

    def only(self, keep: Sequence[int]) -> LabelProbes | None:
        """Return the probes of the labels with the indices ``keep``, which are numbered from 0 again."""
        row_of = {label: row for row, label in enumerate(self.labels.tolist())}
        return _chosen(self.rows, [row_of.get(label) for label in keep])


@dataclass(frozen=True)
class Probes:
    """Content of ``probes.npy``.

    Attributes:
        rows: structured ``(R,)``, mapped from the file.
    """

    rows: np.ndarray

    def of(self, numbers: Sequence[int | None]) -> LabelProbes | None:
        """Return the probes of K labels from their numbers (rows of the file); None if all have none."""
        return _chosen(self.rows, numbers)

    @classmethod
    def load(cls, path: Path) -> Probes:
        """Read ``probes.npy``.

        Raises:
            UserError: it cannot be read, or is not such a file.
        """
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except DAMAGED:
            raise UserError(f"{path} is not a file of probes: expected an array of numpy") from None
        weights = None if rows.dtype.names != ("weights", "step", "offset") else rows.dtype["weights"]
        if weights is None or rows.ndim != 1 or rows.dtype != _row_type(*weights.shape):
            raise UserError(f"{path} is not a file of probes: expected rows of weights, step and offset")
        if not np.isfinite(rows["step"]).all() or not np.isfinite(rows["offset"]).all():
            raise UserError(f"{path} is not a file of probes: expected finite numbers")
        return cls(rows)


def write_probes(path: Path, weights: np.ndarray, offsets: np.ndarray) -> None:
    """Write ``probes.npy``.

    Args:
        weights: float ``(R, F)``, F even.
        offsets: float ``(R,)``.
    """
    steps = np.maximum(weights.std(axis=1) * _CLIPPED / _LEVELS, 1e-12)  # (R,)
    levels = np.clip(np.rint(weights / steps[:, None]), -_LEVELS, _LEVELS).astype(np.int8) + _ZERO  # (R, F)
    rows = np.zeros(len(weights), _row_type(weights.shape[1] // 2))
    rows["weights"] = levels[:, ::2] | levels[:, 1::2] << 4
    rows["step"], rows["offset"] = steps, offsets
    write_whole(path, lambda file: np.save(file, rows))


def _row_type(*packed: int) -> np.dtype[np.void]:
    return np.dtype([("weights", np.uint8, packed), ("step", np.float32), ("offset", np.float32)])


def _unpacked(packed: np.ndarray) -> np.ndarray:
    """Return the levels of packed weights: uint8 ``(M, F / 2)`` -> float32 ``(M, F)``."""
    levels = np.empty((len(packed), packed.shape[1], 2), np.float32)
    levels[:, :, 0], levels[:, :, 1] = packed & 15, packed >> 4
    levels -= _ZERO
    return levels.reshape(len(packed), -1)


def _chosen(rows: np.ndarray, numbers: Sequence[int | None]) -> LabelProbes | None:
    pairs = [(place, number) for place, number in enumerate(numbers) if number is not None]
    if not pairs:
        return None
    places, chosen = np.array(pairs, np.int64).T
    return LabelProbes(places, np.asarray(rows)[chosen])

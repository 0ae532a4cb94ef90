"""Find the labels of the vocabulary that can be tags of a photo, so that the decoder scores only these.

The attention takes a small part of the decoder's time, and what it returns for a label nearly determines the logit: a
linear function, fitted for each label, is off by 0.1 on average. Labels whose predicted log-odds are below their
threshold by more than a margin are not scored. If a tag turns out to be in the lower half of that margin, the photo is
unusual, and all labels are scored. So scores are exact, and a tag is lost only if its prediction is off by more than
the margin and no other tag's by half of it. benchmarks/README.md says how rarely that happens.

``prefilter.npz`` contains the slopes, in 8 bits, and ``prefilter.onnx`` the attention, whose tokens are averaged over
2 x 2 places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.background import DAMAGED

PREFILTER_FILE = "prefilter.npz"
PREFILTER_NETWORK = "prefilter.onnx"

#: Labels that are worth predicting: fewer are scored in the same time.
AT_LEAST = 500

_LEVELS = 127


class Slopes(NamedTuple):
    """Slopes of a label set.

    Attributes:
        places: int64 ``(k,)``, indices of the labels that can be predicted.
        slopes: float32 ``(k, D)``.
        offsets: float32 ``(k,)``.
    """

    places: np.ndarray
    slopes: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Prefilter:
    """Linear functions from the values of a label, ``(D,)``, to its logit.

    Attributes:
        keys: N spellings that identify the labels.
        slopes: float32 ``(N, D)``.
        offsets: float32 ``(N,)``.
        margin: log-odds below a label's threshold from which on it is not scored.
    """

    keys: Sequence[str]
    slopes: np.ndarray
    offsets: np.ndarray
    margin: float

    def of(self, keys: Sequence[str]) -> Slopes | None:
        """Return the slopes of the labels with these keys; None if too few of them can be predicted."""
        rows = {key: row for row, key in enumerate(self.keys)}
        found = [(place, rows[key]) for place, key in enumerate(keys) if key in rows]
        if len(found) < AT_LEAST:
            return None
        places, chosen = np.array(found, np.int64).T
        return Slopes(places, self.slopes[chosen], self.offsets[chosen])

    @classmethod
    def load(cls, path: Path) -> Prefilter:
        """Read ``prefilter.npz``.

        Raises:
            UserError: it cannot be read, or is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                keys = bytes(content["keys"]).decode().split("\n")
                slopes = content["levels"] * content["steps"][:, None]  # (N, D)
                offsets, margin = content["offsets"], float(content["margin"])
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except (*DAMAGED, IndexError):
            raise UserError(
                f"{path} is not a prefilter: expected arrays keys, levels, steps, offsets and margin"
            ) from None
        fits = slopes.shape[:1] == offsets.shape == (len(keys),) and slopes.dtype == offsets.dtype == np.float32
        if not fits or slopes.ndim != 2 or not np.isfinite([*offsets, margin]).all() or not np.isfinite(slopes).all():
            raise UserError(
                f"{path} is not a prefilter: expected float32 slopes and offsets of {len(keys)} labels, got slopes of "
                f"shape {slopes.shape} and offsets of shape {offsets.shape}"
            )
        return cls(keys, slopes, offsets, margin)

    def save(self, path: Path) -> None:
        """Write ``prefilter.npz``: slopes in 8 bits with one scale for each label."""
        steps = np.maximum(np.abs(self.slopes).max(axis=1) / _LEVELS, 1e-12).astype(np.float32)  # (N,)
        arrays = {
            "keys": np.frombuffer("\n".join(self.keys).encode(), np.uint8),
            "levels": np.rint(self.slopes / steps[:, None]).astype(np.int8),
            "steps": steps,
            "offsets": self.offsets,
            "margin": np.float32(self.margin),
        }
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

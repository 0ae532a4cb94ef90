"""Choose thresholds for words that were never trained, from their scores on unrelated photos.

Other thresholds come from annotated photos, but no annotated photo shows such a word. Its log-odds on arbitrary photos
can be computed when it is first used, since the model folder stores the encoder's output for some,
``background.npz``. A photo gets the word if its log-odds exceed the background mean by ``DEVIATIONS`` standard
deviations, and are at least ``LEAST``. benchmarks/README.md explains the values.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.encoded import Encoded

BACKGROUND_FILE = "background.npz"

DEVIATIONS = 3.0
LEAST = -0.85  # log-odds: a score of 0.3

#: Raised by numpy and zipfile on files that are damaged or of another kind.
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OverflowError, MemoryError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip

_STEPS = 255


@dataclass(frozen=True)
class Background:
    """Encoder output for M arbitrary photos, the background."""

    encoded: Encoded

    @classmethod
    def load(cls, path: Path) -> Background:
        """Read ``background.npz``.

        Raises:
            UserError: it cannot be read, or is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                tokens = content["levels"] * content["step"] + content["low"]  # (M, L, D)
                classes = content["classes"].astype(np.float32) / _STEPS if "classes" in content else None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except DAMAGED:
            raise UserError(f"{path} is not a background file: expected arrays levels, step and low") from None
        if tokens.ndim != 3 or tokens.dtype != np.float32 or (classes is not None and len(classes) != len(tokens)):
            raise UserError(f"{path} is not a background file: expected tokens of photos, got shape {tokens.shape}")
        return cls(Encoded(tokens, classes))

    def save(self, path: Path) -> None:
        """Write ``background.npz``: tokens in 8 bits with one scale each, class probabilities in steps of 1/255."""
        tokens = self.encoded.tokens
        low = tokens.min(axis=2, keepdims=True).astype(np.float32)  # (M, L, 1)
        step = np.maximum((tokens.max(axis=2, keepdims=True) - low) / _STEPS, 1e-12).astype(np.float32)
        arrays = {"levels": np.rint((tokens - low) / step).astype(np.uint8), "step": step, "low": low}
        if self.encoded.classes is not None:
            arrays["classes"] = np.rint(self.encoded.classes * _STEPS).astype(np.uint8)
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def standing_out(log_odds: np.ndarray) -> np.ndarray:
    """Return the log-odds ``(K,)`` at which words stand out from their background log-odds ``(M, K)``."""
    return np.maximum(log_odds.mean(axis=0) + DEVIATIONS * log_odds.std(axis=0), LEAST)

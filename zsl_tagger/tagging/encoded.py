"""Encoder output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """Encoder output for B images, from which any labels can be scored.

    Attributes:
        tokens: float32 ``(B, L, D)``.
        classes: probabilities of the backbone's N classes, and of the M objects of a detector behind them, float32
            ``(B, N + M)`` in 0..1; None if the model has none.
    """

    tokens: np.ndarray
    classes: np.ndarray | None = None

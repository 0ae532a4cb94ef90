"""What the encoder makes of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of B images, to ask any labels of.

    Attributes:
        tokens: float32 ``(B, L, D)``.
        classes: probabilities of the backbone's classes, float32 ``(B, N)`` in 0..1; None of a model without them.
    """

    tokens: np.ndarray
    classes: np.ndarray | None = None

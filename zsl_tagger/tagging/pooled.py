"""Pool the encoder output of a photo into a feature vector, from which taught tags are learned.

It consists of the mean and the maximum of each token channel over the photo's positions, as square roots (tokens come
from a ReLU, and a few strong positions would dominate otherwise), and, with class evidence, the probabilities of the
backbone's classes. All of it is computed anyway, and an index stores it.
"""

from __future__ import annotations

import numpy as np

from zsl_tagger.tagging.encoded import Encoded

#: Log-odds below which a class counts as absent; the stored background has no lower values.
CLASS_FLOOR = -4.5
#: Weight of the classes relative to the tokens.
CLASS_WEIGHT = 0.3


def pooled(encoded: Encoded) -> np.ndarray:
    """Return features of B images, float32 ``(B, F)`` with F = 2 D, or 2 D + N with N classes."""
    return with_classes(pooled_tokens(encoded.tokens), encoded.classes)


def pooled_tokens(tokens: np.ndarray) -> np.ndarray:
    """Return the features of tokens ``(B, L, D)``, float32 ``(B, 2 D)``."""
    both = np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1)  # (B, 2 D)
    return (np.sign(both) * np.sqrt(np.abs(both))).astype(np.float32)


def by_place(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the contribution of each position to a weighted sum of the token features.

    Args:
        tokens: ``(L, D)``.
        weights: feature weights, ``(2 D,)``.

    Returns:
        float32 ``(L,)``: a mean is split in proportion to the channel's strength, a maximum belongs to its position.
    """
    mean_part, max_part = np.split(pooled_tokens(tokens[None])[0] * weights, 2)  # (D,), (D,)
    strength = np.abs(tokens)
    shares = strength / np.maximum(strength.sum(axis=0), 1e-12)  # (L, D)
    added: np.ndarray = shares @ mean_part  # (L,)
    np.add.at(added, tokens.argmax(axis=0), max_part)
    return added


def with_classes(from_tokens: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """Combine token features ``(B, 2 D)`` and class probabilities ``(B, N)`` to features ``(B, F)``."""
    if classes is None:
        return from_tokens
    p = np.clip(classes, 1e-6, 1 - 1e-6)  # (B, N)
    evidence = CLASS_WEIGHT * np.maximum(np.log(p / (1 - p)) - CLASS_FLOOR, 0)
    return np.concatenate([from_tokens, evidence.astype(np.float32)], axis=1)  # (B, F)

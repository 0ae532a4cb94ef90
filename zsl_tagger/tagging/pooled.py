"""Pool what the encoder says of a photo into one row of numbers, by which tags are taught.

The row has the mean and the maximum of each token channel over the photo's places, as square roots (tokens come out
of a ReLU, and a few strong places would outweigh all others), and, of a model with class evidence, how likely each
class of the backbone is. All of it is computed anyway, and an index keeps it.
"""

from __future__ import annotations

import numpy as np

from zsl_tagger.tagging.encoded import Encoded

#: Log-odds below which a class counts as absent; the stored background knows no lower ones.
CLASS_FLOOR = -4.5
#: Weight of the classes beside the tokens.
CLASS_WEIGHT = 0.3


def pooled(encoded: Encoded) -> np.ndarray:
    """Return features of B images, float32 ``(B, F)`` with F = 2 D, and N more where there are N classes."""
    return with_classes(pooled_tokens(encoded.tokens), encoded.classes)


def pooled_tokens(tokens: np.ndarray) -> np.ndarray:
    """Return the part of the features that comes from tokens ``(B, L, D)``, float32 ``(B, 2 D)``."""
    both = np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1)  # (B, 2 D)
    return (np.sign(both) * np.sqrt(np.abs(both))).astype(np.float32)


def by_place(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how much each place of an image adds to a weighted sum of its features from tokens.

    Args:
        tokens: ``(L, D)``.
        weights: of the features, ``(2 D,)``.

    Returns:
        float32 ``(L,)``: a mean is shared by how strong the channel is at each place, a maximum belongs to its place.
    """
    of_mean, of_most = np.split(pooled_tokens(tokens[None])[0] * weights, 2)  # (D,), (D,)
    strength = np.abs(tokens)
    shares = strength / np.maximum(strength.sum(axis=0), 1e-12)  # (L, D)
    added: np.ndarray = shares @ of_mean  # (L,)
    np.add.at(added, tokens.argmax(axis=0), of_most)
    return added


def with_classes(from_tokens: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """Return features ``(B, F)`` by their part from tokens ``(B, 2 D)`` and class probabilities ``(B, N)``."""
    if classes is None:
        return from_tokens
    p = np.clip(classes, 1e-6, 1 - 1e-6)  # (B, N)
    evidence = CLASS_WEIGHT * np.maximum(np.log(p / (1 - p)) - CLASS_FLOOR, 0)
    return np.concatenate([from_tokens, evidence.astype(np.float32)], axis=1)  # (B, F)

"""Hold the scores to evaluate, and say which labels and images each task is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.evaluation.thresholds import sigmoid

ZSL, SEEN, GZSL = "ZSL", "seen", "GZSL"


CALIBRATED = "GZSL with the model's bias"


@dataclass(frozen=True)
class Scores:
    """The scores of N images and K labels that are evaluated.

    Attributes:
        values: float32 ``(N, K)``, of the kind "logits" or "probabilities".
        thresholds: float32 ``(K,)``, the value from which each label is a tag.
        biases: float32 ``(K,)``, what the model adds to the logits of labels never trained.
    """

    values: np.ndarray
    kind: str
    thresholds: np.ndarray
    biases: np.ndarray

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        if self.kind == "probabilities":
            return values
        return sigmoid(values + self.biases)

    def values_at(self, score: float) -> np.ndarray:
        """Return the value of each label, float32 ``(K,)``, at which its score is ``score``, 0..1."""
        if self.kind == "probabilities":
            return np.full(len(self.biases), score, np.float32)
        return log_odds(np.full(len(self.biases), score), self.biases)


def log_odds(scores: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Return the logits, float32 ``(K,)``, that with their biases give scores 0..1; of 0 and 1 they are infinite."""
    with np.errstate(divide="ignore"):
        return (np.log(scores) - np.log1p(-scores) - biases).astype(np.float32)


def task_columns(seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of each task's labels: ZSL and seen, and GZSL where there are both."""
    groups = group_columns(seen)
    return groups if len(groups) < 2 else {**groups, GZSL: np.arange(len(seen))}


def group_columns(seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of the unseen and of the seen labels; a group without labels is left out."""
    groups = {ZSL: np.flatnonzero(~seen), SEEN: np.flatnonzero(seen)}
    return {name: columns for name, columns in groups.items() if len(columns)}

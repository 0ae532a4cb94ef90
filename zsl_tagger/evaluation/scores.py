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
        thresholds: ``(K,)``, on the scale of ``values``, the bias left out.
        biases: ``(K,)``, what the model adds to the logits of labels never trained.
    """

    values: np.ndarray
    kind: str
    thresholds: np.ndarray
    biases: np.ndarray

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        if self.kind == "probabilities":
            return values
        return sigmoid(values + self.biases)


def task_columns(seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of each task's labels: ZSL and seen, and GZSL where there are both."""
    groups = group_columns(seen)
    return groups if len(groups) < 2 else {**groups, GZSL: np.arange(len(seen))}


def group_columns(seen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of the unseen and of the seen labels; a group without labels is left out."""
    groups = {ZSL: np.flatnonzero(~seen), SEEN: np.flatnonzero(seen)}
    return {name: columns for name, columns in groups.items() if len(columns)}

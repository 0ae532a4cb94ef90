"""Hold the scores to evaluate, and say which labels and images each task is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from zsl_tagger.evaluation.results import Group, Task
from zsl_tagger.evaluation.thresholds import sigmoid

ZSL: Task = "zsl"
SEEN: Literal["seen"] = "seen"  # a task, and a group of labels
GZSL: Task = "gzsl"
UNSEEN: Group = "unseen"
CALIBRATED = "gzsl_with_model_bias"

#: The tasks as a person reads them.
TASK_NAMES: dict[Task, str] = {ZSL: "ZSL", SEEN: "seen", GZSL: "GZSL"}


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


def task_columns(seen: np.ndarray) -> dict[Task, np.ndarray]:
    """Return the columns of each task's labels: ZSL and seen, and GZSL where there are both."""
    groups = group_columns(seen)
    tasks: dict[Task, np.ndarray] = {task_of(group): columns for group, columns in groups.items()}
    return tasks if len(groups) < 2 else {**tasks, GZSL: np.arange(len(seen))}


def task_of(group: Group) -> Task:
    """Return the task that is about a group of labels only."""
    return ZSL if group == UNSEEN else SEEN


def group_columns(seen: np.ndarray) -> dict[Group, np.ndarray]:
    """Return the columns of the unseen and of the seen labels; a group without labels is left out."""
    groups: dict[Group, np.ndarray] = {UNSEEN: np.flatnonzero(~seen), SEEN: np.flatnonzero(seen)}
    return {name: columns for name, columns in groups.items() if len(columns)}

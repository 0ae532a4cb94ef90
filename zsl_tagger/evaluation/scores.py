"""Scores to evaluate, and the labels of each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from zsl_tagger.evaluation.results import Group, Task
from zsl_tagger.evaluation.thresholds import sigmoid

ZSL: Task = "zsl"
SEEN: Literal["seen"] = "seen"  # both a task and a group of labels
GZSL: Task = "gzsl"
UNSEEN: Group = "unseen"
CALIBRATED = "gzsl_with_model_bias"

#: Names of the tasks for people.
TASK_NAMES: dict[Task, str] = {ZSL: "ZSL", SEEN: "seen", GZSL: "GZSL"}


@dataclass(frozen=True)
class Scores:
    """Scores of N images and K labels to evaluate.

    Attributes:
        values: float32 ``(N, K)``, of the kind "logits" or "probabilities".
        thresholds: float32 ``(K,)``, minimum value of a tag, per label.
        biases: float32 ``(K,)``, added by the model to the logits of labels never trained.
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
        """Return the value of each label, float32 ``(K,)``, that corresponds to a score in 0..1."""
        if self.kind == "probabilities":
            return np.full(len(self.biases), score, np.float32)
        return log_odds(np.full(len(self.biases), score), self.biases)


def log_odds(scores: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Return the logits, float32 ``(K,)``, that together with biases give scores 0..1; infinite for 0 and 1."""
    with np.errstate(divide="ignore"):
        return (np.log(scores) - np.log1p(-scores) - biases).astype(np.float32)


def task_columns(seen: np.ndarray) -> dict[Task, np.ndarray]:
    """Return the label columns of each task: ZSL and seen, and GZSL if there are both."""
    groups = group_columns(seen)
    tasks: dict[Task, np.ndarray] = {task_of(group): columns for group, columns in groups.items()}
    return tasks if len(groups) < 2 else {**tasks, GZSL: np.arange(len(seen))}


def task_of(group: Group) -> Task:
    """Return the task for a single group of labels."""
    return ZSL if group == UNSEEN else SEEN


def group_columns(seen: np.ndarray) -> dict[Group, np.ndarray]:
    """Return the columns of the unseen and the seen labels; an empty group is left out."""
    groups: dict[Group, np.ndarray] = {UNSEEN: np.flatnonzero(~seen), SEEN: np.flatnonzero(seen)}
    return {name: columns for name, columns in groups.items() if len(columns)}

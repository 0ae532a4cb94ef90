"""The score at which a label counts as a tag, chosen on validation."""

from __future__ import annotations

import numpy as np


def choose_thresholds(scores: np.ndarray, targets: np.ndarray, prior: int = 10) -> tuple[np.ndarray, float]:
    """Score thresholds of K labels, and the one for any other label.

    The common threshold has the best micro-F1 over all labels. A label's own best-F1 threshold is drawn
    towards it in logit space, the more the fewer positives n it has: weight n / (n + prior).
    """
    common = _best_f1_threshold(scores.ravel(), targets.ravel())
    thresholds = np.full(scores.shape[1], common)
    for column, count in enumerate(targets.sum(axis=0)):
        if count:
            own = _best_f1_threshold(scores[:, column], targets[:, column])
            weight = count / (count + prior)
            thresholds[column] = _sigmoid(weight * _logit(own) + (1 - weight) * _logit(common))
    return thresholds, float(common)


def _best_f1_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # equal scores are tagged together
    f1 = 2 * np.cumsum(targets[order])[ends] / (ends + 1 + targets.sum())
    return float(ranked[ends[int(f1.argmax())]])


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-4, 1 - 1e-4))
    return float(np.log(p / (1 - p)))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))

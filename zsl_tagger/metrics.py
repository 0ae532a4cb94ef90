"""Multi-label metrics as pure functions of scores ``(N, K)`` and 0/1 targets ``(N, K)``."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of every label, tie-aware as in scikit-learn: ``sum (R_n - R_{n-1}) P_n``.

    Returns:
        float64 ``(K,)``, NaN for a label without positives (the caller decides what that counts as).
    """
    scores, targets = _checked(scores, targets)
    return np.array([_one_average_precision(s, t) for s, t in zip(scores.T, targets.T, strict=True)])


def _one_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    total = targets.sum()
    if total == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # last item of each run of ties
    hits = np.cumsum(targets[order])[ends]
    precision = hits / (ends + 1)
    recall_steps = np.diff(hits, prepend=0) / total
    return float((precision * recall_steps).sum())


def precision_recall_f1_at_k(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float, float]:
    """Micro precision, recall and F1 of the k best labels of each image (images without positives count).

    ``P = TP / (N k)``, ``R = TP / all positives``; ties are broken by label order.
    """
    scores, targets = _checked(scores, targets)
    if len(scores) == 0:
        raise ValueError("expected at least one image")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"expected 1 <= k <= {scores.shape[1]} labels, got k={k}")
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (N, k)
    hits = np.take_along_axis(targets, top, axis=1).sum()
    precision = hits / top.size
    recall = hits / max(targets.sum(), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return float(precision), float(recall), float(f1)


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"expected scores and targets of one shape (N, K), got {scores.shape} and {targets.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores hold {int(np.isnan(scores).sum())} NaN values")
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets of 0 and 1 only")
    return scores.astype(np.float64), targets.astype(np.int64)

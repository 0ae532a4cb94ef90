"""Chosen on validation: the score at which a label counts as a tag, and the bias of labels never trained."""

from __future__ import annotations

import numpy as np

from zsl_tagger.metrics import curve_events, seen_unseen_curve

TOP = 3  # of recall@3, by which the bias is chosen


def choose_thresholds(
    scores: np.ndarray, targets: np.ndarray, prior: int = 10, precision: float | None = None
) -> tuple[np.ndarray, float]:
    """Score thresholds of K labels, and the one for any other label.

    The common threshold has the best micro-F1 over all labels. A label's own best-F1 threshold is drawn
    towards it in logit space, the more the fewer positives n it has: weight n / (n + prior).

    Args:
        precision: in place of the best F1, the lowest threshold at which this share of the tags is right, 0..1; where
            none is that sure, one just above every score.
    """

    def best(scores: np.ndarray, targets: np.ndarray) -> float:
        if precision is None:
            return _best_f1_threshold(scores, targets)
        return _precision_threshold(scores, targets, precision)

    common = best(scores.ravel(), targets.ravel())
    thresholds = np.full(scores.shape[1], common)
    for column, count in enumerate(targets.sum(axis=0)):
        if count:
            own = best(scores[:, column], targets[:, column])
            weight = count / (count + prior)
            thresholds[column] = _sigmoid(weight * _logit(own) + (1 - weight) * _logit(common))
    return thresholds, float(common)


def _best_f1_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # equal scores are tagged together
    f1 = 2 * np.cumsum(targets[order])[ends] / (ends + 1 + targets.sum())
    return float(ranked[ends[int(f1.argmax())]])


def _precision_threshold(scores: np.ndarray, targets: np.ndarray, precision: float) -> float:
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    reached = np.flatnonzero(np.cumsum(targets[order])[ends] >= precision * (ends + 1))
    return float(ranked[ends[reached[-1]]]) if len(reached) else min(1.0, float(np.nextafter(ranked[0], np.inf)))


def calibrate_unseen(seen: np.ndarray, unseen: np.ndarray, targets: np.ndarray) -> float:
    """What to add to the logits of labels never trained, so that they stand a fair chance beside the trained ones.

    Calibrated stacking (Chao et al. 2016, arXiv 1605.04253): the bias with the best harmonic mean of recall@3 over the
    seen positives and over the unseen ones, all labels ranked in one list; of equally good ones the nearest to 0.

    Args:
        seen, unseen: logits ``(N, K)`` and ``(N, U)``.
        targets: bool ``(N, K + U)``.
    """
    count = seen.shape[1]
    is_seen = np.arange(targets.shape[1]) < count
    top = min(TOP, targets.shape[1])
    curve = seen_unseen_curve(curve_events(np.concatenate([seen, unseen], axis=1), targets, is_seen, top))
    total = curve.seen + curve.unseen
    quality = np.where(total > 0, 2 * curve.seen * curve.unseen / np.maximum(total, 1e-12), 0.0)
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    starts, stops = curve.bias[best], np.append(curve.bias, np.inf)[best + 1]
    margin = np.where(np.isfinite(starts) & np.isfinite(stops), (stops - starts) / 2, 1e-3)
    nearest = np.where(starts >= 0, starts + np.minimum(margin, 1e-3), np.where(stops < 0, stops - margin * 1e-3, 0.0))
    return float(nearest[np.abs(nearest).argmin()])


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-4, 1 - 1e-4))
    return float(np.log(p / (1 - p)))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))

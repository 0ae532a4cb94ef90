"""Choose thresholds, and the bias of untrained labels, on validation scores."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.metrics import curve_events, last_of_equals, seen_unseen_curve

TOP = 3  # the bias is chosen by recall@3


def choose_thresholds(
    scores: np.ndarray,
    targets: np.ndarray,
    prior: int = 10,
    precision: float | None = None,
    unknown: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Choose the score thresholds of K labels, and a common one for all other labels.

    The common threshold has the best micro-F1 over all labels. A label's own best-F1 threshold is shrunk towards it
    in logit space, with weight n / (n + prior) for n positives. A threshold lies midway between the lowest tagged score
    and the next lower one (or 0), so that it does not depend on the last digit.

    Args:
        scores: probabilities ``(N, K)``.
        targets: 0/1 ``(N, K)``.
        precision: instead of the best F1, use the lowest threshold with this share of correct tags, 0..1; if there is
            none, a threshold above every score (a score of 1 is tagged anyway: no threshold is above 1).
        unknown: bool ``(N, K)``, entries to exclude; None for none.
    """
    known = np.ones(targets.shape, bool) if unknown is None else ~unknown

    def best(scores: np.ndarray, targets: np.ndarray) -> float:
        if precision is None:
            return _best_f1_threshold(scores, targets)
        return _precision_threshold(scores, targets, precision)

    common = best(scores[known], targets[known])
    thresholds = np.full(scores.shape[1], common)
    for column, count in enumerate((targets * known).sum(axis=0)):
        if count:
            own = best(scores[known[:, column], column], targets[known[:, column], column])
            weight = count / (count + prior)
            drawn = weight * _logit(own) + (1 - weight) * _logit(common)
            thresholds[column] = own if weight == 1 else sigmoid(drawn)
    return thresholds, float(common)


def _best_f1_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    floors, hits, answers = _levels(scores, targets)
    f1 = 2 * hits / (answers + targets.sum())
    return float(floors[int(f1.argmax())])


def _precision_threshold(scores: np.ndarray, targets: np.ndarray, precision: float) -> float:
    floors, hits, answers = _levels(scores, targets)
    reached = np.flatnonzero(hits >= precision * answers - 1e-9)  # tolerance, since 0.55 * 100 > 55
    return float(floors[reached[-1]]) if len(reached) else float((1 + scores.max()) / 2)


def _levels(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds below each distinct score, highest first, with the numbers of correct and of all tags."""
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = last_of_equals(ranked)  # equal scores are tagged together
    levels = ranked[ends].astype(np.float64)
    return (levels + np.append(levels[1:], 0.0)) / 2, np.cumsum(targets[order])[ends], ends + 1


def calibrate_unseen(
    seen: np.ndarray, unseen: np.ndarray, targets: np.ndarray, unknown: np.ndarray | None = None
) -> float:
    """Choose the bias that balances the logits of labels never trained against trained ones.

    Calibrated stacking (Chao et al. 2016, arXiv 1605.04253): the bias with the best harmonic mean of recall@3 of
    seen and unseen positives, all labels ranked together; among equally good ones, the nearest to 0.

    Args:
        seen, unseen: logits ``(N, K)`` and ``(N, U)``.
        targets, unknown: bool ``(N, K + U)``; ``unknown`` entries are not ranked.
    """
    count = seen.shape[1]
    is_seen = np.arange(targets.shape[1]) < count
    top = min(TOP, targets.shape[1])
    curve = seen_unseen_curve(curve_events(np.concatenate([seen, unseen], axis=1), targets, is_seen, top, unknown))
    quality = curve.harmonic_means()
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    starts, stops = curve.bias[best], np.append(curve.bias, np.inf)[best + 1]
    margin = np.where(np.isfinite(starts) & np.isfinite(stops), (stops - starts) / 2, 1e-3)
    nearest = np.where(starts >= 0, starts + np.minimum(margin, 1e-3), np.where(stops < 0, stops - margin * 1e-3, 0.0))
    return float(nearest[np.abs(nearest).argmin()])


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-7, 1 - 1e-7))
    return float(np.log(p / (1 - p)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Convert logits of any shape to probabilities."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -80, 80)))

"""Multi-label metrics as pure functions of scores ``(N, K)`` and 0/1 targets ``(N, K)``.

Entries that are ``ignored`` (bool ``(N, K)``: unknown truth) are excluded. ``ties`` controls the treatment of equal
scores:

===========  =========================================================================================================
``grouped``  equal scores are one step of the ranking, as in scikit-learn, so the order does not matter. At K, the
             tied labels share the remaining places
``first``    the earlier image (average precision) or label (at K) is ranked first
``last``     the later one is ranked first
===========  =========================================================================================================
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Ties = Literal["grouped", "first", "last"]


def average_precision(
    scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None, ties: Ties = "grouped"
) -> np.ndarray:
    """Compute the average precision of every label: ``sum (R_n - R_{n-1}) P_n`` over ranks or grouped scores n.

    Returns:
        float64 ``(K,)``, NaN for a label without positives (the caller decides how to count it).
    """
    scores, targets = _checked(scores, targets)
    known = None if ignored is None else ~ignored
    if known is not None:
        targets = targets & known
    return np.array([_one_average_precision(scores, targets, known, k, ties) for k in range(scores.shape[1])])


def _one_average_precision(
    scores: np.ndarray, targets: np.ndarray, known: np.ndarray | None, k: int, ties: Ties
) -> float:
    return ranking_steps(scores[:, k], targets[:, k], None if known is None else known[:, k], ties).average_precision()


class RankingSteps(NamedTuple):
    """Ranking of one label's images, down to the last positive.

    Attributes:
        order: int ``(n,)``, images in order of descending score.
        ends: int ``(E,)``, ascending positions in ``order`` where a step with positives ends.
        positives: int ``(E,)``, number of positives in each step.
        ranked: bool ``(n,)``, targets in that order.
    """

    order: np.ndarray
    ends: np.ndarray
    positives: np.ndarray
    ranked: np.ndarray

    def average_precision(self) -> float:
        """Return the average precision; NaN without positives."""
        if not len(self.ends):
            return float("nan")
        hits = np.cumsum(self.positives)
        return float((hits / (self.ends + 1) * self.positives).sum() / hits[-1])


def ranking_steps(scores: np.ndarray, targets: np.ndarray, known: np.ndarray | None, ties: Ties) -> RankingSteps:
    """Rank the images of one label; scores and targets are ``(N,)``, ``known`` is False for ignored images."""
    images = None if known is None else np.flatnonzero(known)
    if images is not None:
        scores, targets = scores[images], targets[images]
    order = _descending(scores, ties)
    ranked = targets[order].astype(bool)
    hits = np.flatnonzero(ranked)
    if ties == "grouped" and len(hits):
        in_order = scores[order]
        group_ends = last_of_equals(in_order)
        ends, positives = np.unique(group_ends[np.searchsorted(group_ends, hits)], return_counts=True)
    else:
        ends, positives = hits, np.ones(len(hits), np.int64)
    last = ends[-1] + 1 if len(ends) else 0
    order = order[:last] if images is None else images[order[:last]]
    return RankingSteps(order, ends, positives, ranked[:last])


def last_of_equals(ranked: np.ndarray) -> np.ndarray:
    """Return the last index of each run of equal values, ascending, for sorted values ``(n,)``, n at least 1."""
    return np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def _descending(scores: np.ndarray, ties: Ties) -> np.ndarray:
    if ties == "last":
        return np.argsort(scores, kind="stable")[::-1]
    return np.argsort(-scores, kind="stable" if ties == "first" else None)


def tied_images(scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Count for each label the images that share a score with an image of the other target; int64 ``(K,)``.

    If it is not 0, an order-dependent average precision is not determined by the scores alone.
    """
    scores, targets = _checked(scores, targets)
    known = np.ones(targets.shape, bool) if ignored is None else ~ignored
    counts = np.zeros(scores.shape[1], np.int64)
    for k in range(scores.shape[1]):
        column = np.sort(scores[known[:, k], k])
        levels, positives = np.unique(scores[known[:, k] & targets[:, k], k], return_counts=True)
        images = np.searchsorted(column, levels, side="right") - np.searchsorted(column, levels, side="left")
        counts[k] = images[images > positives].sum()
    return counts


class HitsAtK(NamedTuple):
    """Top-K answers of each image, ``(N,)``.

    Attributes:
        hits: number of correct answers, float64, since tied labels share places.
        answers: number of answers.
        tied: whether equal scores share the K-th place.
    """

    hits: np.ndarray
    answers: np.ndarray
    tied: np.ndarray


def hits_at_k(
    scores: np.ndarray, targets: np.ndarray, k: int, ignored: np.ndarray | None = None, ties: Ties = "first"
) -> HitsAtK:
    """Count the correct ones among the k best labels of each image; ignored labels are not ranked."""
    scores, targets = _checked(scores, targets)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"expected 1 <= k <= {scores.shape[1]} labels, got k={k}")
    answers = np.full(len(scores), k)
    if ignored is not None:
        scores = np.where(ignored, -np.inf, scores)
        targets = targets & ~ignored
        answers = np.minimum(k, (~ignored).sum(axis=1))
    place = scores.shape[1] - k
    least = np.partition(scores, place, axis=1)[:, place, None]  # (N, 1), the k-th best score
    above, level = scores > least, scores == least  # (N, K)
    left = k - above.sum(axis=1)  # (N,), places for labels with the k-th score
    tied = (level.sum(axis=1) > left) & (answers == k)
    hits = (targets & above).sum(axis=1).astype(np.float64)
    if ties == "grouped":
        hits += (targets & level).sum(axis=1) * left / level.sum(axis=1)
    else:
        direction = slice(None, None, -1 if ties == "last" else 1)
        order = np.cumsum(level[:, direction], axis=1)[:, direction]
        hits += (targets & level & (order <= left[:, None])).sum(axis=1)
    return HitsAtK(hits, answers, tied)


def precision_recall_f1_at_k(
    scores: np.ndarray, targets: np.ndarray, k: int, ignored: np.ndarray | None = None, ties: Ties = "first"
) -> tuple[float, float, float]:
    """Compute micro precision, recall and F1 of the k best labels of each image (images without positives count).

    ``P = TP / (N k)``, ``R = TP / all positives``.
    """
    if len(scores) == 0:
        raise ValueError("expected at least one image")
    found = hits_at_k(scores, targets, k, ignored, ties)
    positives = targets.sum() if ignored is None else targets[~ignored].sum()
    return precision_recall_f1(found.hits.sum(), found.answers.sum(), positives)


def precision_recall_f1(hits: float, answers: float, positives: float) -> tuple[float, float, float]:
    """Compute precision, recall and F1 from counts; a ratio with denominator 0 is 0."""
    precision, recall = hits / max(answers, 1), hits / max(positives, 1)
    return float(precision), float(recall), float(2 * hits / (answers + positives)) if hits else 0.0


class Confusion(NamedTuple):
    """Counts of each label at its threshold, int64 ``(K,)``."""

    hits: np.ndarray
    answers: np.ndarray
    positives: np.ndarray

    def precision(self) -> np.ndarray:
        """Return the precision of each label, 0 if it is never a tag, NaN without positives."""
        return self._known(self.hits / np.maximum(self.answers, 1))

    def recall(self) -> np.ndarray:
        """Return the recall of each label, NaN without positives."""
        return self._known(self.hits / np.maximum(self.positives, 1))

    def f1(self) -> np.ndarray:
        """Return the F1 of each label, 0 without correct tags, NaN without positives."""
        return self._known(2 * self.hits / np.maximum(self.answers + self.positives, 1))

    def _known(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.positives > 0, values, np.nan)


def confusion_at_threshold(
    scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, ignored: np.ndarray | None = None
) -> Confusion:
    """Count correct and wrong tags of each label where ``score >= threshold``; thresholds ``(K,)``."""
    scores, targets = _checked(scores, targets)
    tagged = scores >= thresholds
    if ignored is not None:
        tagged, targets = tagged & ~ignored, targets & ~ignored
    return Confusion((tagged & targets).sum(axis=0), tagged.sum(axis=0), targets.sum(axis=0))


def mean_average_precision(scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """Compute the mean average precision over the labels with positives."""
    shown = targets.any(axis=0)
    masked = None if ignored is None else ignored[:, shown]
    return float(average_precision(scores[:, shown], targets[:, shown], masked).mean())


def harmonic_mean(a: float, b: float) -> float:
    """Return the harmonic mean of two figures >= 0; 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


class SeenUnseenCurve(NamedTuple):
    """Recall@K of seen and unseen positives as a function of the bias added to unseen scores.

    Attributes:
        bias: ascending ``(P,)``; the recalls hold from each bias to the next. The first is -inf.
        seen, unseen: recall of each group, 0..1, ``(P,)``, with all labels ranked together.
        area: area under the seen-unseen curve, AUSUC (Chao et al. 2016, arXiv 1605.04253), 0..1.
    """

    bias: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    area: float

    def harmonic_means(self) -> np.ndarray:
        """Return the harmonic mean of the two recalls at each bias, ``(P,)``; 0 if both are 0."""
        total = self.seen + self.unseen
        return np.where(total > 0, 2 * self.seen * self.unseen / np.maximum(total, 1e-12), 0.0)


class CurveEvents(NamedTuple):
    """Biases at which positives drop out of the k best (seen) or enter them (unseen), and the numbers of positives.

    Attributes:
        seen_leave, unseen_come: float64 ``(E, 2)``: a bias and a fraction of a positive, 0..1, since labels with equal
            scores share their places.
    """

    seen_leave: np.ndarray
    unseen_come: np.ndarray
    seen_positives: int
    unseen_positives: int


def curve_events(
    scores: np.ndarray, targets: np.ndarray, seen: np.ndarray, k: int, ignored: np.ndarray | None = None
) -> CurveEvents:
    """Return the events of some images, to be concatenated over blocks of images.

    With s_r and u_r the r-th best score of an image's seen and unseen labels: the r-th seen label is among the k best
    of all while ``bias <= s_r - u_(k-r+1)``, the r-th unseen one while ``bias > s_(k-r+1) - u_r``. So the curve is
    exact, without trying biases.

    Args:
        seen: bool ``(K,)``.
        ignored: bool ``(N, K)``, entries that are not ranked.
    """
    scores, targets = _checked(scores, targets)
    if ignored is not None:
        scores, targets = np.where(ignored, -np.inf, scores), targets & ~ignored
    best = [_best(scores[:, part], targets[:, part], k) for part in (seen, ~seen)]
    (s, s_share), (u, u_share) = best  # descending scores and their share of positives, (N, k)
    leave, come = s_share > 0, u_share > 0  # only where the score is finite
    return CurveEvents(
        np.stack([s[leave] - u[:, ::-1][leave], s_share[leave]], axis=1),
        np.stack([s[:, ::-1][come] - u[come], u_share[come]], axis=1),
        int(targets[:, seen].sum()),
        int(targets[:, ~seen].sum()),
    )


def _best(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best scores, padded with -inf, and the share of positives at each score."""
    ranked, share = np.full((len(scores), k), -np.inf), np.zeros((len(scores), k))
    best = np.sort(scores, axis=1)[:, : -k - 1 : -1]  # (N, k or fewer)
    ranked[:, : best.shape[1]] = best
    for place in range(best.shape[1]):
        level = scores == best[:, place, None]  # (N, K)
        share[:, place] = (targets & level).sum(axis=1) / level.sum(axis=1)
    return ranked, share


def seen_unseen_curve(events: CurveEvents) -> SeenUnseenCurve:
    """Return the curve and its area, by the trapezoid rule."""
    edges = np.unique(np.concatenate([events.seen_leave[:, 0], events.unseen_come[:, 0]]))
    edges = np.concatenate([[-np.inf], edges[np.isfinite(edges)]])
    # just after an edge: positives that leave there are out, positives that enter are in
    left, came = (_shares_up_to(part, edges) for part in (events.seen_leave, events.unseen_come))
    seen = (events.seen_leave[:, 1].sum() - left) / max(events.seen_positives, 1)
    unseen = came / max(events.unseen_positives, 1)
    corners = np.concatenate([[0.0], unseen]), np.concatenate([[seen[0]], seen])
    area = float((np.diff(corners[0]) * (corners[1][1:] + corners[1][:-1]) / 2).sum())
    return SeenUnseenCurve(edges, seen, unseen, area)


def _shares_up_to(events: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the sum of the shares of events ``(E, 2)`` at or below each bias of ``edges`` ``(P,)``."""
    order = np.argsort(events[:, 0])
    sums = np.append(0.0, np.cumsum(events[order, 1]))
    return sums[np.searchsorted(events[order, 0], edges, side="right")]


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(
            f"expected scores and targets of the same shape (N, K), got {scores.shape} and {targets.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"scores contain {int(np.isnan(scores).sum())} NaN values")
    if targets.dtype != bool and not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets of 0 and 1 only")
    return scores if scores.dtype == np.float32 else scores.astype(np.float64), targets.astype(bool)

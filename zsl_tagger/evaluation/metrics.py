"""Multi-label metrics as pure functions of scores ``(N, K)`` and 0/1 targets ``(N, K)``.

Entries that are ``ignored`` (bool ``(N, K)``: nobody knows whether they are true) count neither for nor against. What
equal scores count as is said by ``ties``:

===========  =========================================================================================================
``grouped``  equal scores are one step of the ranking, as in scikit-learn: no order matters. At K, the tied labels
             share the places that are left
``first``    the earlier image (average precision) or label (at K) is ranked first
``last``     the later one is
===========  =========================================================================================================
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Ties = Literal["grouped", "first", "last"]


def average_precision(
    scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None, ties: Ties = "grouped"
) -> np.ndarray:
    """Average precision of every label: ``sum (R_n - R_{n-1}) P_n``, over ranks n or, grouped, over distinct scores.

    Returns:
        float64 ``(K,)``, NaN for a label without positives (the caller decides what that counts as).
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
    """One label's ranking, as far down as its last positive.

    Attributes:
        order: int ``(n,)``, images from the highest score on.
        ends: int ``(E,)``, the places in ``order`` where a step with positives ends, ascending.
        positives: int ``(E,)``, positives in each.
        ranked: bool ``(n,)``, the targets in that order.
    """

    order: np.ndarray
    ends: np.ndarray
    positives: np.ndarray
    ranked: np.ndarray

    def average_precision(self) -> float:
        """NaN where there is no positive."""
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
    """Return the last place of each run of equal values, ascending; ``(n,)`` sorted values, n at least 1."""
    return np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def _descending(scores: np.ndarray, ties: Ties) -> np.ndarray:
    if ties == "last":
        return np.argsort(scores, kind="stable")[::-1]
    return np.argsort(-scores, kind="stable" if ties == "first" else None)


def tied_images(scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Of each label: how many images share their score with an image of the other target; int64 ``(K,)``.

    Where it is not 0, an average precision that depends on order is not determined by the scores.
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
    """Hold the answers of each image, ``(N,)``.

    Attributes:
        hits: right answers, float64, since tied labels share places.
        answers: number of answers.
        tied: whether the K-th place is shared by equal scores.
    """

    hits: np.ndarray
    answers: np.ndarray
    tied: np.ndarray


def hits_at_k(
    scores: np.ndarray, targets: np.ndarray, k: int, ignored: np.ndarray | None = None, ties: Ties = "first"
) -> HitsAtK:
    """How many of the k best labels of each image are right; ignored labels are not ranked."""
    scores, targets = _checked(scores, targets)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"expected 1 <= k <= {scores.shape[1]} labels, got k={k}")
    answers = np.full(len(scores), k)
    if ignored is not None:
        scores = np.where(ignored, -np.inf, scores)
        targets = targets & ~ignored
        answers = np.minimum(k, (~ignored).sum(axis=1))
    place = scores.shape[1] - k
    least = np.partition(scores, place, axis=1)[:, place, None]  # (N, 1), the score of the k-th place
    above, level = scores > least, scores == least  # (N, K)
    left = k - above.sum(axis=1)  # (N,), places for those that share the k-th score
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
    """Micro precision, recall and F1 of the k best labels of each image (images without positives count).

    ``P = TP / (N k)``, ``R = TP / all positives``.
    """
    if len(scores) == 0:
        raise ValueError("expected at least one image")
    found = hits_at_k(scores, targets, k, ignored, ties)
    positives = targets.sum() if ignored is None else targets[~ignored].sum()
    return precision_recall_f1(found.hits.sum(), found.answers.sum(), positives)


def precision_recall_f1(hits: float, answers: float, positives: float) -> tuple[float, float, float]:
    """Of counts; what has no denominator is 0."""
    precision, recall = hits / max(answers, 1), hits / max(positives, 1)
    return float(precision), float(recall), float(2 * hits / (answers + positives)) if hits else 0.0


class Confusion(NamedTuple):
    """Counts of each label at its threshold, int64 ``(K,)``."""

    hits: np.ndarray
    answers: np.ndarray
    positives: np.ndarray

    def precision(self) -> np.ndarray:
        """Return that of each label, 0 where it is never a tag, NaN where it has no positives."""
        return self._known(self.hits / np.maximum(self.answers, 1))

    def recall(self) -> np.ndarray:
        """Return that of each label, NaN where it has no positives."""
        return self._known(self.hits / np.maximum(self.positives, 1))

    def f1(self) -> np.ndarray:
        """Of each label, 0 where there is nothing right, NaN where it has no positives."""
        return self._known(2 * self.hits / np.maximum(self.answers + self.positives, 1))

    def _known(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.positives > 0, values, np.nan)


def confusion_at_threshold(
    scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, ignored: np.ndarray | None = None
) -> Confusion:
    """Count what tagging each label where ``score >= threshold`` gets right and wrong; thresholds ``(K,)``."""
    scores, targets = _checked(scores, targets)
    said = scores >= thresholds
    if ignored is not None:
        said, targets = said & ~ignored, targets & ~ignored
    return Confusion((said & targets).sum(axis=0), said.sum(axis=0), targets.sum(axis=0))


def mean_average_precision(scores: np.ndarray, targets: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """Over the labels that have positives."""
    shown = targets.any(axis=0)
    masked = None if ignored is None else ignored[:, shown]
    return float(average_precision(scores[:, shown], targets[:, shown], masked).mean())


def harmonic_mean(a: float, b: float) -> float:
    """Of two figures >= 0; 0 where both are."""
    return 2 * a * b / (a + b) if a + b else 0.0


class SeenUnseenCurve(NamedTuple):
    """Recall@K of seen and of unseen positives as a bias is added to the scores of unseen labels.

    Attributes:
        bias: ascending ``(P,)``; the recalls hold from it to the next. The first is -inf.
        seen, unseen: recall of each, 0..1, ``(P,)``; all labels are ranked in one list.
        area: under the curve of one over the other, AUSUC (Chao et al. 2016, arXiv 1605.04253), 0..1.
    """

    bias: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    area: float

    def harmonic_means(self) -> np.ndarray:
        """Of the two recalls at each bias, ``(P,)``; 0 where both are."""
        total = self.seen + self.unseen
        return np.where(total > 0, 2 * self.seen * self.unseen / np.maximum(total, 1e-12), 0.0)


class CurveEvents(NamedTuple):
    """The biases at which positives leave the k best (seen) or come among them (unseen), and all positives.

    Attributes:
        seen_leave, unseen_come: float64 ``(E, 2)``: a bias, and how much of a positive, 0..1: labels of one score share
            their places.
    """

    seen_leave: np.ndarray
    unseen_come: np.ndarray
    seen_positives: int
    unseen_positives: int


def curve_events(
    scores: np.ndarray, targets: np.ndarray, seen: np.ndarray, k: int, ignored: np.ndarray | None = None
) -> CurveEvents:
    """Events of some images, to be put together over blocks of images.

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
    (s, s_share), (u, u_share) = best  # scores in descending order and what of them is right, (N, k)
    leave, come = s_share > 0, u_share > 0  # there the score is finite
    return CurveEvents(
        np.stack([s[leave] - u[:, ::-1][leave], s_share[leave]], axis=1),
        np.stack([s[:, ::-1][come] - u[come], u_share[come]], axis=1),
        int(targets[:, seen].sum()),
        int(targets[:, ~seen].sum()),
    )


def _best(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best scores, -inf where there are fewer, and the share of positives at each score."""
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
    # just after an edge: what left at it is out, what came at it is in
    left, came = (_shares_up_to(part, edges) for part in (events.seen_leave, events.unseen_come))
    seen = (events.seen_leave[:, 1].sum() - left) / max(events.seen_positives, 1)
    unseen = came / max(events.unseen_positives, 1)
    corners = np.concatenate([[0.0], unseen]), np.concatenate([[seen[0]], seen])
    area = float((np.diff(corners[0]) * (corners[1][1:] + corners[1][:-1]) / 2).sum())
    return SeenUnseenCurve(edges, seen, unseen, area)


def _shares_up_to(events: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares of the events ``(E, 2)`` at or below each bias of ``edges`` ``(P,)``, summed."""
    order = np.argsort(events[:, 0])
    sums = np.append(0.0, np.cumsum(events[order, 1]))
    return sums[np.searchsorted(events[order, 0], edges, side="right")]


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"expected scores and targets of one shape (N, K), got {scores.shape} and {targets.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores hold {int(np.isnan(scores).sum())} NaN values")
    if targets.dtype != bool and not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets of 0 and 1 only")
    return scores if scores.dtype == np.float32 else scores.astype(np.float64), targets.astype(bool)

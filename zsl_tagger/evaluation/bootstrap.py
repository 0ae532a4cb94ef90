"""Bootstrap confidence intervals: metrics on images resampled with replacement (Efron 1979)."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.metrics import RankingSteps
from zsl_tagger.evaluation.results import Interval


def draw_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each image is in each resample, uint8 ``(images, resamples)``; columns sum to ``images``."""
    random = np.random.default_rng([seed, images])
    counts = np.empty((images, resamples), np.uint8)
    for r in range(resamples):
        drawn = np.bincount(random.integers(0, images, images), minlength=images)
        counts[:, r] = np.minimum(drawn, 255)  # a larger count is possible, but practically never occurs
    return counts


def resampled_average_precision(steps: RankingSteps, counts: np.ndarray, largest: int) -> np.ndarray:
    """Return the average precision of one label on each resample, float64 ``(R,)``; NaN without positives.

    An image drawn n times occupies one step of the ranking n times, like equal scores.

    Args:
        steps: ranking of the label's N images.
        counts: from :func:`draw_counts`, ``(N, R)``.
        largest: maximum of the counts.
    """
    if not len(steps.ends):
        return np.full(counts.shape[1], np.nan)
    rows = max(1, 255 // max(1, largest))  # whose sums fit into uint8
    answers = _drawn_up_to(steps.ends, steps.order, counts, rows)  # (E, R)
    hits = _drawn_up_to(np.cumsum(steps.positives) - 1, steps.order[steps.ranked], counts, rows)  # (E, R)
    positives = np.diff(hits, axis=0, prepend=0)
    precision = hits / np.maximum(answers, 1)
    total = hits[-1]
    return np.where(total > 0, (precision * positives).sum(axis=0) / np.maximum(total, 1), np.nan)


def _drawn_up_to(ends: np.ndarray, images: np.ndarray, counts: np.ndarray, rows: int) -> np.ndarray:
    """Return the number of draws of the images up to each end in each resample, int32 ``(E, R)``.

    Only as many rows are added at a time as fit into uint8 sums, which is six times faster than int32.

    Args:
        ends: int ``(E,)``, ascending positions in ``images``.
        images: int ``(n,)``, rows of ``counts``.
        counts: from :func:`draw_counts`, ``(N, R)``.
        rows: number of rows of ``counts`` whose sums are at most 255.
    """
    starts = np.append(0, ends[:-1] + 1)
    parts = -(-(ends + 1 - starts) // rows)  # (E,)
    last = np.cumsum(parts) - 1  # (E,), the last part of each
    within = np.arange(last[-1] + 1) - np.repeat(last + 1 - parts, parts)  # (P,)
    first = np.repeat(starts, parts) + rows * within
    stop = np.minimum(first + rows, np.repeat(ends + 1, parts))
    sums = np.empty((len(first), counts.shape[1]), np.uint8)  # (P, R)
    for place, (start, end) in enumerate(zip(first.tolist(), stop.tolist(), strict=True)):
        np.add.reduce(counts[images[start:end]], axis=0, dtype=np.uint8, out=sums[place])
    return sums.cumsum(axis=0, dtype=np.int32)[last]


def centred(values: np.ndarray, figure: float) -> np.ndarray:
    """Shift resampled figures so that their mean equals the figure itself.

    Average precision is biased upwards on resamples with few positives, since repeated images share a rank.
    """
    return values - values[np.isfinite(values)].mean() + figure if np.isfinite(values).any() else values


def interval(values: np.ndarray) -> Interval | None:
    """Return the central 95 % interval of resampled figures; None if there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def paired_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value of no difference, from differences on the same resamples.

    Twice the share of resamples on the other side of 0 (percentile bootstrap); at least 2 / (R + 1).
    """
    differences = differences[np.isfinite(differences)]
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1)))

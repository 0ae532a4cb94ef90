"""Bootstrap confidence intervals: metrics on images resampled with replacement (Efron 1979)."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.metrics import RankingSteps
from zsl_tagger.evaluation.results import Interval

IMAGES_AT_ONCE, STEPS_AT_ONCE = 512, 64  # about half a megabyte each with 1,000 resamples


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
    added = np.zeros(counts.shape[1])
    for start in range(0, len(hits), STEPS_AT_ONCE):  # small enough for the processor's cache
        part = slice(start, start + STEPS_AT_ONCE)
        before = hits[start - 1] if start else 0
        terms = hits[part] / np.maximum(answers[part], 1)
        terms *= np.diff(hits[part], axis=0, prepend=np.broadcast_to(before, (1, len(added))))
        terms[0] += added  # so that rows are added in the same order as all at once
        added = terms.sum(axis=0)
    total = hits[-1]
    return np.where(total > 0, added / np.maximum(total, 1), np.nan)


def _drawn_up_to(ends: np.ndarray, images: np.ndarray, counts: np.ndarray, rows: int) -> np.ndarray:
    """Return the number of draws of the images up to each end in each resample, uint32 ``(E, R)``.

    Args:
        ends: int ``(E,)``, ascending positions in ``images``; the last one is the last position.
        images: int ``(n,)``, rows of ``counts``.
        counts: from :func:`draw_counts`, ``(N, R)``.
        rows: number of rows of ``counts`` whose sums are at most 255.
    """
    starts = np.append(0, ends[:-1] + 1)
    parts = -(-(ends + 1 - starts) // rows)  # (E,)
    last = np.cumsum(parts) - 1  # (E,), the last part of each
    within = np.arange(last[-1] + 1) - np.repeat(last + 1 - parts, parts)  # (P,)
    bounds = np.append(np.repeat(starts, parts) + rows * within, len(images))  # (P + 1,), where each part starts
    sums = np.empty((len(within), counts.shape[1]), np.uint8)  # (P, R)
    lanes, sums_in_lanes = _in_lanes(counts), _in_lanes(sums)
    blocks = np.unique(np.searchsorted(bounds, np.arange(0, bounds[-2] + 1, IMAGES_AT_ONCE)))
    for start, stop in zip(blocks.tolist(), [*blocks[1:].tolist(), len(sums)], strict=True):
        drawn = lanes.take(images[bounds[start] : bounds[stop]], axis=0)
        firsts = bounds[start:stop] - bounds[start]
        np.add.reduceat(drawn, firsts, axis=0, dtype=lanes.dtype, out=sums_in_lanes[start:stop])
    return _running_sums(sums)[last]


def _running_sums(rows: np.ndarray) -> np.ndarray:
    """Return the cumulative sums of rows, uint8 ``(P, R)``, as uint32."""
    sums = rows.astype(np.uint32)
    lanes = _in_lanes(sums)
    for start in range(0, len(rows), STEPS_AT_ONCE):
        part = lanes[start : start + STEPS_AT_ONCE]
        if start:
            part[0] += lanes[start - 1]
        np.add.accumulate(part, axis=0, dtype=lanes.dtype, out=part)
    return sums


def _in_lanes(counts: np.ndarray) -> np.ndarray:
    """View rows of small numbers as fewer uint64, which numpy adds faster; unchanged if the rows have another length.

    Sums are the same as long as each number's sum fits into its own type.
    """
    return counts.view(np.uint64) if counts.shape[1] * counts.itemsize % 8 == 0 else counts


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

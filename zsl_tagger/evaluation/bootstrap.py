"""How sure a figure is: the same figure on images drawn anew, with repetition (Efron 1979)."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.metrics import RankingSteps
from zsl_tagger.evaluation.results import Interval


def draw_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is in each resample, uint8 ``(images, resamples)``; a column sums to ``images``."""
    random = np.random.default_rng([seed, images])
    counts = np.empty((images, resamples), np.uint8)
    for r in range(resamples):
        drawn = np.bincount(random.integers(0, images, images), minlength=images)
        counts[:, r] = np.minimum(drawn, 255)  # of few images one may be drawn more often, with no chance worth it
    return counts


def resampled_average_precision(steps: RankingSteps, counts: np.ndarray) -> np.ndarray:
    """Average precision of one label on each resample, float64 ``(R,)``; NaN where a resample has no positive.

    An image that is drawn n times stands n times at one place of the ranking, as equal scores do.

    Args:
        steps: the ranking of the label's N images.
        counts: of :func:`draw_counts`, ``(N, R)``.
    """
    if not len(steps.ends):
        return np.full(counts.shape[1], np.nan)
    starts = np.append(0, steps.ends[:-1] + 1)
    drawn = counts[steps.order]  # (n, R)
    answers = np.add.reduceat(drawn, starts, axis=0, dtype=np.int32).cumsum(axis=0, dtype=np.int32)  # (E, R)
    first = np.append(0, np.cumsum(steps.positives)[:-1])
    positives = np.add.reduceat(drawn[steps.ranked], first, axis=0, dtype=np.int32)  # (E, R)
    hits = positives.cumsum(axis=0, dtype=np.int32)
    precision = hits / np.maximum(answers, 1)
    total = hits[-1]
    return np.where(total > 0, (precision * positives).sum(axis=0) / np.maximum(total, 1), np.nan)


def centred(values: np.ndarray, figure: float) -> np.ndarray:
    """Resampled figures moved so that their mean is the figure itself.

    Average precision leans upwards on resamples of few positives, whose repeated images stand at one place.
    """
    return values - values[np.isfinite(values)].mean() + figure if np.isfinite(values).any() else values


def interval(values: np.ndarray) -> Interval | None:
    """The middle 95 % of resampled figures; None where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def paired_test(differences: np.ndarray) -> float:
    """Two-sided p-value that the true difference is 0, from differences on the same resamples.

    Twice the share of resamples on the other side of 0 (percentile bootstrap); at least 2 / (R + 1).
    """
    differences = differences[np.isfinite(differences)]
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1)))

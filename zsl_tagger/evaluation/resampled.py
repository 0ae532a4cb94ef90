"""Compute figures of bootstrap resamples."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.protocols import Protocol

IMAGES_AT_ONCE = 2048


def resampled_means(resampled: np.ndarray, precisions: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the mAP of each resample ``(R,)`` of average precisions ``(K, R)``, always over the same labels.

    A label whose positives are all missing from a resample has its own ``precisions`` ``(K,)`` there.
    """
    known = np.isfinite(precisions)
    values = np.where(np.isfinite(resampled), resampled, precisions[:, None])[known]  # (k, R)
    return values.sum(axis=0) / max(1, len(precisions) if protocol.empty_is_zero else int(known.sum()))


def resampled_f1(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the micro F1 of each resample, ``(R,)``, from counts of each image ``(n,)`` and how often it is drawn."""
    drawn = [_weighted(part, counts) for part in (hits, answers, positives)]  # each (R,)
    return 2 * drawn[0] / np.maximum(drawn[1] + drawn[2], 1)


def _weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = np.zeros(counts.shape[1])
    for start in range(0, len(values), IMAGES_AT_ONCE):
        total += values[start : start + IMAGES_AT_ONCE] @ counts[start : start + IMAGES_AT_ONCE].astype(np.float64)
    return total

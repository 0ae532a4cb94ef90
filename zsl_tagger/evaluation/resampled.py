"""Compute figures of bootstrap resamples."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.protocols import Protocol

IMAGES_AT_ONCE = 64  # such a block stays in the cache, and is too small for BLAS to wait for its threads


def resampled_means(resampled: np.ndarray, precisions: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the mAP of each resample ``(R,)`` of average precisions ``(K, R)``, always over the same labels.

    A label whose positives are all missing from a resample has its own ``precisions`` ``(K,)`` there.
    """
    known = np.isfinite(precisions)
    values = np.where(np.isfinite(resampled), resampled, precisions[:, None])[known]  # (k, R)
    return values.sum(axis=0) / max(1, len(precisions) if protocol.empty_is_zero else int(known.sum()))


def resampled_f1(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the micro F1 of each resample, ``(R,)``, from counts of each image ``(n,)`` and how often it is drawn."""
    drawn = _weighted(np.stack([hits, answers, positives]), counts)  # (3, R)
    return 2 * drawn[0] / np.maximum(drawn[1] + drawn[2], 1)


def _weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return sums over images: values of each ``(m, n)``, times how often each is drawn ``(n, R)`` -> ``(m, R)``."""
    total = np.zeros((len(values), counts.shape[1]))
    for start in range(0, values.shape[1], IMAGES_AT_ONCE):
        stop = start + IMAGES_AT_ONCE
        total += values[:, start:stop] @ counts[start:stop].astype(np.float64)
    return total

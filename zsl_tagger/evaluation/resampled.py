"""Compute figures on bootstrap resamples."""

from __future__ import annotations

import numpy as np

from zsl_tagger.evaluation.protocols import Protocol

IMAGES_AT_ONCE = 64  # such a block fits into the cache, and is too small for BLAS to start threads


def resampled_means(resampled: np.ndarray, precisions: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the mAP of each resample ``(R,)`` from average precisions ``(K, R)``, always over the same labels.

    A label without positives in a resample uses its overall ``precisions`` ``(K,)``.
    """
    known = np.isfinite(precisions)
    values = np.where(np.isfinite(resampled), resampled, precisions[:, None])[known]  # (k, R)
    return values.sum(axis=0) / max(1, len(precisions) if protocol.empty_is_zero else int(known.sum()))


def resampled_f1(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the micro F1 of each resample, ``(R,)``, from per-image counts ``(n,)`` and the numbers of draws."""
    drawn = _weighted(np.stack([hits, answers, positives]), counts)  # (3, R)
    return 2 * drawn[0] / np.maximum(drawn[1] + drawn[2], 1)


def _weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return sums over images, weighted by draws: values ``(m, n)``, draws ``(n, R)`` -> ``(m, R)``."""
    total = np.zeros((len(values), counts.shape[1]))
    for start in range(0, values.shape[1], IMAGES_AT_ONCE):
        stop = start + IMAGES_AT_ONCE
        total += values[:, start:stop] @ counts[start:stop].astype(np.float64)
    return total

"""Compute per-label figures: average precision, its curve and its resamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsl_tagger.evaluation.bootstrap import centred, interval, resampled_average_precision
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.metrics import (
    RankingSteps,
    ranking_steps,
    tied_images,
)
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.results import LabelRanking, LabelTotals
from zsl_tagger.evaluation.scores import Scores
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.threads import default_workers, map_in_order

LABELS_AT_ONCE = 16
RECALL = np.linspace(0, 1, 101)  # grid of the precision-recall curves


class MeasuredLabels(NamedTuple):
    """Figures of each label; None and NaN for labels that were not measured.

    Attributes:
        rows: K rows of figures.
        curves: precision at each of ``RECALL``, ``(K, 101)``.
        resampled: average precision of each resample, ``(K, R)``; None without resamples.
    """

    rows: list[LabelRanking | None]
    curves: np.ndarray
    resampled: np.ndarray | None


def measure_labels(
    scores: Scores,
    data: EvaluationData,
    protocol: Protocol,
    rows: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray | None,
) -> MeasuredLabels:
    """Measure the labels ``columns`` over the images ``rows``.

    Args:
        counts: how often each image is in each resample; None for no resamples.
    """

    largest = 0 if counts is None else int(counts.max(initial=0))

    def work(start: int) -> list[tuple[int, LabelRanking, np.ndarray, np.ndarray | None]]:
        part = columns[start : start + LABELS_AT_ONCE]
        values = np.ascontiguousarray(scores.values[:, part][rows].T)  # (k, n)
        ignored = data.ignored[:, part][rows].T if protocol.masks_ignored and data.ignored is not None else None
        return [
            (k, *_label(k, values[place], data.targets[rows, k], None if ignored is None else ~ignored[place]))
            for place, k in enumerate(part.tolist())
        ]

    def _label(
        k: int, values: np.ndarray, truth: np.ndarray, known: np.ndarray | None
    ) -> tuple[LabelRanking, np.ndarray, np.ndarray | None]:
        truth = truth if known is None else truth & known
        mask = None if known is None else ~known[:, None]
        steps = ranking_steps(values, truth, known, protocol.ap_ties)
        precision = steps.average_precision()
        resampled = None if counts is None else resampled_average_precision(steps, counts, largest).astype(np.float32)
        row = LabelRanking(
            label=data.labels[k],
            seen=bool(data.seen[k]),
            positives=int(truth.sum()),
            unknown=0 if known is None else int((~known).sum()),
            average_precision=precision,
            average_precision_interval=None if resampled is None else interval(centred(resampled, precision)),
            tied_images=int(tied_images(values[:, None], truth[:, None], mask)[0]),
            threshold=float(scores.thresholds[k]),
        )
        return row, _precision_at_recall(steps), resampled

    count, starts = len(data.labels), range(0, len(columns), LABELS_AT_ONCE)
    resampled = None if counts is None else np.full((count, counts.shape[1]), np.nan, np.float32)
    found = MeasuredLabels([None] * count, np.full((count, len(RECALL)), np.nan), resampled)
    with Progress("measuring", len(columns), unit="labels") as progress:
        for part in map_in_order(work, starts, default_workers()):
            for k, row, curve, resamples in part:
                found.rows[k], found.curves[k] = row, curve
                if resampled is not None:
                    resampled[k] = resamples
                progress.advance()
    return found


def _precision_at_recall(steps: RankingSteps) -> np.ndarray:
    """Return the precision where each recall is first reached, ``(101,)``; NaN for a label without positives."""
    if not len(steps.ends):
        return np.full(len(RECALL), np.nan)
    hits = np.cumsum(steps.positives)
    return (hits / (steps.ends + 1))[np.searchsorted(hits, np.maximum(1, np.ceil(RECALL * hits[-1] - 1e-9)))]


def mean_curve(curves: np.ndarray) -> list[float]:
    """Return the mean precision at each of ``RECALL`` over labels with positives; empty without such labels."""
    known = curves[np.isfinite(curves[:, 0])]
    return [round(float(value), 4) for value in known.mean(axis=0)] if len(known) else []


def label_totals(per_label: Sequence[LabelRanking], seen: np.ndarray, protocol: Protocol) -> LabelTotals:
    """Count seen and unseen labels, labels without positives, and labels whose ranking has ties."""
    return LabelTotals(
        seen=int(seen.sum()),
        unseen=int((~seen).sum()),
        without_positives=sum(not row.positives for row in per_label),
        without_positives_count_as=0 if protocol.empty_is_zero else None,
        with_ties=sum(row.tied_images > 0 for row in per_label),
        tied_images=sum(row.tied_images for row in per_label),
    )

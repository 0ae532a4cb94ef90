"""Compute per-image counts: hits at K and at thresholds, seen against unseen, histograms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.metrics import (
    Confusion,
    CurveEvents,
    confusion_at_threshold,
    curve_events,
    hits_at_k,
)
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.results import Group, Probabilities, Task
from zsl_tagger.evaluation.scores import CALIBRATED, GZSL, SEEN, UNSEEN, Scores

IMAGES_AT_ONCE = 2048
BINS = 50  # for probabilities 0..1
AT_THRESHOLD, AT_HALF = "at_threshold", "at_half"  # levels at which a label becomes a tag


class ImageCounts:
    """Collect the counts of each image, in blocks of images."""

    def __init__(self, count: int, labels: int, seen: np.ndarray):
        self.at_k: dict[tuple[str, int], np.ndarray] = {}  # (n, 3): hits, answers, whether the K-th place is shared
        self.recalled: dict[tuple[str, Group, int], float] = {}  # hits of seen and unseen labels within GZSL
        self.at_level: dict[tuple[str, str], np.ndarray] = {}  # (n, 3): hits, answers, positives
        nothing = Confusion(*(np.zeros(labels, np.int64) for _ in range(3)))
        self.confusion = dict.fromkeys((AT_THRESHOLD, AT_HALF), nothing)
        self.events: list[CurveEvents] = []
        self.top = 0
        self._count, self._seen = count, seen
        self._histogram = np.zeros((2, 2, BINS), np.int64)  # seen?, true?, bin
        self._sums = np.zeros((2, BINS))  # sums of probabilities

    def put(self, store: dict[Any, np.ndarray], key: Any, start: int, columns: tuple[np.ndarray, ...]) -> None:
        table = store.setdefault(key, np.zeros((self._count, len(columns))))
        table[start : start + len(columns[0])] = np.stack(columns, axis=1)

    def add_probabilities(self, p: np.ndarray, targets: np.ndarray, known: np.ndarray) -> None:
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        for group in (0, 1):
            columns = self._seen == bool(group)
            chosen, truth = known[:, columns], targets[:, columns]
            for value in (0, 1):
                mask = chosen & (truth == bool(value))
                self._histogram[group, value] += np.bincount(bins[:, columns][mask], minlength=BINS)
            self._sums[group] += np.bincount(bins[:, columns][chosen], p[:, columns][chosen], BINS)

    def histograms(self) -> dict[Group, Probabilities]:
        """Return the distribution of the probabilities of each group of labels."""
        found: dict[Group, Probabilities] = {}
        names: tuple[tuple[int, Group], ...] = ((1, SEEN), (0, UNSEEN))
        for group, name in names:
            false, true = self._histogram[group]
            total = false + true
            if not total.sum():
                continue
            gap = np.abs(self._sums[group] - true).sum() / total.sum()
            found[name] = Probabilities(
                false=false.tolist(),
                true=true.tolist(),
                mean_probability=np.round(self._sums[group] / np.maximum(total, 1), 4).tolist(),
                calibration_error=round(float(gap), 5),
            )
        return found


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        yield start, rows[start : start + IMAGES_AT_ONCE]


def measure_images(
    scores: Scores,
    data: EvaluationData,
    protocol: Protocol,
    rows: np.ndarray,
    tasks: dict[Task, np.ndarray],
    ks: tuple[int, ...],
) -> ImageCounts:
    """Count hits among the K best labels and above the thresholds, for each image of ``rows``.

    Args:
        tasks: label columns of each task.
        ks: the K of P/R/F1@K.
    """
    images = ImageCounts(len(rows), len(data.labels), data.seen)
    images.top = min(1 if data.single_label else ks[0], len(data.labels))
    for start, block in _blocks(rows):
        values, targets = np.asarray(scores.values[block]), data.targets[block]
        ignored = None if data.ignored is None else data.ignored[block]
        known = np.ones(targets.shape, bool) if ignored is None else ~ignored
        unranked = None if protocol.ranks_ignored else ignored
        rankings: list[tuple[str, np.ndarray, np.ndarray]] = [
            (name, values, columns) for name, columns in tasks.items()
        ]
        if GZSL in tasks and scores.biases.any():
            rankings.append((CALIBRATED, values + scores.biases, tasks[GZSL]))
        for name, ranked, columns in rankings:
            for k in ks:
                _at_k(images, name, k, start, ranked, targets, unranked, columns, protocol, data.seen)
        for level, thresholds in ((AT_THRESHOLD, scores.thresholds), (AT_HALF, scores.values_at(0.5))):
            tagged = (values >= thresholds) & known
            for name, columns in tasks.items():
                own, truth = tagged[:, columns], targets[:, columns]
                totals = ((own & truth).sum(axis=1), own.sum(axis=1), truth.sum(axis=1))
                images.put(images.at_level, (level, name), start, totals)
            found = confusion_at_threshold(values, targets, thresholds, ignored)
            images.confusion[level] = Confusion(*(a + b for a, b in zip(images.confusion[level], found, strict=True)))
        if GZSL in tasks:
            images.events.append(curve_events(values, targets, data.seen, images.top, unranked))
        images.add_probabilities(scores.probabilities(values), targets, known)
    return images


def _at_k(
    images: ImageCounts,
    name: str,
    k: int,
    start: int,
    values: np.ndarray,
    targets: np.ndarray,
    unranked: np.ndarray | None,
    columns: np.ndarray,
    protocol: Protocol,
    seen: np.ndarray,
) -> None:
    if k > len(columns):
        return
    masked = None if unranked is None else unranked[:, columns]
    found = hits_at_k(values[:, columns], targets[:, columns], k, masked, protocol.top_ties)
    images.put(images.at_k, (name, k), start, (found.hits, found.answers, found.tied))
    if name in (GZSL, CALIBRATED):
        groups: tuple[tuple[Group, np.ndarray], ...] = ((SEEN, seen), (UNSEEN, ~seen))
        for group, chosen in groups:
            part = hits_at_k(values, targets & chosen, k, unranked, protocol.top_ties).hits.sum()
            images.recalled[name, group, k] = images.recalled.get((name, group, k), 0.0) + float(part)

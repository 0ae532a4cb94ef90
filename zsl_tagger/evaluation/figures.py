"""Scores and truth -> every figure of the report, in one pass over images and one over labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zsl_tagger.evaluation.bootstrap import centred, draw_counts, interval, paired_test, resampled_average_precision
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.metrics import (
    Confusion,
    CurveEvents,
    RankingSteps,
    confusion_at_threshold,
    curve_events,
    harmonic_mean,
    hits_at_k,
    precision_recall_f1,
    ranking_steps,
    seen_unseen_curve,
    tied_images,
)
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.system.threads import available_cores, map_in_order

IMAGES_AT_ONCE = 2048
LABELS_AT_ONCE = 16
BINS = 50  # of probabilities 0..1
RECALL = np.linspace(0, 1, 101)  # where precision is read off for the curves

ZSL, SEEN, GZSL = "ZSL", "seen", "GZSL"
CALIBRATED = "GZSL with the model's bias"


@dataclass(frozen=True)
class Scores:
    """What is evaluated.

    Attributes:
        values: float32 ``(N, K)``, of the kind "logits" or "probabilities".
        thresholds: ``(K,)``, on the scale of ``values``, the bias left out.
        biases: ``(K,)``, what the model adds to the logits of labels never trained.
    """

    values: np.ndarray
    kind: str
    thresholds: np.ndarray
    biases: np.ndarray

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        if self.kind == "probabilities":
            return values
        return sigmoid(values + self.biases)


@dataclass
class Evaluation:
    """The figures (shares in 0..1), a row a label, and the resampled figures ``{(task, metric): (R,)}``."""

    figures: dict[str, Any]
    per_label: list[dict[str, Any]]
    resampled: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def evaluate_scores(
    scores: Scores, data: EvaluationData, protocol: Protocol, ks: tuple[int, ...], resamples: int, seed: int
) -> Evaluation:
    """Every figure of some scores.

    Args:
        data: as the scores are, images and labels in the same order.
        ks: the K of P/R/F1@K; those above a task's number of labels are left out of it.
        resamples: of the bootstrap over images; 0 for none.
    """
    kept = protocol.keeps(data.targets, data.seen)
    rows = np.flatnonzero(kept)
    counts = draw_counts(len(rows), resamples, seed) if resamples and len(rows) > 1 else None
    tasks = _tasks(data.seen)
    per_label, curves, resampled = _labels_pass(scores, data, protocol, rows, counts)
    images = _images_pass(scores, data, protocol, rows, tasks, ks)
    precisions = np.array([row["average_precision"] for row in per_label], float)
    result = Evaluation({}, per_label)
    told = {}
    for name, columns in tasks.items():
        told[name] = _task(name, columns, precisions, resampled, images, protocol, counts, result)
    result.figures = {
        "protocol": protocol.name,
        "definition": protocol.sentences(),
        "images": {"evaluated": len(rows), "left_out_by_protocol": int((~kept).sum())},
        "labels": _label_counts(per_label, data.seen, protocol),
        "kind": scores.kind,
        "tasks": told,
        "seen_and_unseen": _seen_and_unseen(told, images),
        "precision_recall": {name: _mean_curve(curves[columns]) for name, columns in _groups(data.seen).items()},
        "probabilities": images.histograms(),
    }
    for row, confusion in zip(per_label, zip(*images.confusion, strict=True), strict=True):
        precision, recall, f1 = precision_recall_f1(*confusion)
        row |= {"precision": precision, "recall": recall, "f1": f1}
    return result


def _tasks(seen: np.ndarray) -> dict[str, np.ndarray]:
    groups = _groups(seen)
    return groups if len(groups) < 2 else {**groups, GZSL: np.arange(len(seen))}


def _groups(seen: np.ndarray) -> dict[str, np.ndarray]:
    groups = {ZSL: np.flatnonzero(~seen), SEEN: np.flatnonzero(seen)}
    return {name: columns for name, columns in groups.items() if len(columns)}


# --- labels: average precision, its curve, its resamples ------------------------------------------------------


def _labels_pass(
    scores: Scores, data: EvaluationData, protocol: Protocol, rows: np.ndarray, counts: np.ndarray | None
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray | None]:
    """(a row a label, precision at each of ``RECALL`` ``(K, 101)``, resampled average precision ``(K, R)``)."""

    def work(start: int) -> list[tuple[dict[str, Any], np.ndarray, np.ndarray | None]]:
        part = slice(start, start + LABELS_AT_ONCE)
        values = np.ascontiguousarray(scores.values[:, part][rows].T)  # (k, n)
        ignored = data.ignored[:, part][rows].T if protocol.masks_ignored and data.ignored is not None else None
        return [
            _label(start + k, values[k], data.targets[rows, start + k], None if ignored is None else ~ignored[k])
            for k in range(len(values))
        ]

    def _label(
        k: int, values: np.ndarray, truth: np.ndarray, known: np.ndarray | None
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray | None]:
        truth = truth if known is None else truth & known
        mask = None if known is None else ~known[:, None]
        steps = ranking_steps(values, truth, known, protocol.ap_ties)
        precision = steps.average_precision()
        resampled = None if counts is None else resampled_average_precision(steps, counts).astype(np.float32)
        row = {
            "label": data.labels[k],
            "seen": bool(data.seen[k]),
            "positives": int(truth.sum()),
            "unknown": 0 if known is None else int((~known).sum()),
            "average_precision": precision,
            "average_precision_95": None if resampled is None else interval(centred(resampled, precision)),
            "tied_images": int(tied_images(values[:, None], truth[:, None], mask)[0]),
            "threshold": float(scores.thresholds[k]),
        }
        return row, _precision_at_recall(steps), resampled

    starts = range(0, len(data.labels), LABELS_AT_ONCE)
    done = [one for part in map_in_order(work, starts, available_cores()) for one in part]
    resampled = None if counts is None else np.array([one for _, _, one in done])
    return [row for row, _, _ in done], np.array([curve for _, curve, _ in done]), resampled


def _precision_at_recall(steps: RankingSteps) -> np.ndarray:
    """Precision where each recall is first reached, NaN for a label without positives, ``(101,)``."""
    if not len(steps.ends):
        return np.full(len(RECALL), np.nan)
    hits = np.cumsum(steps.positives)
    return (hits / (steps.ends + 1))[np.searchsorted(hits, np.maximum(1, np.ceil(RECALL * hits[-1] - 1e-9)))]


def _mean_curve(curves: np.ndarray) -> list[float]:
    known = curves[np.isfinite(curves[:, 0])]
    return [round(float(value), 4) for value in known.mean(axis=0)] if len(known) else []


def _label_counts(per_label: list[dict[str, Any]], seen: np.ndarray, protocol: Protocol) -> dict[str, Any]:
    empty = [row["label"] for row in per_label if not row["positives"]]
    tied = [row for row in per_label if row["tied_images"]]
    return {
        "seen": int(seen.sum()),
        "unseen": int((~seen).sum()),
        "without_positives": len(empty),
        "without_positives_count_as": 0 if protocol.empty_is_zero else None,
        "with_ties": len(tied),
        "tied_images": sum(row["tied_images"] for row in tied),
    }


# --- images: at K, at the threshold, the curve of seen against unseen, histograms ----------------------------


class _Images:
    """Counts of each image, gathered over blocks."""

    def __init__(self, count: int, labels: int, seen: np.ndarray):
        self.at_k: dict[tuple[str, int], np.ndarray] = {}  # (n, 3): right answers, answers, K-th place is shared
        self.recalled: dict[tuple[str, str, int], float] = {}  # right answers of seen and unseen within GZSL
        self.at_threshold: dict[str, np.ndarray] = {}  # (n, 3): right answers, answers, positives
        self.confusion = Confusion(*(np.zeros(labels, np.int64) for _ in range(3)))
        self.events: list[CurveEvents] = []
        self.top = 0
        self._count, self._seen = count, seen
        self._histogram = np.zeros((2, 2, BINS), np.int64)  # seen?, true?, bin
        self._sums = np.zeros((2, BINS))  # of probabilities

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

    def histograms(self) -> dict[str, Any]:
        """By group: counts of false and true entries in bins of probability, and how far from the truth they are.

        ``calibration_error`` is the mean over entries of |mean probability - share of true ones| of the entry's bin.
        """
        told = {}
        for group, name in ((1, SEEN), (0, ZSL)):
            false, true = self._histogram[group]
            total = false + true
            if not total.sum():
                continue
            gap = np.abs(self._sums[group] - true).sum() / total.sum()
            told[name] = {
                "false": false.tolist(),
                "true": true.tolist(),
                "mean_probability": np.round(self._sums[group] / np.maximum(total, 1), 4).tolist(),
                "calibration_error": round(float(gap), 5),
            }
        return told


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        yield start, rows[start : start + IMAGES_AT_ONCE]


def _images_pass(
    scores: Scores,
    data: EvaluationData,
    protocol: Protocol,
    rows: np.ndarray,
    tasks: dict[str, np.ndarray],
    ks: tuple[int, ...],
) -> _Images:
    images = _Images(len(rows), len(data.labels), data.seen)
    images.top = min(1 if data.single_label else ks[0], len(data.labels))
    for start, block in _blocks(rows):
        values, targets = np.asarray(scores.values[block]), data.targets[block]
        ignored = None if data.ignored is None else data.ignored[block]
        known = np.ones(targets.shape, bool) if ignored is None else ~ignored
        unranked = None if protocol.ranks_ignored else ignored
        rankings = [(name, values, columns) for name, columns in tasks.items()]
        if GZSL in tasks and scores.biases.any():
            rankings.append((CALIBRATED, values + scores.biases, tasks[GZSL]))
        for name, ranked, columns in rankings:
            for k in ks:
                _at_k(images, name, k, start, ranked, targets, unranked, columns, protocol, data.seen)
        said = values >= scores.thresholds
        for name, columns in tasks.items():
            own, truth = said[:, columns] & known[:, columns], targets[:, columns]
            totals = ((own & truth).sum(axis=1), own.sum(axis=1), truth.sum(axis=1))
            images.put(images.at_threshold, name, start, totals)
        if GZSL in tasks:
            images.events.append(curve_events(values, targets, data.seen, images.top, unranked))
        found = confusion_at_threshold(values, targets, scores.thresholds, ignored)
        images.confusion = Confusion(*(a + b for a, b in zip(images.confusion, found, strict=True)))
        images.add_probabilities(scores.probabilities(values), targets, known)
    return images


def _at_k(
    images: _Images,
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
        for group, chosen in ((SEEN, seen), (ZSL, ~seen)):
            part = hits_at_k(values, targets & chosen, k, unranked, protocol.top_ties).hits.sum()
            images.recalled[name, group, k] = images.recalled.get((name, group, k), 0.0) + float(part)


# --- putting together ----------------------------------------------------------------------------------------


def _task(
    name: str,
    columns: np.ndarray,
    precisions: np.ndarray,
    resampled: np.ndarray | None,
    images: _Images,
    protocol: Protocol,
    counts: np.ndarray | None,
    result: Evaluation,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "labels": len(columns),
        "labels_in_mean": len(columns) if protocol.empty_is_zero else int(np.isfinite(precisions[columns]).sum()),
        "mAP": _number(protocol.mean(precisions[columns])),
    }
    if resampled is not None:
        means = _resampled_means(resampled[columns], precisions[columns], protocol)
        result.resampled[name, "mAP"] = centred(means, protocol.mean(precisions[columns]))
    positives = images.at_threshold[name][:, 2] if name in images.at_threshold else np.zeros(0)
    for (task, k), table in images.at_k.items():
        if task == name:
            told[f"at_{k}"] = _micro(table[:, 0], table[:, 1], positives) | {"tied_images": int(table[:, 2].sum())}
            if counts is not None:
                result.resampled[name, f"F1@{k}"] = _resampled_f1(table[:, 0], table[:, 1], positives, counts)
    if len(positives):
        totals = images.at_threshold[name].T  # (3, n)
        told["at_threshold"] = _micro(totals[0], totals[1], totals[2])
        own = Confusion(*(part[columns] for part in images.confusion)).f1()
        told["at_threshold"]["macro_F1"] = _number(float(np.nanmean(own)) if np.isfinite(own).any() else math.nan)
        if counts is not None:
            result.resampled[name, "F1 at threshold"] = _resampled_f1(totals[0], totals[1], totals[2], counts)
    told["95"] = {metric: interval(v) for (task, metric), v in result.resampled.items() if task == name}
    return told


def _micro(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray) -> dict[str, float]:
    precision, recall, f1 = precision_recall_f1(hits.sum(), answers.sum(), positives.sum())
    return {"precision": precision, "recall": recall, "F1": f1}


def _resampled_means(resampled: np.ndarray, precisions: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Average precisions ``(K, R)`` -> mAP of each resample ``(R,)``, always over the same labels.

    A label whose positives are all missing from a resample has its own ``precisions`` ``(K,)`` there.
    """
    known = np.isfinite(precisions)
    values = np.where(np.isfinite(resampled), resampled, precisions[:, None])[known]  # (k, R)
    return values.sum(axis=0) / max(1, len(precisions) if protocol.empty_is_zero else int(known.sum()))


def _resampled_f1(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray, counts: np.ndarray) -> np.ndarray:
    drawn = [_weighted(part, counts) for part in (hits, answers, positives)]  # each (R,)
    return 2 * drawn[0] / np.maximum(drawn[1] + drawn[2], 1)


def _weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = np.zeros(counts.shape[1])
    for start in range(0, len(values), IMAGES_AT_ONCE):
        total += values[start : start + IMAGES_AT_ONCE] @ counts[start : start + IMAGES_AT_ONCE].astype(np.float64)
    return total


def _seen_and_unseen(told: dict[str, Any], images: _Images) -> dict[str, Any] | None:
    """Harmonic means and AUSUC; None where there is but one group."""
    if GZSL not in told:
        return None
    events = CurveEvents(
        np.concatenate([block.seen_leave for block in images.events] or [np.zeros((0, 2))]),
        np.concatenate([block.unseen_come for block in images.events] or [np.zeros((0, 2))]),
        sum(block.seen_positives for block in images.events),
        sum(block.unseen_positives for block in images.events),
    )
    curve = seen_unseen_curve(events)
    harmonic = curve.harmonic_means()
    best = int(np.argmax(harmonic))
    shown = np.unique(np.linspace(0, len(curve.bias) - 1, 200).astype(int))
    recalls: dict[str, dict[str, dict[str, float]]] = {}
    for (name, group, k), hits in images.recalled.items():
        positives = events.seen_positives if group == SEEN else events.unseen_positives
        recalls.setdefault(name, {}).setdefault(f"recall@{k}", {})[group] = hits / max(positives, 1)
    for by_k in recalls.values():
        for pair in by_k.values():
            pair["harmonic_mean"] = harmonic_mean(pair[SEEN], pair[ZSL])
    precisions = [told[name]["mAP"] for name in (SEEN, ZSL)]
    calibrated = {
        f"at_{k}": _micro(table[:, 0], table[:, 1], images.at_threshold[GZSL][:, 2])
        for (name, k), table in images.at_k.items()
        if name == CALIBRATED
    }
    return {
        "harmonic_mean_of_mAP": None if None in precisions else harmonic_mean(*precisions),
        "recalls": recalls,
        "with_the_model's_bias": calibrated or None,
        "AUSUC": curve.area,
        "AUSUC_of": f"recall@{images.top}",
        "best_bias": _number(float(curve.bias[best])),
        "best_harmonic_mean": float(harmonic[best]),
        "curve": {"seen": curve.seen[shown].tolist(), "unseen": curve.unseen[shown].tolist()},
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare(ours: Evaluation, other: Evaluation) -> dict[str, Any]:
    """``ours`` less ``other``, on the same resamples of the same images: each figure's difference, its 95 % interval
    and the two-sided p-value of no difference."""
    told: dict[str, Any] = {}
    for key, values in ours.resampled.items():
        if key not in other.resampled:
            continue
        a, b = (_figure(side.figures["tasks"], *key) for side in (ours, other))
        if a is not None and b is not None:
            differences = centred(values - other.resampled[key], a - b)
            told.setdefault(key[0], {})[key[1]] = {
                "ours": a, "other": b, "difference": a - b, "95": interval(differences), "p": paired_test(differences),
            }  # fmt: skip
    return told


def _figure(tasks: dict[str, Any], task: str, metric: str) -> float | None:
    told = tasks[task]
    if metric == "mAP":
        return told["mAP"]
    return told["at_threshold" if metric == "F1 at threshold" else metric.replace("F1@", "at_")]["F1"]

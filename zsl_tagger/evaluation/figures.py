"""Compute every figure of the report from scores and truth, in one pass over images and one over labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zsl_tagger.evaluation.bootstrap import centred, draw_counts, interval, paired_test
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.metrics import (
    Confusion,
    CurveEvents,
    harmonic_mean,
    precision_recall_f1,
    seen_unseen_curve,
)
from zsl_tagger.evaluation.per_image import AT_HALF, AT_THRESHOLD, ImageCounts, measure_images
from zsl_tagger.evaluation.per_label import LabelFigures, label_counts, mean_curve, measure_labels
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.resampled import resampled_f1, resampled_means
from zsl_tagger.evaluation.scores import CALIBRATED, GZSL, SEEN, ZSL, Scores, group_columns, task_columns

#: What the overall F1 of each level is called among the resampled figures.
LEVELS = {AT_THRESHOLD: "F1 at threshold", AT_HALF: "F1 at 0.5"}


@dataclass
class Evaluation:
    """The figures (shares in 0..1), a row a label, and the resampled figures ``{(task, metric): (R,)}``."""

    figures: dict[str, Any]
    per_label: list[dict[str, Any]]
    resampled: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def evaluate_scores(
    scores: Scores, data: EvaluationData, protocol: Protocol, ks: tuple[int, ...], resamples: int, seed: int
) -> Evaluation:
    """Return every figure of some scores.

    Args:
        data: as the scores are, images and labels in the same order.
        ks: the K of P/R/F1@K; those above a task's number of labels are left out of it.
        resamples: of the bootstrap over images; 0 for none.
    """
    tasks = task_columns(data.seen)
    parts: dict[str, _Part] = {}
    for rows, names in _image_sets(data, protocol, tasks):
        counts = draw_counts(len(rows), resamples, seed) if resamples and len(rows) > 1 else None
        part = _measure(scores, data, protocol, ks, rows, {name: tasks[name] for name in names}, counts)
        parts |= dict.fromkeys(names, part)
    result, told = Evaluation({}, []), {}
    for name in tasks:
        told[name] = _task(name, parts[name], protocol, result)
    groups, whole = group_columns(data.seen), parts[list(tasks)[-1]]  # GZSL, where there are both groups
    of_label = {k: parts[name] for name, columns in groups.items() for k in columns.tolist()}
    result.per_label = [of_label[k].row(k) for k in range(len(data.labels))]
    result.figures = {
        "protocol": protocol.name,
        "definition": protocol.sentences(),
        "images": {"evaluated": len(whole.rows), "left_out_by_protocol": len(data.images) - len(whole.rows)},
        "labels": label_counts(result.per_label, data.seen, protocol),
        "kind": scores.kind,
        "threshold": 0.5 if np.array_equal(scores.thresholds, scores.values_at(0.5)) else None,
        "tasks": told,
        "seen_and_unseen": _seen_and_unseen(told, whole.images),
        "precision_recall": {name: mean_curve(parts[name].labels.curves[groups[name]]) for name in groups},
        "probabilities": whole.images.histograms(),
    }
    return result


def _image_sets(
    data: EvaluationData, protocol: Protocol, tasks: dict[str, np.ndarray]
) -> list[tuple[np.ndarray, list[str]]]:
    """Group the tasks by the images that the protocol evaluates them on: indices ``(n,)``, and their names."""
    sets: dict[bytes, tuple[np.ndarray, list[str]]] = {}
    for name, columns in tasks.items():
        kept = protocol.keeps(data.targets if name == GZSL else data.targets[:, columns])
        sets.setdefault(kept.tobytes(), (np.flatnonzero(kept), []))[1].append(name)
    return list(sets.values())


@dataclass(frozen=True)
class _Part:
    """Hold what was measured on the images ``rows`` for the tasks that are evaluated on them.

    Attributes:
        tasks: their columns.
        counts: how often each image is in each resample, ``(n, R)``; None without resamples.
    """

    rows: np.ndarray
    tasks: dict[str, np.ndarray]
    counts: np.ndarray | None
    labels: LabelFigures
    images: ImageCounts

    def row(self, k: int) -> dict[str, Any]:
        """Return all figures of one label."""
        precision, recall, f1 = precision_recall_f1(*(part[k] for part in self.images.confusion[AT_THRESHOLD]))
        return {**self.labels.rows[k], "precision": precision, "recall": recall, "f1": f1}

    def in_mean(self, columns: np.ndarray, protocol: Protocol) -> np.ndarray:
        """Return those of some columns that the protocol does not leave out for want of any annotation."""
        if not protocol.drops_unannotated:
            return columns
        unknown = np.array([self.labels.rows[k]["unknown"] for k in columns.tolist()])
        return columns[unknown < len(self.rows)]


def _measure(
    scores: Scores,
    data: EvaluationData,
    protocol: Protocol,
    ks: tuple[int, ...],
    rows: np.ndarray,
    tasks: dict[str, np.ndarray],
    counts: np.ndarray | None,
) -> _Part:
    columns = np.unique(np.concatenate(list(tasks.values())))
    labels = measure_labels(scores, data, protocol, rows, columns, counts)
    return _Part(rows, tasks, counts, labels, measure_images(scores, data, protocol, rows, tasks, ks))


def _task(name: str, part: _Part, protocol: Protocol, result: Evaluation) -> dict[str, Any]:
    columns, images, counts = part.tasks[name], part.images, part.counts
    chosen = part.in_mean(columns, protocol)
    precisions = np.array([part.labels.rows[k]["average_precision"] for k in chosen.tolist()], float)
    told: dict[str, Any] = {
        "images": len(part.rows),
        "labels": len(columns),
        "labels_in_mean": len(chosen) if protocol.empty_is_zero else int(np.isfinite(precisions).sum()),
        "mAP": _number(protocol.mean(precisions)),
    }
    if part.labels.resampled is not None:
        means = resampled_means(part.labels.resampled[chosen], precisions, protocol)
        result.resampled[name, "mAP"] = centred(means, protocol.mean(precisions))
    positives = images.at_level.get((AT_THRESHOLD, name), np.zeros((0, 3)))[:, 2]
    for (task, k), table in images.at_k.items():
        if task == name:
            told[f"at_{k}"] = _micro(table[:, 0], table[:, 1], positives) | {"tied_images": int(table[:, 2].sum())}
            if counts is not None:
                result.resampled[name, f"F1@{k}"] = resampled_f1(table[:, 0], table[:, 1], positives, counts)
    for level, metric in LEVELS.items():
        if (level, name) in images.at_level:
            hits, answers, truth = images.at_level[level, name].T  # (n,) each
            told[level] = _micro(hits, answers, truth)
            told[level] |= _per_class(images.confusion[level], columns, chosen, protocol)
            if counts is not None:
                result.resampled[name, metric] = resampled_f1(hits, answers, truth, counts)
    told["95"] = {metric: interval(v) for (task, metric), v in result.resampled.items() if task == name}
    return told


def _per_class(
    confusion: Confusion, columns: np.ndarray, chosen: np.ndarray, protocol: Protocol
) -> dict[str, float | None]:
    """Return the means over labels: macro F1 of all ``columns`` with positives, CP, CR, CF1 as the protocol has means.

    Args:
        chosen: those of the columns that are in the protocol's means.
    """
    own = Confusion(*(one[columns] for one in confusion)).f1()
    means = Confusion(*(one[chosen] for one in confusion))
    precision, recall = protocol.mean(means.precision()), protocol.mean(means.recall())
    return {
        "macro_F1": _number(float(np.nanmean(own)) if np.isfinite(own).any() else math.nan),
        "CP": _number(precision),
        "CR": _number(recall),
        "CF1": _number(harmonic_mean(precision, recall)),
    }


def _micro(hits: np.ndarray, answers: np.ndarray, positives: np.ndarray) -> dict[str, float]:
    precision, recall, f1 = precision_recall_f1(hits.sum(), answers.sum(), positives.sum())
    return {"precision": precision, "recall": recall, "F1": f1}


def _seen_and_unseen(told: dict[str, Any], images: ImageCounts) -> dict[str, Any] | None:
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
        f"at_{k}": _micro(table[:, 0], table[:, 1], images.at_level[AT_THRESHOLD, GZSL][:, 2])
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
    """Compare two evaluations on the same resamples of the same images.

    Returns:
        by task and metric: both figures, their difference, its 95 % interval and the two-sided p-value of no
        difference.
    """
    told: dict[str, Any] = {}
    twice = all(side.figures["threshold"] == 0.5 for side in (ours, other))  # F1 at threshold is that at 0.5
    for key, values in ours.resampled.items():
        if key not in other.resampled or (twice and key[1] == LEVELS[AT_HALF]):
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
    levels = {title: level for level, title in LEVELS.items()}
    return told[levels.get(metric) or metric.replace("F1@", "at_")]["F1"]

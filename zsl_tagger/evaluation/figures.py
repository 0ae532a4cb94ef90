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
from zsl_tagger.evaluation.per_image import ImageCounts, measure_images
from zsl_tagger.evaluation.per_label import label_counts, mean_curve, measure_labels
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.resampled import resampled_f1, resampled_means
from zsl_tagger.evaluation.scores import CALIBRATED, GZSL, SEEN, ZSL, Scores, group_columns, task_columns


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
    kept = protocol.keeps(data.targets, data.seen)
    rows = np.flatnonzero(kept)
    counts = draw_counts(len(rows), resamples, seed) if resamples and len(rows) > 1 else None
    tasks = task_columns(data.seen)
    per_label, curves, resampled = measure_labels(scores, data, protocol, rows, counts)
    images = measure_images(scores, data, protocol, rows, tasks, ks)
    precisions = np.array([row["average_precision"] for row in per_label], float)
    result = Evaluation({}, per_label)
    told = {}
    for name, columns in tasks.items():
        told[name] = _task(name, columns, precisions, resampled, images, protocol, counts, result)
    result.figures = {
        "protocol": protocol.name,
        "definition": protocol.sentences(),
        "images": {"evaluated": len(rows), "left_out_by_protocol": int((~kept).sum())},
        "labels": label_counts(per_label, data.seen, protocol),
        "kind": scores.kind,
        "tasks": told,
        "seen_and_unseen": _seen_and_unseen(told, images),
        "precision_recall": {name: mean_curve(curves[columns]) for name, columns in group_columns(data.seen).items()},
        "probabilities": images.histograms(),
    }
    for row, confusion in zip(per_label, zip(*images.confusion, strict=True), strict=True):
        precision, recall, f1 = precision_recall_f1(*confusion)
        row |= {"precision": precision, "recall": recall, "f1": f1}
    return result


def _task(
    name: str,
    columns: np.ndarray,
    precisions: np.ndarray,
    resampled: np.ndarray | None,
    images: ImageCounts,
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
        means = resampled_means(resampled[columns], precisions[columns], protocol)
        result.resampled[name, "mAP"] = centred(means, protocol.mean(precisions[columns]))
    positives = images.at_threshold[name][:, 2] if name in images.at_threshold else np.zeros(0)
    for (task, k), table in images.at_k.items():
        if task == name:
            told[f"at_{k}"] = _micro(table[:, 0], table[:, 1], positives) | {"tied_images": int(table[:, 2].sum())}
            if counts is not None:
                result.resampled[name, f"F1@{k}"] = resampled_f1(table[:, 0], table[:, 1], positives, counts)
    if len(positives):
        totals = images.at_threshold[name].T  # (3, n)
        told["at_threshold"] = _micro(totals[0], totals[1], totals[2])
        own = Confusion(*(part[columns] for part in images.confusion)).f1()
        told["at_threshold"]["macro_F1"] = _number(float(np.nanmean(own)) if np.isfinite(own).any() else math.nan)
        if counts is not None:
            result.resampled[name, "F1 at threshold"] = resampled_f1(totals[0], totals[1], totals[2], counts)
    told["95"] = {metric: interval(v) for (task, metric), v in result.resampled.items() if task == name}
    return told


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
    """Compare two evaluations on the same resamples of the same images.

    Returns:
        by task and metric: both figures, their difference, its 95 % interval and the two-sided p-value of no
        difference.
    """
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

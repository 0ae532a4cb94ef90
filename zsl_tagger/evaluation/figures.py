"""Compute all figures of the report in one pass over images and one over labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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
from zsl_tagger.evaluation.per_label import MeasuredLabels, label_totals, mean_curve, measure_labels
from zsl_tagger.evaluation.protocols import Protocol
from zsl_tagger.evaluation.resampled import resampled_f1, resampled_means
from zsl_tagger.evaluation.results import (
    F1_AT_HALF,
    F1_AT_THRESHOLD,
    MAP,
    BiasedFigures,
    Difference,
    Figures,
    ImageTotals,
    Interval,
    LabelFigures,
    LabelRanking,
    LevelFigures,
    RecallCurve,
    RecallPair,
    SeenAndUnseen,
    Task,
    TaskFigures,
    TopFigures,
    f1_at,
)
from zsl_tagger.evaluation.scores import (
    CALIBRATED,
    GZSL,
    SEEN,
    UNSEEN,
    ZSL,
    Scores,
    group_columns,
    task_columns,
    task_of,
)

#: Metric of the overall F1 at each level.
LEVELS = {AT_THRESHOLD: F1_AT_THRESHOLD, AT_HALF: F1_AT_HALF}

#: Values of a metric on each resample, ``(R,)``, by task and metric.
Resampled = dict[tuple[Task, str], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures overall, per label and per resample."""

    figures: Figures
    per_label: list[LabelFigures]
    resampled: Resampled = field(default_factory=dict)


def evaluate_scores(
    scores: Scores, data: EvaluationData, protocol: Protocol, ks: tuple[int, ...], resamples: int, seed: int
) -> Evaluation:
    """Compute all figures of some scores.

    Args:
        data: ground truth, with images and labels in the same order as the scores.
        ks: the K of P/R/F1@K; a K above a task's number of labels is skipped.
        resamples: number of bootstrap resamples of the images; 0 for none.
    """
    tasks = task_columns(data.seen)
    parts: dict[Task, _Part] = {}
    for rows, names in _image_sets(data, protocol, tasks):
        counts = draw_counts(len(rows), resamples, seed) if resamples and len(rows) > 1 else None
        part = _measure(scores, data, protocol, ks, rows, {name: tasks[name] for name in names}, counts)
        parts |= dict.fromkeys(names, part)
    resampled: Resampled = {}
    found = {name: _task(name, parts[name], protocol, resampled) for name in tasks}
    groups, whole = group_columns(data.seen), parts[list(tasks)[-1]]  # GZSL if there are both groups
    of_label = {k: parts[task_of(group)] for group, columns in groups.items() for k in columns.tolist()}
    per_label = [of_label[k].row(k) for k in range(len(data.labels))]
    figures = Figures(
        protocol=protocol.name,
        definition=protocol.sentences(),
        images=ImageTotals(evaluated=len(whole.rows), left_out_by_protocol=len(data.images) - len(whole.rows)),
        labels=label_totals(per_label, data.seen, protocol),
        kind=scores.kind,
        threshold=0.5 if np.array_equal(scores.thresholds, scores.values_at(0.5)) else None,
        tasks=found,
        seen_and_unseen=_seen_and_unseen(found, whole.images) if GZSL in found else None,
        precision_recall={
            group: mean_curve(parts[task_of(group)].labels.curves[columns]) for group, columns in groups.items()
        },
        probabilities=whole.images.histograms(),
    )
    return Evaluation(figures=figures, per_label=per_label, resampled=resampled)


def _image_sets(
    data: EvaluationData, protocol: Protocol, tasks: dict[Task, np.ndarray]
) -> list[tuple[np.ndarray, list[Task]]]:
    """Group the tasks by the images that the protocol evaluates them on: indices ``(n,)`` and task names."""
    sets: dict[bytes, tuple[np.ndarray, list[Task]]] = {}
    for name, columns in tasks.items():
        kept = protocol.keeps(data.targets if name == GZSL else data.targets[:, columns])
        sets.setdefault(kept.tobytes(), (np.flatnonzero(kept), []))[1].append(name)
    return list(sets.values())


@dataclass(frozen=True)
class _Part:
    """Measurements on the images ``rows`` for the tasks that are evaluated on them.

    Attributes:
        tasks: label columns of each task.
        counts: how often each image is in each resample, ``(n, R)``; None without resamples.
    """

    rows: np.ndarray
    tasks: dict[Task, np.ndarray]
    counts: np.ndarray | None
    labels: MeasuredLabels
    images: ImageCounts

    def ranking(self, k: int) -> LabelRanking:
        """Return the ranking figures of one label."""
        found = self.labels.rows[k]
        assert found is not None
        return found

    def row(self, k: int) -> LabelFigures:
        """Return all figures of one label."""
        precision, recall, f1 = precision_recall_f1(*(part[k] for part in self.images.confusion[AT_THRESHOLD]))
        return LabelFigures(**vars(self.ranking(k)), precision=precision, recall=recall, f1=f1)

    def in_mean(self, columns: np.ndarray, protocol: Protocol) -> np.ndarray:
        """Return the columns that the protocol includes in the mean, without labels that were never annotated."""
        if not protocol.drops_unannotated:
            return columns
        unknown = np.array([self.ranking(k).unknown for k in columns.tolist()])
        return columns[unknown < len(self.rows)]


def _measure(
    scores: Scores,
    data: EvaluationData,
    protocol: Protocol,
    ks: tuple[int, ...],
    rows: np.ndarray,
    tasks: dict[Task, np.ndarray],
    counts: np.ndarray | None,
) -> _Part:
    columns = np.unique(np.concatenate(list(tasks.values())))
    labels = measure_labels(scores, data, protocol, rows, columns, counts)
    return _Part(rows, tasks, counts, labels, measure_images(scores, data, protocol, rows, tasks, ks))


def _task(name: Task, part: _Part, protocol: Protocol, resampled: Resampled) -> TaskFigures:
    """Return the figures of a task, and add the figures of its resamples to ``resampled``."""
    columns = part.tasks[name]
    chosen = part.in_mean(columns, protocol)
    precisions = np.array([part.ranking(k).average_precision for k in chosen.tolist()], float)
    if part.labels.resampled is not None:
        means = resampled_means(part.labels.resampled[chosen], precisions, protocol)
        resampled[name, MAP] = centred(means, protocol.mean(precisions))
    return TaskFigures(
        images=len(part.rows),
        labels=len(columns),
        labels_in_mean=len(chosen) if protocol.empty_is_zero else int(np.isfinite(precisions).sum()),
        map=_number(protocol.mean(precisions)),
        map_interval=_interval(resampled, name, MAP),
        at_k={k: _at_k(name, k, part, resampled) for task, k in part.images.at_k if task == name},
        at_threshold=_at_level(name, AT_THRESHOLD, part, chosen, protocol, resampled),
        at_half=_at_level(name, AT_HALF, part, chosen, protocol, resampled),
    )


def _interval(resampled: Resampled, task: Task, metric: str) -> Interval | None:
    return interval(resampled[task, metric]) if (task, metric) in resampled else None


def _at_k(name: Task, k: int, part: _Part, resampled: Resampled) -> TopFigures:
    """Return the figures of the K best labels, and add the F1 of each resample to ``resampled``."""
    table, positives = part.images.at_k[name, k], part.images.at_level[AT_THRESHOLD, name][:, 2]
    if part.counts is not None:
        resampled[name, f1_at(k)] = resampled_f1(table[:, 0], table[:, 1], positives, part.counts)
    return _top(table, positives, _interval(resampled, name, f1_at(k)))


def _top(table: np.ndarray, positives: np.ndarray, f1_interval: Interval | None = None) -> TopFigures:
    """Return figures at K from hits, answers and ties of each image, ``(n, 3)``."""
    precision, recall, f1 = precision_recall_f1(table[:, 0].sum(), table[:, 1].sum(), positives.sum())
    tied = int(table[:, 2].sum())
    return TopFigures(precision=precision, recall=recall, f1=f1, tied_images=tied, f1_interval=f1_interval)


def _at_level(
    name: Task, level: str, part: _Part, chosen: np.ndarray, protocol: Protocol, resampled: Resampled
) -> LevelFigures | None:
    """Return the figures of tags, and add the F1 of each resample to ``resampled``; None without images.

    ``cp``, ``cr`` and ``cf1`` are means over the labels ``chosen``, macro F1 is over all labels with positives.
    """
    if (level, name) not in part.images.at_level:
        return None
    hits, answers, truth = part.images.at_level[level, name].T  # (n,) each
    if part.counts is not None:
        resampled[name, LEVELS[level]] = resampled_f1(hits, answers, truth, part.counts)
    precision, recall, f1 = precision_recall_f1(hits.sum(), answers.sum(), truth.sum())
    own = Confusion(*(one[part.tasks[name]] for one in part.images.confusion[level])).f1()
    means = Confusion(*(one[chosen] for one in part.images.confusion[level]))
    cp, cr = protocol.mean(means.precision()), protocol.mean(means.recall())
    return LevelFigures(
        precision=precision,
        recall=recall,
        f1=f1,
        f1_interval=_interval(resampled, name, LEVELS[level]),
        cp=_number(cp),
        cr=_number(cr),
        cf1=_number(harmonic_mean(cp, cr)),
        macro_f1=_number(float(np.nanmean(own)) if np.isfinite(own).any() else math.nan),
    )


def _seen_and_unseen(tasks: dict[Task, TaskFigures], images: ImageCounts) -> SeenAndUnseen:
    """Return harmonic means and AUSUC; labels of both groups must exist."""
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
    seen, unseen = tasks[SEEN].map, tasks[ZSL].map
    return SeenAndUnseen(
        harmonic_mean_of_map=None if seen is None or unseen is None else harmonic_mean(seen, unseen),
        recall_at_k=_recalls(GZSL, images, events),
        with_model_bias=_with_model_bias(images, events),
        ausuc=curve.area,
        ausuc_k=images.top,
        best_bias=_number(float(curve.bias[best])),
        best_harmonic_mean=float(harmonic[best]),
        curve=RecallCurve(seen=curve.seen[shown].tolist(), unseen=curve.unseen[shown].tolist()),
    )


def _recalls(ranking: str, images: ImageCounts, events: CurveEvents) -> dict[int, RecallPair]:
    """Return the recall of both groups at each K, in one ranking of all labels."""
    recalls = {}
    for k in [k for name, group, k in images.recalled if (name, group) == (ranking, SEEN)]:
        seen = images.recalled[ranking, SEEN, k] / max(events.seen_positives, 1)
        unseen = images.recalled[ranking, UNSEEN, k] / max(events.unseen_positives, 1)
        recalls[k] = RecallPair(seen=seen, unseen=unseen, harmonic_mean=harmonic_mean(seen, unseen))
    return recalls


def _with_model_bias(images: ImageCounts, events: CurveEvents) -> BiasedFigures | None:
    tables = {k: table for (name, k), table in images.at_k.items() if name == CALIBRATED}
    if not tables:
        return None
    positives = images.at_level[AT_THRESHOLD, GZSL][:, 2]
    return BiasedFigures(
        recall_at_k=_recalls(CALIBRATED, images, events),
        at_k={k: _top(table, positives) for k, table in tables.items()},
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare(ours: Evaluation, other: Evaluation) -> dict[Task, dict[str, Difference]]:
    """Compare two evaluations on the same resamples of the same images, by task and metric."""
    found: dict[Task, dict[str, Difference]] = {}
    twice = all(side.figures.threshold == 0.5 for side in (ours, other))  # F1 at threshold equals F1 at 0.5
    for (task, metric), values in ours.resampled.items():
        if (task, metric) not in other.resampled or (twice and metric == F1_AT_HALF):
            continue
        a, b = (side.figures.tasks[task].figure(metric) for side in (ours, other))
        if a is not None and b is not None:
            differences = centred(values - other.resampled[task, metric], a - b)
            found.setdefault(task, {})[metric] = Difference(
                ours=a, other=b, difference=a - b, interval=interval(differences), p=paired_test(differences)
            )
    return found

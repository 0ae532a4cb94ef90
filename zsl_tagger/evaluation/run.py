"""Evaluate scores from a model or a file under a protocol and write a report: ``zsl-tagger evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsl_tagger import choices
from zsl_tagger.choices import LabelGroup, ScoreKind, Split
from zsl_tagger.errors import UserError, some
from zsl_tagger.evaluation.data import EvaluationData, data_of_dataset, data_of_targets
from zsl_tagger.evaluation.figures import compare, evaluate_scores
from zsl_tagger.evaluation.processes import Compute
from zsl_tagger.evaluation.protocols import Protocol, protocol_named
from zsl_tagger.evaluation.report import write_report
from zsl_tagger.evaluation.results import Comparison, LabelFigures, Report
from zsl_tagger.evaluation.score_files import SUFFIXES, read_levels, read_scores, scratch
from zsl_tagger.evaluation.scores import GZSL, SEEN, TASK_NAMES, ZSL, Scores, log_odds, task_columns
from zsl_tagger.evaluation.scoring import remove_partial, score_with_model, trained_labels
from zsl_tagger.evaluation.text import summary
from zsl_tagger.system.files import locked, write_whole
from zsl_tagger.tagging.model_folder import named_folder

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.npz"


@dataclass(frozen=True, kw_only=True)
class EvaluateRun(Compute):
    """Options of one run, as given, and what computes its scores.

    Attributes:
        model, scores: the subject of the evaluation: a model folder ("packaged" for the packaged one) or a scores file.
        data, targets: the ground truth: either a prepared folder or a file of targets (with ``unseen``, a file of the
            names of its unseen labels).
        against: another model folder or scores file to compare with.
        protocol: a name, or a custom definition (docs/paper.md).
        labels: "all", "seen" or "unseen".
        ks: the K of P/R/F1@K; None: the protocol's.
        threshold: 0..1, for every label; None: each label's own from the model or the file, otherwise 0.5.
        resamples: number of bootstrap resamples; 0 for no intervals.
        force: evaluate labels that the model was trained on as unseen.
    """

    model: Path | None = None
    data: Path | None = None
    scores: Path | None = None
    targets: Path | None = None
    unseen: Path | None = None
    kind: ScoreKind | None = None
    protocol: choices.Protocol | Protocol = "strict"
    split: Split = "test"
    labels: LabelGroup = "all"
    ks: Sequence[int] | None = None
    threshold: float | None = None
    against: Path | None = None
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None
    images: Path | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run: the report, the figures of each label, and the lines to print."""

    report: Report
    per_label: list[LabelFigures]
    lines: list[str]


def evaluate(run: EvaluateRun) -> Result:
    """Evaluate, and write the report if ``output`` is given.

    Raises:
        UserError: the options or inputs do not fit together.
    """
    _check_options(run)
    protocol = run.protocol if isinstance(run.protocol, Protocol) else protocol_named(run.protocol)
    data = _data(run)
    notes: list[str] = []
    subjects = _subjects(run)
    for subject in subjects:
        _check_trained(subject, data, run, notes)
    data = data.restricted(data.columns(run.labels))
    if run.data is not None:
        _note_unknown(data, protocol, notes)
    if run.output is not None:
        run.output.mkdir(parents=True, exist_ok=True)
    with nullcontext() if run.output is None else locked(run.output):
        return _evaluate(run, subjects, data, protocol, notes)


def _check_options(run: EvaluateRun) -> None:
    if (run.model is None) == (run.scores is None):
        raise UserError("give either --model DIR or --scores FILE to evaluate")
    if (run.data is None) == (run.targets is None):
        raise UserError("give either --data DIR or --targets FILE to evaluate against")
    if run.unseen is not None and run.targets is None:
        raise UserError("--unseen-file goes with --targets: a prepared folder lists its unseen labels")
    if run.ks is not None and (not run.ks or min(run.ks) < 1):
        raise UserError(f"expected --k of at least 1, got {', '.join(map(str, run.ks)) or 'none'}")
    if run.threshold is not None and not 0 <= run.threshold <= 1:
        raise UserError(f"expected --threshold in 0..1, got {run.threshold}")
    if run.resamples < 0 or run.resamples == 1:
        raise UserError(f"expected --resamples of 2 or more, or 0 for none, got {run.resamples}")


def _data(run: EvaluateRun) -> EvaluationData:
    if run.data is not None:
        return data_of_dataset(run.data, run.split, run.images)
    assert run.targets is not None
    return data_of_targets(run.targets, run.unseen, run.images)


def _evaluate(
    run: EvaluateRun, subjects: list[_Subject], data: EvaluationData, protocol: Protocol, notes: list[str]
) -> Result:
    scored = [_scored(subject, data, run, notes, first=subject is subjects[0]) for subject in subjects]
    faults = {row: why for _, own in scored for row, why in own.items()}
    readable = np.array([row not in faults for row in range(len(data.images))], bool)
    if faults:
        row, why = next(iter(faults.items()))
        _warn(notes, f"{len(faults)} images cannot be read and are skipped, e.g. {data.images[row]}: {why}")
        data = data.rows(readable)
    parts = [scores if not faults else _rows(scores, readable) for scores, _ in scored]
    _check_images(protocol, data, notes)
    ks = tuple(sorted(set(run.ks or protocol.ks)))
    judged = [one if run.threshold is None else replace(one, thresholds=one.values_at(run.threshold)) for one in parts]
    done = [evaluate_scores(scores, data, protocol, ks, run.resamples, run.seed) for scores in judged]
    figures = done[0].figures
    report = Report.of(
        figures if run.threshold is None else replace(figures, threshold=run.threshold),
        evaluated=str(subjects[0].path),
        data=data.name,
        split=data.split,
        resamples=run.resamples,
        unreadable_images=len(faults),
        against=None if len(done) < 2 else Comparison(evaluated=str(subjects[1].path), tasks=compare(*done)),
        notes=notes,
    )
    lines = summary(report)
    if run.output is not None:
        write_report(run.output, report, done[0].per_label, data, parts[0].values)
        if run.model is not None:
            _save_scores(run.output / SCORES_FILE, data, parts[0])
        remove_partial(run.output)
        lines.append(f"report: {run.output / 'report.html'}")
    return Result(report=report, per_label=done[0].per_label, lines=lines)


def _warn(notes: list[str], text: str) -> None:
    """Log a warning and add it to the notes of the report."""
    logger.warning("%s", text)
    notes.append(text)


def _note_unknown(data: EvaluationData, protocol: Protocol, notes: list[str]) -> None:
    """Note how complete partial labels are, and warn about labels that no scores could get wrong."""
    if data.ignored is None:
        return
    known = data.ignored.size - int(data.ignored.sum())
    notes.append(f"labels are partial: {known:,} of {data.ignored.size:,} pairs of image and label are known")
    logger.info("%s", notes[-1])
    never_absent = data.targets.any(axis=0) & ~(~data.targets & ~data.ignored).any(axis=0)
    if protocol.masks_ignored and never_absent.any():
        names = [data.labels[k] for k in np.flatnonzero(never_absent)]
        _warn(
            notes,
            f"labels without a known negative have an average precision of 1 regardless of the scores "
            f"({len(names)}): {some(names)}",
        )


def _check_images(protocol: Protocol, data: EvaluationData, notes: list[str]) -> None:
    """Raise a UserError for a task without images; warn if the data set lacks images that a task includes."""
    tasks = task_columns(data.seen)
    for name, columns in tasks.items():
        if protocol.needs_label and not data.targets[:, columns].any():
            kind = {ZSL: "unseen ", SEEN: "seen "}.get(name, "")
            other = f"--classes {'seen' if name == ZSL else 'unseen'} leaves them out" if GZSL in tasks else ""
            raise UserError(
                f"protocol {protocol.name} evaluates {kind}labels on images that show one, but {data.name}, split "
                f"{data.split}, has none: {other or 'give another --split or --protocol'}"
            )
    concerned = [TASK_NAMES[name] for name in tasks if not (name == ZSL and protocol.needs_label)]
    if data.lacks_seen_only and concerned:
        _warn(
            notes,
            f"{data.name} was prepared without test images that have no unseen label, which protocol "
            f"{protocol.name} evaluates too ({', '.join(concerned)}): prepare nus-wide --protocol lesa keeps them",
        )


class _Subject(NamedTuple):
    """A subject of the evaluation: its path as given, and its model folder (None for a scores file)."""

    path: Path
    folder: Path | None


def _subjects(run: EvaluateRun) -> list[_Subject]:
    """Return the subject to evaluate, and the subject to compare with."""
    if run.model is not None:
        subjects = [_Subject(run.model, named_folder(run.model))]
    else:
        assert run.scores is not None
        subjects = [_Subject(run.scores, None)]
    if run.against is not None:
        is_file = run.against.suffix.lower() in SUFFIXES and not run.against.is_dir()
        subjects.append(_Subject(run.against, None if is_file else named_folder(run.against)))
    return subjects


def _check_trained(subject: _Subject, data: EvaluationData, run: EvaluateRun, notes: list[str]) -> None:
    """Refuse a model that was trained on unseen labels; warn if the data set itself has such a pair."""
    path, folder = subject
    if folder is None or run.labels == "seen":
        return
    unseen = [label for label, seen in zip(data.labels, data.seen, strict=True) if not seen]
    of_data = set(data.labels) - set(unseen)
    trained = trained_labels(folder, unseen)
    twins = [f"{name} ({other})" for name, other in trained.items() if other in of_data]
    if twins:
        _warn(
            notes,
            f"{data.name} has {len(twins)} unseen labels with the same query to {path} as a seen one; their figures "
            f"are not zero-shot: {some(twins, 10)}",
        )
    foreign = [name for name, other in trained.items() if other not in of_data]
    if not foreign:
        return
    shown = some(foreign, 10)
    problem = f"{path} was trained on {len(foreign)} of the {len(unseen)} unseen labels of {data.name}: {shown}"
    if not run.force:
        raise UserError(f"{problem}. Its figures would not be zero-shot; --force evaluates it anyway")
    _warn(notes, f"NOT ZERO-SHOT (forced): {problem}")


def _scored(
    subject: _Subject, data: EvaluationData, run: EvaluateRun, notes: list[str], first: bool
) -> tuple[Scores, dict[int, str]]:
    """Return the scores of a model folder or a file, and the unreadable images."""
    path, folder = subject
    if folder is None:
        of_file: list[str] = []
        values, kind = read_scores(path, data.images, data.labels, run.kind, of_file)
        for note in of_file:
            logger.info("%s", note)
        notes += of_file
        return _with_levels(path, values, kind, data.labels), {}
    scored = score_with_model(folder, data, run.output if first else None, run)
    thresholds, biases = scored.labels.thresholds, scored.labels.biases
    return Scores(scored.logits, "logits", log_odds(thresholds, biases), biases), scored.faults


def _with_levels(path: Path, values: np.ndarray, kind: str, labels: list[str]) -> Scores:
    """Return the scores of a file with its thresholds and biases; by default a score of 0.5 and bias 0."""
    thresholds, biases = read_levels(path, labels)
    none = np.zeros(len(labels), np.float32)
    scores = Scores(values, kind, none, biases if biases is not None and kind == "logits" else none)
    return replace(scores, thresholds=scores.values_at(0.5) if thresholds is None else thresholds)


def _rows(scores: Scores, keep: np.ndarray) -> Scores:
    values = scratch(int(keep.sum()), scores.values.shape[1])
    for place, row in enumerate(np.flatnonzero(keep)):
        values[place] = scores.values[row]
    return replace(scores, values=values)


def _save_scores(path: Path, data: EvaluationData, scores: Scores) -> None:
    """Write a file for ``--scores`` and ``--against``, which repeats the evaluation in seconds."""
    arrays: dict[str, Any] = {
        "scores": scores.values,
        "images": np.array(data.images, np.str_),
        "labels": np.array(data.labels, np.str_),
        "kind": np.array(scores.kind),
        "thresholds": scores.thresholds,
        "biases": scores.biases,
    }
    write_whole(path, lambda file: np.savez(file, **arrays))

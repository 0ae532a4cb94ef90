"""What ``zsl-tagger evaluate`` does: scores from a model or a file, figures under a protocol, a report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData, data_of_dataset, data_of_targets
from zsl_tagger.evaluation.figures import CALIBRATED, GZSL, SEEN, ZSL, Scores, compare, evaluate_scores
from zsl_tagger.evaluation.protocols import Protocol, protocol_named
from zsl_tagger.evaluation.report import write_report
from zsl_tagger.evaluation.score_files import read_scores, scratch
from zsl_tagger.evaluation.scoring import remove_partial, score_with_model, trained_labels
from zsl_tagger.files import locked, write_whole
from zsl_tagger.model_folder import PACKAGED

SCORES_FILE = "scores.npz"


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class EvaluateRun:
    """The options of one run, as given.

    Attributes:
        model, scores: what is evaluated, one of the two: a model folder ("packaged" for the packaged one), or a file of
            scores.
        data, targets: against what, one of the two: a prepared folder, or a file of targets (with ``unseen``, a file of
            the names of its unseen labels).
        against: another model folder or file of scores, to be compared with.
        labels: "all", "seen" or "unseen".
        threshold: 0..1, of every label; None: the model's own, 0.5 for a file.
        resamples: of the bootstrap; 0 for no intervals.
        force: evaluate labels that the model was trained on as unseen.
    """

    model: Path | None = None
    data: Path | None = None
    scores: Path | None = None
    targets: Path | None = None
    unseen: Path | None = None
    kind: str | None = None
    protocol: str = "strict"
    split: str = "test"
    labels: str = "all"
    ks: tuple[int, ...] = (3, 5)
    threshold: float | None = None
    against: Path | None = None
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None
    images: Path | None = None
    force: bool = False
    workers: int | None = None
    note: Callable[[str], None] = print
    progress: Callable[[int, int], None] = _silent


@dataclass
class Result:
    """What a run came to: figures as JSON, a row a label, and the lines to print."""

    figures: dict[str, Any]
    per_label: list[dict[str, Any]]
    lines: list[str] = field(default_factory=list)


def evaluate(run: EvaluateRun) -> Result:
    """Evaluate, and write the report where ``output`` is given.

    Raises:
        UserError: what was given does not fit together; the message says what to do.
    """
    _check_options(run)
    protocol = protocol_named(run.protocol)
    data = _data(run)
    columns = data.columns(run.labels)
    data = replace(
        data,
        labels=[data.labels[k] for k in columns.tolist()],
        seen=data.seen[columns],
        targets=data.targets[:, columns],
        ignored=None if data.ignored is None else data.ignored[:, columns],
        vectors=None if data.vectors is None else data.vectors[columns],
        training_images=None if data.training_images is None else data.training_images[columns],
    )
    if run.output is not None:
        run.output.mkdir(parents=True, exist_ok=True)
    with nullcontext() if run.output is None else locked(run.output):
        return _evaluate(run, data, protocol)


def _check_options(run: EvaluateRun) -> None:
    if (run.model is None) == (run.scores is None):
        raise UserError("give what is to be evaluated: --model DIR or --scores FILE, one of the two")
    if (run.data is None) == (run.targets is None):
        raise UserError("give what it is evaluated against: --data DIR or --targets FILE, one of the two")
    if run.unseen is not None and run.targets is None:
        raise UserError("--unseen-file belongs to --targets: a prepared folder says which labels are unseen")
    if not run.ks or min(run.ks) < 1:
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


def _evaluate(run: EvaluateRun, data: EvaluationData, protocol: Protocol) -> Result:
    notes: list[str] = []
    subjects = [path for path in (run.model or run.scores, run.against) if path is not None]
    for path in subjects:
        _check_trained(path, data, run, notes)
    scored = [_scored(path, data, run, notes, first=path is subjects[0]) for path in subjects]
    faults = {row: why for _, own in scored for row, why in own.items()}
    readable = np.array([row not in faults for row in range(len(data.images))], bool)
    if faults:
        row, why = next(iter(faults.items()))
        notes.append(f"{len(faults)} images cannot be read and are left out, e.g. {data.images[row]}: {why}")
        data = data.rows(readable)
    parts = [scores if not faults else _rows(scores, readable) for scores, _ in scored]
    if not protocol.keeps(data.targets, data.seen).any():
        raise UserError(f"protocol {protocol.name} takes images with an unseen label only, and {data.name} has none")
    ks = tuple(sorted(set(run.ks)))
    done = [evaluate_scores(scores, data, protocol, ks, run.resamples, run.seed) for scores in parts]
    figures = {
        "evaluated": str(subjects[0]),
        "data": data.name,
        "split": data.split,
        "resamples": run.resamples,
        "unreadable_images": len(faults),
        **done[0].figures,
        "against": None if len(done) < 2 else {"evaluated": str(subjects[1]), **compare(*done)},
        "notes": notes,
    }
    for note in notes:
        run.note(note)
    result = Result(figures, done[0].per_label)
    result.lines = summary(figures)
    if run.output is not None:
        write_report(run.output, figures, done[0].per_label, data, parts[0].values)
        if run.model is not None:
            _save_scores(run.output / SCORES_FILE, data, parts[0])
        remove_partial(run.output)
        result.lines.append(f"look at {run.output / 'report.html'}")
    return result


def _model_folder(path: Path) -> Path | None:
    """The folder of a model, "packaged" for the packaged one; None for a file of scores."""
    if path == Path("packaged") and not path.exists():
        return PACKAGED
    return path if path.is_dir() or not path.suffix else None


def _check_trained(path: Path, data: EvaluationData, run: EvaluateRun, notes: list[str]) -> None:
    folder = _model_folder(path)
    if folder is None:
        return
    unseen = [label for label, seen in zip(data.labels, data.seen, strict=True) if not seen]
    trained = trained_labels(folder, unseen)
    if not trained:
        return
    shown = ", ".join(map(repr, trained[:10])) + (f" and {len(trained) - 10} more" if len(trained) > 10 else "")
    told = f"{path} was trained on {len(trained)} of the {len(unseen)} labels that {data.name} calls unseen: {shown}"
    if not run.force:
        raise UserError(f"{told}. Its figures would not be zero-shot; --force evaluates it all the same")
    notes.append(f"NOT ZERO-SHOT (forced): {told}")


def _scored(
    path: Path, data: EvaluationData, run: EvaluateRun, notes: list[str], first: bool
) -> tuple[Scores, dict[int, str]]:
    """Scores of a model folder or a file, and the images that cannot be read."""
    folder = _model_folder(path)
    if folder is None:
        values, kind = read_scores(path, data.images, data.labels, run.kind, notes)
        threshold = 0.5 if run.threshold is None else run.threshold
        bar = threshold if kind == "probabilities" else _logit(np.array(threshold))
        count = len(data.labels)
        return Scores(values, kind, np.full(count, bar, np.float32), np.zeros(count, np.float32)), {}
    scored = score_with_model(folder, data, run.output if first else None, run.workers, run.progress)
    own = scored.labels.thresholds if run.threshold is None else np.full(len(data.labels), run.threshold)
    biases = scored.labels.biases
    return Scores(scored.logits, "logits", (_logit(own) - biases).astype(np.float32), biases), scored.faults


def _logit(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-p)


def _rows(scores: Scores, keep: np.ndarray) -> Scores:
    values = scratch(int(keep.sum()), scores.values.shape[1])
    for place, row in enumerate(np.flatnonzero(keep)):
        values[place] = scores.values[row]
    return replace(scores, values=values)


def _save_scores(path: Path, data: EvaluationData, scores: Scores) -> None:
    """For ``--scores``: the same evaluation in seconds, and ``--against``."""
    images, labels = np.array(data.images, np.str_), np.array(data.labels, np.str_)
    kind = np.array(scores.kind)
    write_whole(path, lambda file: np.savez(file, scores=scores.values, images=images, labels=labels, kind=kind))


# --- what a person reads ---------------------------------------------------------------------------------------

TITLES = {ZSL: "ZSL: unseen labels", SEEN: "seen labels", GZSL: "GZSL: all labels"}


def summary(figures: dict[str, Any]) -> list[str]:
    """The figures in percent, with their 95 % intervals."""
    images, labels = figures["images"], figures["labels"]
    dropped = f" ({images['left_out_by_protocol']:,} left out)" if images["left_out_by_protocol"] else ""
    lines = [
        f"{figures['evaluated']} on {figures['data']}, split {figures['split']}: "
        f"{images['evaluated']:,} images{dropped}, protocol {figures['protocol']}",
        *(f"  {sentence}" for sentence in figures["definition"][:3]),
        "",
    ]
    rows = table(figures)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *both_lines(figures)]
    lines.append(
        f"labels without positives: {labels['without_positives']}; with ties that order would decide: "
        f"{labels['with_ties']} ({labels['tied_images']:,} images)"
    )
    if figures["against"]:
        lines += ["", *against_lines(figures["against"])]
    return lines


def table(figures: dict[str, Any]) -> list[list[str]]:
    """Header and a row a task, in percent."""
    tasks = figures["tasks"]
    metrics = list(dict.fromkeys(name for task in tasks.values() for name in task if name.startswith("at_")))
    named = {name: f"F1@{name[3:]}" if name != "at_threshold" else "F1 at threshold" for name in metrics}
    rows = [["", "labels", "mAP", *named.values(), "macro F1"]]
    for name, task in tasks.items():
        cells = [_cell(task["mAP"], task["95"].get("mAP"))]
        cells += [_cell((task.get(key) or {}).get("F1"), task["95"].get(title)) for key, title in named.items()]
        cells.append(_cell((task.get("at_threshold") or {}).get("macro_F1"), None))
        rows.append([TITLES[name], f"{task['labels_in_mean']:,} of {task['labels']:,}", *cells])
    return rows


def both_lines(figures: dict[str, Any]) -> list[str]:
    """Seen and unseen labels in one list."""
    both = figures["seen_and_unseen"]
    if not both:
        return []
    plain = both["recalls"][GZSL]
    told = [f"mAP {_percent(both['harmonic_mean_of_mAP'])}"]
    told += [f"{name} {_percent(pair['harmonic_mean'])}" for name, pair in plain.items()]
    lines = [f"harmonic mean of seen and unseen: {', '.join(told)}"]
    if CALIBRATED in both["recalls"]:
        told = [f"{name} {_percent(pair['harmonic_mean'])}" for name, pair in both["recalls"][CALIBRATED].items()]
        told += [f"F1@{name[3:]} {_percent(task['F1'])}" for name, task in both["with_the_model's_bias"].items()]
        lines.append(f"  with the model's bias: {', '.join(told)}")
    bias = both["best_bias"]
    at = "" if bias is None else f" (at the bias {bias:+.2f}, chosen on these very images)"
    lines.append(
        f"AUSUC ({both['AUSUC_of']}): {both['AUSUC']:.3f}; the best harmonic mean any bias reaches: "
        f"{_percent(both['best_harmonic_mean'])}{at}"
    )
    return lines


def against_lines(against: dict[str, Any]) -> list[str]:
    """The paired comparison."""
    lines = [f"against {against['evaluated']}, on the same resamples of the images:"]
    for task in (name for name in TITLES if name in against):
        for metric, one in against[task].items():
            low, high = (f"{100 * edge:+.1f}" for edge in one["95"]) if one["95"] else ("?", "?")
            lines.append(
                f"  {TITLES[task]}, {metric}: {100 * one['ours']:.1f} - {100 * one['other']:.1f} = "
                f"{100 * one['difference']:+.1f} (95 %: {low} to {high}; p = {one['p']:.3g})"
            )
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: float | None, edges: list[float] | None) -> str:
    told = _percent(value)
    return f"{told} ({100 * edges[0]:.1f} to {100 * edges[1]:.1f})" if value is not None and edges else told

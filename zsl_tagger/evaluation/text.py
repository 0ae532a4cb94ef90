"""Format the figures in percent, for the terminal and the page."""

from __future__ import annotations

from zsl_tagger.evaluation.results import (
    MAP,
    Comparison,
    Figures,
    Interval,
    LevelFigures,
    Report,
    Task,
    TaskFigures,
    f1_at,
    metric_title,
)
from zsl_tagger.evaluation.scores import GZSL, SEEN, TASK_NAMES, ZSL
from zsl_tagger.reports.text import aligned, wrapped

TITLES: dict[Task, str] = {ZSL: "ZSL: unseen labels", SEEN: "seen labels", GZSL: "GZSL: all labels"}


def summary(report: Report) -> list[str]:
    """Return the figures in percent with 95 % intervals; lines have at most 80 columns unless a name is longer."""
    images, labels = report.images, report.labels
    dropped = f" ({images.left_out_by_protocol:,} left out)" if images.left_out_by_protocol else ""
    lines = wrapped(
        f"{report.evaluated} on {report.data}, split {report.split}: "
        f"{images.evaluated:,} images{dropped}, protocol {report.protocol}"
    )
    for sentence in report.definition:
        lines += wrapped(sentence, indent=2)
    for title, rows in tables(report):
        lines += ["", *([title] if title else []), *aligned(rows)]
    lines.append("")
    ties = (
        f"labels without positives: {labels.without_positives}; with ties that depend on order: "
        f"{labels.with_ties} ({labels.tied_images:,} images)"
    )
    for line in (*both_lines(report), ties):
        lines += wrapped(line)
    if report.against:
        lines += ["", against_title(report.against), *aligned(against_table(report.against))]
    return lines


def tables(figures: Figures) -> list[tuple[str, list[list[str]]]]:
    """Return titles and tables in percent: ranking, then precision, recall and F1 of tags.

    The ranking table has one column per task, so that any number of K fits the width of a terminal.
    """
    tasks, threshold = figures.tasks, figures.threshold
    own = "at each label's own threshold" if threshold is None else f"at a score of {threshold:g}"
    found = [("", ranking_table(tasks))]
    found.append((own, level_table({name: task.at_threshold for name, task in tasks.items()})))
    if threshold != 0.5:
        found.append(("at a score of 0.5", level_table({name: task.at_half for name, task in tasks.items()})))
    return found


def ranking_table(tasks: dict[Task, TaskFigures]) -> list[list[str]]:
    """Return a header and one row per figure."""
    rows = [["", *(TITLES[name] for name in tasks)]]
    if len({task.images for task in tasks.values()}) > 1:
        rows.append(["images", *(f"{task.images:,}" for task in tasks.values())])
    rows.append(["labels", *(f"{task.labels_in_mean:,} of {task.labels:,}" for task in tasks.values())])
    rows.append([metric_title(MAP), *(_cell(task.map, task.map_interval) for task in tasks.values())])
    for k in dict.fromkeys(k for task in tasks.values() for k in task.at_k):
        found = [task.at_k.get(k) for task in tasks.values()]
        cells = [_percent(None) if top is None else _cell(top.f1, top.f1_interval) for top in found]
        rows.append([metric_title(f1_at(k)), *cells])
    return rows


def level_table(levels: dict[Task, LevelFigures | None]) -> list[list[str]]:
    """Return a header and one row per task: precision, recall and F1 as means over labels, and overall."""
    rows = [["", "CP", "CR", "CF1", "macro F1", "OP", "OR", "OF1"]]
    for name, found in levels.items():
        if found is None:
            rows.append([TASK_NAMES[name], *[_percent(None)] * (len(rows[0]) - 1)])
            continue
        means = (found.cp, found.cr, found.cf1, found.macro_f1, found.precision, found.recall)
        rows.append([TASK_NAMES[name], *map(_percent, means), _cell(found.f1, found.f1_interval)])
    return rows


def both_lines(figures: Figures) -> list[str]:
    """Return lines about seen and unseen labels ranked together."""
    both = figures.seen_and_unseen
    if both is None:
        return []
    parts = [f"mAP {_percent(both.harmonic_mean_of_map)}"]
    parts += [f"recall@{k} {_percent(pair.harmonic_mean)}" for k, pair in both.recall_at_k.items()]
    lines = [f"harmonic mean of seen and unseen: {', '.join(parts)}"]
    if biased := both.with_model_bias:
        parts = [f"recall@{k} {_percent(pair.harmonic_mean)}" for k, pair in biased.recall_at_k.items()]
        parts += [f"{metric_title(f1_at(k))} {_percent(top.f1)}" for k, top in biased.at_k.items()]
        lines.append(f"  with the model's bias: {', '.join(parts)}")
    bias = both.best_bias
    at = "" if bias is None else f" (at bias {bias:+.2f}, chosen on these images)"
    lines.append(
        f"AUSUC (recall@{both.ausuc_k}): {both.ausuc:.3f}; best harmonic mean of any bias: "
        f"{_percent(both.best_harmonic_mean)}{at}"
    )
    return lines


def against_title(against: Comparison) -> str:
    """Return the title of the comparison."""
    return f"against {against.evaluated}, on the same resamples of the images:"


def against_table(against: Comparison) -> list[list[str]]:
    """Return a header and one row per task and figure of the paired comparison."""
    rows = [["", "", "this", "other", "difference (95 %)", "p"]]
    for task, name in TASK_NAMES.items():
        for metric, one in against.tasks.get(task, {}).items():
            low, high = (f"{100 * edge:+.1f}" for edge in one.interval) if one.interval else ("?", "?")
            difference = f"{100 * one.difference:+.1f} ({low} to {high})"
            rows.append(
                [name, metric_title(metric), _percent(one.ours), _percent(one.other), difference, f"{one.p:.3g}"]
            )
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: float | None, edges: Interval | None) -> str:
    text = _percent(value)
    return f"{text} ({100 * edges[0]:.1f} to {100 * edges[1]:.1f})" if value is not None and edges else text

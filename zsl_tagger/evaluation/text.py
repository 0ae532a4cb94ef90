"""The figures as a person reads them, in percent: what the command prints and the page repeats."""

from __future__ import annotations

from typing import Any

from zsl_tagger.evaluation.figures import LEVELS
from zsl_tagger.evaluation.per_image import AT_HALF, AT_THRESHOLD
from zsl_tagger.evaluation.scores import CALIBRATED, GZSL, SEEN, ZSL
from zsl_tagger.reports.text import aligned, wrapped

TITLES = {ZSL: "ZSL: unseen labels", SEEN: "seen labels", GZSL: "GZSL: all labels"}


def summary(figures: dict[str, Any]) -> list[str]:
    """Return the figures in percent, with their 95 % intervals; no line but one with a long name is over 80 columns."""
    images, labels = figures["images"], figures["labels"]
    dropped = f" ({images['left_out_by_protocol']:,} left out)" if images["left_out_by_protocol"] else ""
    lines = wrapped(
        f"{figures['evaluated']} on {figures['data']}, split {figures['split']}: "
        f"{images['evaluated']:,} images{dropped}, protocol {figures['protocol']}"
    )
    for sentence in figures["definition"]:
        lines += wrapped(sentence, indent=2)
    for title, rows in tables(figures):
        lines += ["", *([title] if title else []), *aligned(rows)]
    lines.append("")
    ties = (
        f"labels without positives: {labels['without_positives']}; with ties that order would decide: "
        f"{labels['with_ties']} ({labels['tied_images']:,} images)"
    )
    for line in (*both_lines(figures), ties):
        lines += wrapped(line)
    if figures["against"]:
        lines += ["", against_title(figures["against"]), *aligned(against_table(figures["against"]))]
    return lines


def tables(figures: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return titles and tables in percent: ranking, then precision, recall and F1 of tags.

    A table of rankings has a column a task, so that any number of K fits the width of a terminal.
    """
    tasks, threshold = figures["tasks"], figures["threshold"]
    own = "at each label's own threshold" if threshold is None else f"at a score of {threshold:g}"
    found = [("", ranking_table(tasks)), (own, level_table(tasks, AT_THRESHOLD))]
    if threshold != 0.5:
        found.append(("at a score of 0.5", level_table(tasks, AT_HALF)))
    return found


def ranking_table(tasks: dict[str, Any]) -> list[list[str]]:
    """Return a header and a row a figure."""
    rows = [["", *(TITLES[name] for name in tasks)]]
    if len({task["images"] for task in tasks.values()}) > 1:
        rows.append(["images", *(f"{task['images']:,}" for task in tasks.values())])
    rows.append(["labels", *(f"{task['labels_in_mean']:,} of {task['labels']:,}" for task in tasks.values())])
    rows.append(["mAP", *(_cell(task["mAP"], task["95"].get("mAP")) for task in tasks.values())])
    for key in dict.fromkeys(key for task in tasks.values() for key in task if key.startswith("at_")):
        if key not in LEVELS:
            title = f"F1@{key[3:]}"
            cells = [_cell((task.get(key) or {}).get("F1"), task["95"].get(title)) for task in tasks.values()]
            rows.append([title, *cells])
    return rows


def level_table(tasks: dict[str, Any], level: str) -> list[list[str]]:
    """Return a header and a row a task: precision, recall and F1 as means over labels, and overall."""
    names = {"CP": "CP", "CR": "CR", "CF1": "CF1", "macro_F1": "macro F1", "precision": "OP", "recall": "OR"}
    rows = [["", *names.values(), "OF1"]]
    for name, task in tasks.items():
        told = task.get(level) or {}
        cells = [_percent(told.get(key)) for key in names]
        rows.append([name, *cells, _cell(told.get("F1"), task["95"].get(LEVELS[level]))])
    return rows


def both_lines(figures: dict[str, Any]) -> list[str]:
    """Seen and unseen labels in one list."""
    both = figures["seen_and_unseen"]
    if not both:
        return []
    plain = both["recalls"].get(GZSL, {})
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


def against_title(against: dict[str, Any]) -> str:
    """Return the line above the comparison."""
    return f"against {against['evaluated']}, on the same resamples of the images:"


def against_table(against: dict[str, Any]) -> list[list[str]]:
    """Return a header and a row a task and figure of the paired comparison."""
    rows = [["", "", "this", "other", "difference (95 %)", "p"]]
    for task in (name for name in TITLES if name in against):
        for metric, one in against[task].items():
            low, high = (f"{100 * edge:+.1f}" for edge in one["95"]) if one["95"] else ("?", "?")
            difference = f"{100 * one['difference']:+.1f} ({low} to {high})"
            rows.append([task, metric, _percent(one["ours"]), _percent(one["other"]), difference, f"{one['p']:.3g}"])
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: float | None, edges: list[float] | None) -> str:
    told = _percent(value)
    return f"{told} ({100 * edges[0]:.1f} to {100 * edges[1]:.1f})" if value is not None and edges else told

"""The figures as a person reads them, in percent: what the command prints and the page repeats."""

from __future__ import annotations

from typing import Any

from zsl_tagger.evaluation.scores import CALIBRATED, GZSL, SEEN, ZSL
from zsl_tagger.reports.text import aligned

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
    lines += [*aligned(table(figures)), "", *both_lines(figures)]
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

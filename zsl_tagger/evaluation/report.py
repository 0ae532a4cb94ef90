"""The report folder: ``report.json``, ``per_label.csv`` and ``report.html``, a page that needs no other file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.per_image import BINS
from zsl_tagger.evaluation.per_label import RECALL
from zsl_tagger.evaluation.scores import SEEN, ZSL
from zsl_tagger.evaluation.text import against_table, against_title, both_lines, tables
from zsl_tagger.reports.pages import figure, render, svg, thumbnail
from zsl_tagger.system.files import json_bytes, write_whole
from zsl_tagger.system.untrusted_text import spreadsheet_cell
from zsl_tagger.words.table import unit_length

JSON_FILE, LABELS_FILE, PAGE_FILE = "report.json", "per_label.csv", "report.html"

LABELS_SHOWN = 6  # best, and worst
PHOTOS_SHOWN = 5
SUPPORTS = 3  # nearest seen labels of an unseen one

_COLOURS = {SEEN: "#3b6fb6", ZSL: "#c2453d"}
_NAMES = {SEEN: "seen labels", ZSL: "unseen labels"}


def write_report(
    folder: Path, figures: dict[str, Any], per_label: list[dict[str, Any]], data: EvaluationData, values: np.ndarray
) -> None:
    """Write the three files.

    Args:
        values: the scores ``(N, K)``, for the example photos.
    """
    write_whole(folder / JSON_FILE, json_bytes(figures))
    write_whole(folder / LABELS_FILE, _csv(per_label))
    write_whole(folder / PAGE_FILE, page(figures, per_label, data, values).encode("utf-8", "backslashreplace"))


def _csv(per_label: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")  # opened in spreadsheets, and read by no command
    plain = [name for name in per_label[0] if name != "average_precision_95"]
    writer.writerow([*plain, "average_precision_low", "average_precision_high"])
    for row in per_label:
        low, high = row["average_precision_95"] or (None, None)
        writer.writerow([_cell(row[name]) for name in plain] + [_cell(low), _cell(high)])
    return file.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return spreadsheet_cell(value)
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else ""
    return value


def page(figures: dict[str, Any], per_label: list[dict[str, Any]], data: EvaluationData, values: np.ndarray) -> str:
    """The HTML page."""
    ranked = sorted((row for row in per_label if row["positives"]), key=lambda row: -row["average_precision"])
    shown = {
        "unseen labels, best": [row for row in ranked if not row["seen"]][:LABELS_SHOWN],
        "unseen labels, worst": [row for row in ranked[::-1] if not row["seen"]][:LABELS_SHOWN],
        "seen labels, best": [row for row in ranked if row["seen"]][:LABELS_SHOWN],
        "seen labels, worst": [row for row in ranked[::-1] if row["seen"]][:LABELS_SHOWN],
    }
    return render(
        "zsl_tagger.evaluation",
        "report.html.j2",
        figures=figures,
        tables=tables(figures),
        both=both_lines(figures),
        against=against_table(figures["against"]) if figures["against"] else [],
        against_title=against_title(figures["against"]) if figures["against"] else "",
        plots=_plots(figures),
        examples={
            title: [{**row, "photos": _photos(row["label"], data, values)} for row in rows]
            for title, rows in shown.items()
            if rows
        },
        supports=supports(data),
        per_label=sorted(per_label, key=lambda row: (row["seen"], row["label"])),
    )


def _photos(label: str, data: EvaluationData, values: np.ndarray) -> list[dict[str, Any]]:
    """The photos with the highest scores, then the true one with the lowest of those not among them."""
    column = data.labels.index(label)
    scores, truth = np.asarray(values[:, column]), data.targets[:, column]
    order = np.argsort(-scores, kind="stable")
    places = list(range(min(PHOTOS_SHOWN, len(order))))
    true_places = np.flatnonzero(truth[order])
    if len(true_places) and true_places[-1] >= PHOTOS_SHOWN:
        places.append(int(true_places[-1]))
    photos = []
    for place in places:
        row = int(order[place])
        picture = None if data.root is None else thumbnail(data.root / data.images[row])
        photos.append(
            {
                "picture": picture,
                "path": data.images[row],
                "true": bool(truth[row]),
                "score": float(scores[row]),
                "place": place + 1,
            }
        )
    return photos


def supports(data: EvaluationData) -> list[dict[str, Any]]:
    """What an unseen label can lean on: its nearest seen labels by word vector, and their training images."""
    if data.vectors is None or data.training_images is None or data.seen.all() or not data.seen.any():
        return []
    unit = unit_length(data.vectors)
    seen = np.flatnonzero(data.seen)
    cosines = unit[~data.seen] @ unit[seen].T  # (unseen, seen)
    rows = []
    for column, near in zip(np.flatnonzero(~data.seen).tolist(), cosines, strict=True):
        best = np.argsort(-near, kind="stable")[:SUPPORTS]
        leaned = [
            {
                "label": data.labels[seen[k]],
                "cosine": float(near[k]),
                "images": int(data.training_images[seen[k]]),
            }
            for k in best
        ]
        rows.append({"label": data.labels[column], "near": leaned})
    return sorted(rows, key=lambda row: -row["near"][0]["cosine"])


# --- plots -----------------------------------------------------------------------------------------------------


def _plots(figures: dict[str, Any]) -> list[dict[str, str]]:
    plots = [
        {"title": "Precision and recall, mean over labels", "svg": _plot_precision_recall(figures)},
        {"title": "Probabilities of false and true labels", "svg": _plot_histograms(figures)},
        {"title": "Calibration: what a probability is worth", "svg": _plot_calibration(figures)},
    ]
    if figures["seen_and_unseen"]:
        plots.append({"title": "Seen against unseen, over all biases", "svg": _plot_seen_unseen(figures)})
    return plots


def _plot_precision_recall(figures: dict[str, Any]) -> str:
    drawn, axes = figure()
    for name, curve in figures["precision_recall"].items():
        if curve:
            axes.plot(RECALL, curve, color=_COLOURS[name], label=_NAMES[name])
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_histograms(figures: dict[str, Any]) -> str:
    drawn, axes = figure()
    edges = np.linspace(0, 1, BINS + 1)
    for name, counts in figures["probabilities"].items():
        for truth, style in (("true", "-"), ("false", ":")):
            share = np.array(counts[truth]) / max(1, sum(counts[truth]))
            axes.stairs(share, edges, color=_COLOURS[name], linestyle=style, label=f"{_NAMES[name]}, {truth}")
    axes.set(xlabel="probability", ylabel="share of the entries", yscale="log", xlim=(0, 1))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_calibration(figures: dict[str, Any]) -> str:
    drawn, axes = figure()
    axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
    for name, counts in figures["probabilities"].items():
        true, false = (np.array(counts[truth]).reshape(-1, 5).sum(axis=1) for truth in ("true", "false"))
        total = true + false
        sums = np.array(counts["mean_probability"]) * (np.array(counts["true"]) + np.array(counts["false"]))
        mean = sums.reshape(-1, 5).sum(axis=1) / np.maximum(total, 1)
        enough = total >= 10
        axes.plot(mean[enough], (true / np.maximum(total, 1))[enough], "o-", color=_COLOURS[name], label=_NAMES[name])
    axes.set(xlabel="mean probability said", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_seen_unseen(figures: dict[str, Any]) -> str:
    both = figures["seen_and_unseen"]
    drawn, axes = figure()
    axes.plot(both["curve"]["unseen"], both["curve"]["seen"], color="#444", label=f"AUSUC {both['AUSUC']:.3f}")
    for name, pairs in both["recalls"].items():
        pair = pairs.get(both["AUSUC_of"])
        if pair:
            mark = "o" if name == "GZSL" else "s"
            axes.plot(
                pair[ZSL], pair[SEEN], mark, label="as the scores are" if mark == "o" else "with the model's bias"
            )
    axes.set(xlabel=f"{both['AUSUC_of']} of unseen labels", ylabel=f"{both['AUSUC_of']} of seen labels")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return svg(drawn)

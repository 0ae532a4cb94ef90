"""Write the report folder: ``report.json``, ``per_label.csv`` and a self-contained ``report.html``."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.per_image import BINS
from zsl_tagger.evaluation.per_label import RECALL
from zsl_tagger.evaluation.results import Figures, LabelFigures, Report, SeenAndUnseen
from zsl_tagger.evaluation.scores import SEEN, UNSEEN
from zsl_tagger.evaluation.text import against_table, against_title, both_lines, tables
from zsl_tagger.reports.pages import Plot, figure, render, svg, thumbnail
from zsl_tagger.system.files import json_bytes, write_whole
from zsl_tagger.system.untrusted_text import spreadsheet_cell
from zsl_tagger.words.table import unit_length

JSON_FILE, LABELS_FILE, PAGE_FILE = "report.json", "per_label.csv", "report.html"

LABELS_SHOWN = 6  # number of best and of worst labels
PHOTOS_SHOWN = 5
SUPPORTS = 3  # nearest seen labels per unseen label

_COLOURS = {SEEN: "#3b6fb6", UNSEEN: "#c2453d"}
_NAMES = {SEEN: "seen labels", UNSEEN: "unseen labels"}


def write_report(
    folder: Path, report: Report, per_label: list[LabelFigures], data: EvaluationData, values: np.ndarray
) -> None:
    """Write the three files.

    Args:
        values: the scores ``(N, K)``, for the example photos.
    """
    write_whole(folder / JSON_FILE, json_bytes(report.to_json()))
    write_whole(folder / LABELS_FILE, _csv(per_label))
    write_whole(folder / PAGE_FILE, page(report, per_label, data, values).encode("utf-8", "backslashreplace"))


def _csv(per_label: list[LabelFigures]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")  # for spreadsheets; no command reads it
    names = [field.name for field in fields(LabelFigures)]
    plain = [name for name in names if name != "average_precision_interval"]
    writer.writerow([*plain, "average_precision_low", "average_precision_high"])
    for row in per_label:
        low, high = row.average_precision_interval or (None, None)
        writer.writerow([_cell(getattr(row, name)) for name in plain] + [_cell(low), _cell(high)])
    return file.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return spreadsheet_cell(value)
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else ""
    return value


def page(report: Report, per_label: list[LabelFigures], data: EvaluationData, values: np.ndarray) -> str:
    """Return the HTML page."""
    ranked = sorted((row for row in per_label if row.positives), key=lambda row: -row.average_precision)
    shown = {
        "unseen labels, best": [row for row in ranked if not row.seen][:LABELS_SHOWN],
        "unseen labels, worst": [row for row in ranked[::-1] if not row.seen][:LABELS_SHOWN],
        "seen labels, best": [row for row in ranked if row.seen][:LABELS_SHOWN],
        "seen labels, worst": [row for row in ranked[::-1] if row.seen][:LABELS_SHOWN],
    }
    return render(
        "zsl_tagger.evaluation",
        "report.html.j2",
        report=report,
        tables=tables(report),
        both=both_lines(report),
        against=against_table(report.against) if report.against else [],
        against_title=against_title(report.against) if report.against else "",
        plots=_plots(report),
        examples={
            title: [(row, _photos(row.label, data, values)) for row in rows] for title, rows in shown.items() if rows
        },
        supports=supports(data),
        per_label=sorted(per_label, key=lambda row: (row.seen, row.label)),
    )


class ExamplePhoto(NamedTuple):
    """A photo shown with a label.

    Attributes:
        picture: data URL; None if the photo cannot be read.
        true: whether it has the label.
        score: score of the label, in the unit of the scores.
        place: rank among the photos, from 1.
    """

    picture: str | None
    path: str
    true: bool
    score: float
    place: int


def _photos(label: str, data: EvaluationData, values: np.ndarray) -> list[ExamplePhoto]:
    """Return the photos with the highest scores, followed by the remaining true photo with the lowest score.

    Photos for which the label is unknown are excluded, since they would be shown as wrong.
    """
    column = data.labels.index(label)
    scores, truth = np.asarray(values[:, column]), data.targets[:, column]
    order = np.argsort(-scores, kind="stable")
    if data.ignored is not None:
        order = order[~data.ignored[order, column]]
    places = list(range(min(PHOTOS_SHOWN, len(order))))
    true_places = np.flatnonzero(truth[order])
    if len(true_places) and true_places[-1] >= PHOTOS_SHOWN:
        places.append(int(true_places[-1]))
    photos = []
    for place in places:
        row = int(order[place])
        picture = None if data.root is None else thumbnail(data.root / data.images[row])
        photos.append(ExamplePhoto(picture, data.images[row], bool(truth[row]), float(scores[row]), place + 1))
    return photos


class NearLabel(NamedTuple):
    """A seen label, its cosine with the word vector of an unseen label, and its number of training images."""

    label: str
    cosine: float
    images: int


class Support(NamedTuple):
    """An unseen label and its nearest seen labels, nearest first."""

    label: str
    near: list[NearLabel]


def supports(data: EvaluationData) -> list[Support]:
    """Return the nearest seen labels of each unseen label by word vector, the best supported label first."""
    if data.vectors is None or data.training_images is None or data.seen.all() or not data.seen.any():
        return []
    unit = unit_length(data.vectors)
    seen = np.flatnonzero(data.seen)
    cosines = unit[~data.seen] @ unit[seen].T  # (unseen, seen)
    rows = []
    for column, near in zip(np.flatnonzero(~data.seen).tolist(), cosines, strict=True):
        best = np.argsort(-near, kind="stable")[:SUPPORTS]
        leaned = [NearLabel(data.labels[seen[k]], float(near[k]), int(data.training_images[seen[k]])) for k in best]
        rows.append(Support(data.labels[column], leaned))
    return sorted(rows, key=lambda row: -row.near[0].cosine)


# --- plots -----------------------------------------------------------------------------------------------------


def _plots(figures: Figures) -> list[Plot]:
    plots = [
        Plot("Precision and recall, mean over labels", _plot_precision_recall(figures)),
        Plot("Probabilities of false and true labels", _plot_histograms(figures)),
        Plot("Calibration: predicted and observed probability", _plot_calibration(figures)),
    ]
    if figures.seen_and_unseen:
        plots.append(Plot("Seen against unseen, over all biases", _plot_seen_unseen(figures.seen_and_unseen)))
    return plots


def _plot_precision_recall(figures: Figures) -> str:
    drawn, axes = figure()
    for name, curve in figures.precision_recall.items():
        if curve:
            axes.plot(RECALL, curve, color=_COLOURS[name], label=_NAMES[name])
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_histograms(figures: Figures) -> str:
    drawn, axes = figure()
    edges = np.linspace(0, 1, BINS + 1)
    for name, counts in figures.probabilities.items():
        for truth, entries, style in (("true", counts.true, "-"), ("false", counts.false, ":")):
            share = np.array(entries) / max(1, sum(entries))
            axes.stairs(share, edges, color=_COLOURS[name], linestyle=style, label=f"{_NAMES[name]}, {truth}")
    axes.set(xlabel="probability", ylabel="share of the entries", yscale="log", xlim=(0, 1))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_calibration(figures: Figures) -> str:
    drawn, axes = figure()
    axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
    for name, counts in figures.probabilities.items():
        true, false = (np.array(entries).reshape(-1, 5).sum(axis=1) for entries in (counts.true, counts.false))
        total = true + false
        sums = np.array(counts.mean_probability) * (np.array(counts.true) + np.array(counts.false))
        mean = sums.reshape(-1, 5).sum(axis=1) / np.maximum(total, 1)
        enough = total >= 10
        axes.plot(mean[enough], (true / np.maximum(total, 1))[enough], "o-", color=_COLOURS[name], label=_NAMES[name])
    axes.set(xlabel="mean predicted probability", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_seen_unseen(both: SeenAndUnseen) -> str:
    drawn, axes = figure()
    axes.plot(both.curve.unseen, both.curve.seen, color="#444", label=f"AUSUC {both.ausuc:.3f}")
    biased = both.with_model_bias.recall_at_k if both.with_model_bias else {}
    for pairs, mark, title in (
        (both.recall_at_k, "o", "without a bias"),
        (biased, "s", "with the model's bias"),
    ):
        if pair := pairs.get(both.ausuc_k):
            axes.plot(pair.unseen, pair.seen, mark, label=title)
    recall = f"recall@{both.ausuc_k}"
    axes.set(xlabel=f"{recall} of unseen labels", ylabel=f"{recall} of seen labels")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return svg(drawn)

"""Log the figures of a run to ``metrics.csv``, TensorBoard and ``curves.png``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from zsl_tagger.system.files import folder_inside, open_unlinked, write_errors, write_whole
from zsl_tagger.training.figures import FIGURES, OLD_NAMES

CSV_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "metrics.csv", "curves.png", "tensorboard"
COLUMNS = ("step", "epoch", "loss", "lr", "images_per_s", *FIGURES)


class RunLog:
    """Log figures; a resumed run appends to the same files.

    Args:
        folder: folder of the run.
        step: step to resume from; later rows, which a killed run wrote after its last checkpoint, are removed.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.folder = folder / CSV_FILE, folder
        rows = [row for row in read_metrics(self.path) if float(row["step"]) <= step] if step else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue().encode())
        with write_errors(folder):
            self._tensorboard = SummaryWriter(str(folder_inside(folder, TENSORBOARD_FOLDER)), purge_step=step + 1)

    def write(self, values: dict[str, float]) -> None:
        with write_errors(self.path), open_unlinked(self.path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({name: _short(value) for name, value in values.items()})
        for name, value in values.items():
            if name != "step":
                self._tensorboard.add_scalar(name, value, int(values["step"]))

    def close(self) -> None:
        self._tensorboard.close()


def _short(value: float) -> str:
    return f"{value:.6g}"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the rows of ``metrics.csv``, by this or an older version, without a truncated last line."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values() and row["step"]]
    return [{OLD_NAMES.get(name, name): value for name, value in row.items()} for row in rows]


def draw_curves(folder: Path, title: str) -> None:
    """Draw ``curves.png``: loss, learning rate and validation figures by epoch."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder / CSV_FILE)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    _plot(left, rows, "loss", "C0")
    left.set(xlabel="epoch", ylabel="training loss")
    if all(float(row["loss"]) > 0 for row in rows if row["loss"]):
        left.set_yscale("log")
    rates = left.twinx()
    _plot(rates, rows, "lr", "0.7")
    rates.set_ylabel("learning rate (grey)")
    shown = [name for name in COLUMNS[5:] if any(row[name] for row in rows)]
    for number, name in enumerate(shown):
        _plot(right, rows, name, f"C{number + 1}", marker=".")
    right.set(xlabel="epoch", ylabel="validation, percent")
    if shown:
        right.legend(frameon=False)
    else:
        right.text(0.5, 0.5, "no validation images", ha="center", va="center", transform=right.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    write_whole(folder / CURVES_FILE, picture.getvalue())


def _plot(axes: Any, rows: list[dict[str, str]], name: str, colour: str, **style: Any) -> None:
    points = [(float(row["epoch"]), float(row[name])) for row in rows if row[name]]
    scale = 100 if name.startswith(("val_", "heldout", "harmonic")) else 1
    axes.plot([x for x, _ in points], [scale * y for _, y in points], color=colour, label=name, **style)


def measured_text(values: dict[str, float]) -> str:
    """Return the loss and the last validation figures for the progress bar, e.g. ``"loss 0.12, val_map 45.1"``."""
    percents = [f"{name} {100 * values[name]:.1f}" for name in ("val_map", "val_top1", "heldout_map") if name in values]
    return ", ".join([f"loss {values['loss']:.3g}", *percents])

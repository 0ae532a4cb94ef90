"""Plot the reliability of scores for the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zsl_tagger.packaged.calibration import Reliability
from zsl_tagger.reports.pages import figure, svg
from zsl_tagger.system.files import write_whole

RELIABILITY_FILE = "reliability.svg"

COMPLETE_FOLDER = Path("more/coco_captions")  # its labels.json has complete labels for 18 COCO classes


def complete_truth(photos: Path, files: list[str]) -> tuple[list[int], list[str], np.ndarray]:
    """Return the photos with complete labels, the names of K labels, and the truth.

    Args:
        photos: root of the photos; ``more/coco_captions/labels.json`` below it has ``classes`` and the ``labels`` of
            each photo.
        files: photos, relative to the root.

    Returns:
        indices of n photos in ``files``, K names, truth bool ``(n, K)``; all empty if no photo is from that folder.
    """
    numbers = [number for number, file in enumerate(files) if Path(file).parent == COMPLETE_FOLDER]
    if not numbers:
        return [], [], np.zeros((0, 0), bool)
    content = json.loads((photos / COMPLETE_FOLDER / "labels.json").read_text(encoding="utf-8"))
    names: list[str] = content["classes"]
    shown = [content["labels"].get(Path(files[number]).name, []) for number in numbers]
    return numbers, names, np.array([[name in labels for name in names] for labels in shown])


def write_reliability(path: Path, curves: dict[str, Reliability]) -> None:
    """Plot the share of correct entries over the mean score of each bin, one line per curve, as SVG."""
    drawn, axes = figure(width=5, height=4)
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    for name, curve in curves.items():
        used = curve.counts > 0
        axes.plot(curve.scores[used], curve.true[used], marker="o", label=f"{name}: error {curve.error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is true")
    axes.legend(frameon=False, loc="upper left")
    write_whole(path, svg(drawn).encode())

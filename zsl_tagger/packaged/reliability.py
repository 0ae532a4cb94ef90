"""Draw how often scores are true, for the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zsl_tagger.packaged.calibration import Reliability
from zsl_tagger.reports.pages import figure, svg
from zsl_tagger.system.files import write_whole

RELIABILITY_FILE = "reliability.svg"

COMPLETE = Path("more/coco_captions")  # photos whose labels.json says all of 18 COCO classes


def complete_truth(photos: Path, files: list[str]) -> tuple[list[int], list[str], np.ndarray]:
    """Return the photos of ``files`` that are labelled in full, the K names, and the truth, bool ``(n, K)``.

    Args:
        photos: root of the photos; ``more/coco_captions/labels.json`` there lists ``classes``, and of each photo those
            that it shows.
        files: photos, relative to the root.

    Returns:
        numbers in ``files``, names, truth; nothing of each where no photo is from that folder.
    """
    numbers = [number for number, file in enumerate(files) if Path(file).parent == COMPLETE]
    if not numbers:
        return [], [], np.zeros((0, 0), bool)
    said = json.loads((photos / COMPLETE / "labels.json").read_text(encoding="utf-8"))
    names: list[str] = said["classes"]
    shown = [said["labels"].get(Path(files[number]).name, []) for number in numbers]
    return numbers, names, np.array([[name in labels for name in names] for labels in shown])


def write_reliability(path: Path, curves: dict[str, Reliability]) -> None:
    """Draw one line a curve, with the share that is true over the mean score of each bin, as SVG."""
    drawn, axes = figure(width=5, height=4)
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    for name, curve in curves.items():
        some = curve.counts > 0
        axes.plot(curve.scores[some], curve.true[some], marker="o", label=f"{name}: error {curve.error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is true")
    axes.legend(frameon=False, loc="upper left")
    write_whole(path, svg(drawn).encode())

"""Measure the cost of XMP sidecars: ``tag`` with and without ``--sidecar xmp``, over synthetic photos.

    python -m benchmarks.sidecars

The photos are random cuts of the four example photos, 320 x 240 JPEGs, in folders of 500. Each folder is tagged by a
process of its own, alone and with new sidecars, by turns which of the two comes first, and then once more with the
sidecars that are there by then. Ten tags per photo, whatever their scores, so that each photo has one. Overhead is
the time with sidecars over the time without: of all folders together, the median of the folders with the least and the
most, and the same in processor time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, write_result

FOLDER, SIDE = 500, (320, 240)
ALONE, NEW, AGAIN = "alone", "new sidecars", "sidecars as they are"
TAGS = ("--threshold", "0", "--top-k", "10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    arguments = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {run: [] for run in (ALONE, NEW, AGAIN)}
    random = np.random.default_rng(0)
    for turn, start in enumerate(range(0, arguments.photos, FOLDER)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "photos"
            make_photos(folder, min(FOLDER, arguments.photos - start), random)
            for run in (*((ALONE, NEW) if turn % 2 else (NEW, ALONE)), AGAIN):
                options = () if run == ALONE else ("--sidecar", "xmp")
                taken[run].append(timed(folder, Path(name) / "tags.jsonl", options))
            made = len(list(folder.glob("*.xmp")))
            assert made == len(list(folder.glob("*.jpg"))), f"{made} sidecars"
    times = {run: np.array(own) for run, own in taken.items()}  # (folders, 2)
    figures: dict[str, Any] = {"photos": arguments.photos, "photos a folder": FOLDER, "tags a photo": 10}
    for run, own in times.items():
        ratios = 100 * (own[:, 0] / times[ALONE][:, 0] - 1)
        more, more_work = 100 * (own.sum(axis=0) / times[ALONE].sum(axis=0) - 1)
        figures[run] = {
            "seconds": round(float(own[:, 0].sum()), 1),
            "ms a photo": round(1000 * float(own[:, 0].sum()) / arguments.photos, 2),
            "overhead, percent": round(float(more), 2),
            "overhead of a folder, percent": [round(float(f(ratios)), 2) for f in (np.median, np.min, np.max)],
            "overhead in processor time, percent": round(float(more_work), 2),
        }
    write_result("sidecars", figures)


def make_photos(folder: Path, count: int, random: np.random.Generator) -> None:
    folder.mkdir()
    photos = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.jpg"))]
    for number in range(count):
        photo = photos[random.integers(len(photos))]
        width = random.integers(photo.width // 3, photo.width)
        height = random.integers(photo.height // 3, photo.height)
        left, top = random.integers(photo.width - width), random.integers(photo.height - height)
        photo.crop((left, top, left + width, top + height)).resize(SIDE).save(folder / f"{number:05d}.jpg", quality=85)


def timed(folder: Path, output: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Return seconds from process start to exit, and processor seconds."""
    command = [sys.executable, "-m", "cli", "tag", str(folder), *TAGS, "--output", str(output), "--overwrite"]
    start, worked = time.perf_counter(), _worked()
    subprocess.run([*command, *options], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start, _worked() - worked


def _worked() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

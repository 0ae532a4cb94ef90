"""Measure the cost of resumable output: a run over a folder, hashing, and opening a large output.

    python -m benchmarks.long_runs --photos FOLDER

"folder": seconds of ``tag`` over the photos with two labels, the loading of the model included, as JSON Lines into
/dev/null (no hash, no lock, no settings) and into each format, in turn; median, least and largest of the ratios to
/dev/null within a turn. "hash": SHA-256 of a photo of 12 million pixels (an example photo enlarged, with noise) beside
tagging it. "resume": opening an output of ``--records`` photos with 6 tags each, and the peak memory of that process.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, write_result
from zsl_tagger.bulk.options import TagRun
from zsl_tagger.bulk.run import run_tagging
from zsl_tagger.images.finding import find_images
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.record_files import open_record_file
from zsl_tagger.records.writers import LASTING
from zsl_tagger.system.files import sha256_of
from zsl_tagger.tagging.tagger import Tagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="a folder of some hundred photos")
    parser.add_argument("--limit", type=int, default=400, help="photos to take")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--records", type=int, default=200_000)
    arguments = parser.parse_args()
    photos = [path for path in islice(find_images([str(arguments.photos)]), arguments.limit) if isinstance(path, str)]
    with tempfile.TemporaryDirectory() as folder:
        write_result(
            "long_runs",
            {
                "folder": folder_runs(photos, Path(folder), arguments.turns),
                "hash": hashing(Path(folder) / "large.jpg"),
                "resume": {kind: opening(kind, Path(folder), arguments.records) for kind in LASTING},
            },
        )


def folder_runs(photos: list[str], folder: Path, turns: int) -> dict[str, object]:
    outputs = {"device": Path("/dev/null"), **{kind: folder / f"tags.{kind}" for kind in LASTING}}
    seconds: dict[str, list[float]] = {kind: [] for kind in outputs}
    for _ in range(turns + 1):
        for kind, output in outputs.items():
            form: Any = "jsonl" if kind == "device" else kind
            run = TagRun(paths=photos, labels="dog,beach", format=form, output=output, overwrite=True)
            seconds[kind].append(_seconds(lambda run=run: run_tagging(run)))  # type: ignore[misc]
    taken = {kind: np.array(own[1:]) for kind, own in seconds.items()}
    ratios = {f"{kind} / device": taken[kind] / taken["device"] for kind in LASTING}
    return {
        "photos": len(photos),
        "device, photos a second": round(len(photos) / float(np.median(taken["device"])), 1),
        **{name: [round(float(f(own)), 3) for f in (np.median, np.min, np.max)] for name, own in ratios.items()},
    }


def hashing(path: Path) -> dict[str, object]:
    with Image.open(ROOT / "examples" / "coffee.jpg") as small:
        pixels = np.asarray(small.resize((4000, 3000))).astype(np.int16)
    noise = np.random.default_rng(0).integers(-12, 13, pixels.shape)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path, quality=85)
    tagger = Tagger()
    labels = tagger.label_set(["dog", "beach"])
    rounds = [(_seconds(lambda: sha256_of(path)), _seconds(lambda: tagger.tag(path, labels))) for _ in range(12)][1:]
    return {
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "hash, ms": round(1000 * median(pair[0] for pair in rounds), 1),
        "tag, ms": round(1000 * median(pair[1] for pair in rounds), 1),
        "hash / tag": round(median(pair[0] / pair[1] for pair in rounds), 3),
    }


def opening(kind: str, folder: Path, count: int) -> dict[str, float]:
    """Run in a separate process to measure its memory."""
    path = folder / f"large.{kind}"
    with open_record_file(kind, path, {}, False) as file:
        for number in range(count):
            tags = [Tag(f"label {(7 * number + place) % 199}", 0.9 - place / 10) for place in range(6)]
            name = f"photos/{number // 1000:04d}/IMG_{number:08d}.jpg"
            file(Record(name, tags, sha256=hashlib.sha256(name.encode()).hexdigest()))
    code = "from benchmarks.long_runs import print_opening; print_opening(*__import__('sys').argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", code, kind, path], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, megabytes = map(float, result.stdout.split())
    path.unlink()
    return {"records": count, "open, s": round(seconds, 2), "memory more, MB": round(megabytes)}


def print_opening(kind: str, path: str) -> None:
    start = time.perf_counter()
    open_record_file(kind, Path(path), {}, True).__enter__()
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Speed and memory of tagging, against what its parts cost bare; ratios are taken within one run.

python benchmarks/tagging_speed.py --photos FOLDER
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import ROOT, median_seconds, write_result
from zsl_tagger.find_images import find_images
from zsl_tagger.preprocessing import load_array
from zsl_tagger.tag import Tagger, available_cores

IMPORTS = "import onnxruntime, PIL, numpy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="a folder of 100 photos or more")
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    photos = [path for path in find_images([str(arguments.photos)]) if isinstance(path, str)]
    write_result(
        "tagging_speed",
        {
            "cold": cold_start(photos[0], arguments.runs),
            "help": help_start(arguments.runs),
            "labels": label_counts(photos[0], arguments.runs),
            "folder": folder_throughput(photos),
        },
    )


def cold_start(photo: str, runs: int) -> dict[str, object]:
    """From process start to exit, the two commands in turn."""
    command = [sys.executable, "-m", "cli", "tag", photo, "--labels", "dog,beach"]
    bare = [sys.executable, "-c", IMPORTS]
    pairs = _in_turn([command, bare], runs)
    return {
        "tag_one_photo_s": _summary([pair[0] for pair in pairs]),
        f"{IMPORTS}_s": _summary([pair[1] for pair in pairs]),
        "ratio": round(median(pair[0] / pair[1] for pair in pairs), 2),
        "peak_memory_mb": round(_peak_memory(command) / 1024),
    }


def help_start(runs: int) -> dict[str, float]:
    pairs = _in_turn([[sys.executable, "-m", "cli", "--help"], [sys.executable, "-c", "pass"]], runs)
    return {"more_than_python_c_pass_s": round(median(pair[0] - pair[1] for pair in pairs), 3)}


def label_counts(photo: str, runs: int) -> dict[str, object]:
    """One photo, warm: from the file to the scores, labels prepared before."""
    tagger = Tagger()
    figures: dict[str, object] = {}
    medians = {}
    for count in (1, 80, 1000, 10_000):
        labels = tagger.label_set(list(tagger.words.words[:count]))
        timed = median_seconds(lambda labels=labels: tagger.scores(tagger.encode(photo), labels), runs)  # type: ignore[misc]
        medians[count] = timed["median"]
        figures[f"{count}_labels_s"] = timed
    figures["1000_labels_over_1"] = round(medians[1000] / medians[1], 2)
    return figures


def folder_throughput(photos: list[str]) -> dict[str, object]:
    """Photos a second: the tagger on files, and the encoder alone on arrays decoded before, in turn."""
    cores = available_cores()
    tagger, single = Tagger(workers=cores), Tagger(workers=1)
    labels = tagger.label_set(["dog", "beach"])
    arrays = [load_array(photo, single._model.image_size)[None] for photo in photos]
    ours, bare = [], []
    for _ in range(3):
        start = time.perf_counter()
        count = sum(1 for _ in tagger.tag_many(photos, labels))
        ours.append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        for array in arrays:
            single._model.encode(array)
        bare.append(len(arrays) / (time.perf_counter() - start))
    return {
        "photos": len(photos),
        "tagger_photos_per_s": round(median(ours), 1),
        "bare_encoder_photos_per_s": round(median(bare), 1),
        "ratio": round(median(np.array(ours) / np.array(bare)), 2),
    }


def _in_turn(commands: list[list[str]], runs: int) -> list[list[float]]:
    """Seconds of each command, run in turn; the first round is not counted."""
    rounds = []
    for _ in range(runs + 1):
        seconds = []
        for command in commands:
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            seconds.append(time.perf_counter() - start)
        rounds.append(seconds)
    return rounds[1:]


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"median": round(median(seconds), 3), "min": round(min(seconds), 3), "max": round(max(seconds), 3)}


def _peak_memory(command: list[str]) -> int:
    """Peak resident memory of a command, in KB."""
    script = (
        f"import resource, subprocess; subprocess.run({command!r}, check=True, capture_output=True, cwd={str(ROOT)!r});"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()

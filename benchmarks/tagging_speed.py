"""Measure speed and memory of tagging against its bare parts; ratios are taken within one run.

python benchmarks/tagging_speed.py --photos FOLDER
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import onnxruntime

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.model_folder import ENCODER_FILE, ModelFolder
from zsl_tagger.tagging.tagger import Tagger

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
    """Time the commands in turn, from process start to exit."""
    command = [sys.executable, "-m", "cli", "tag", photo]
    asked = [*command, "--labels", "dog,beach"]
    bare = [sys.executable, "-c", IMPORTS]
    rounds = _in_turn([asked, command, bare], runs)
    return {
        "tag_two_labels_s": _summary([took[0].seconds for took in rounds]),
        "tag_vocabulary_s": _summary([took[1].seconds for took in rounds]),
        f"{IMPORTS}_s": _summary([took[2].seconds for took in rounds]),
        "ratio_two_labels": round(median(took[0].seconds / took[2].seconds for took in rounds), 2),
        "ratio_vocabulary": round(median(took[1].seconds / took[2].seconds for took in rounds), 2),
        "cpu_ratio_two_labels": round(median(took[0].cpu / took[2].cpu for took in rounds), 2),
        "cpu_ratio_vocabulary": round(median(took[1].cpu / took[2].cpu for took in rounds), 2),
        "peak_memory_mb": round(_peak_memory(command) / 1024),
    }


def help_start(runs: int) -> dict[str, float]:
    pairs = _in_turn([[sys.executable, "-m", "cli", "--help"], [sys.executable, "-c", "pass"]], runs)
    return {"more_than_python_c_pass_s": round(median(pair[0].seconds - pair[1].seconds for pair in pairs), 3)}


def label_counts(photo: str, runs: int) -> dict[str, object]:
    """Time one photo, warm, from file to scores, with prepared labels, for each label count in turn."""
    tagger = Tagger()
    sets = {count: tagger.label_set(list(tagger.words.words[:count])) for count in (1, 80, 1000, 10_000)}
    seconds: dict[int, list[float]] = {count: [] for count in sets}
    for _ in range(runs + 1):
        for count, labels in sets.items():
            start = time.perf_counter()
            tagger.scores(tagger.encode(photo), labels)
            seconds[count].append(time.perf_counter() - start)
    figures: dict[str, object] = {f"{count}_labels_s": _summary(times[1:]) for count, times in seconds.items()}
    ratios = np.array(seconds[1000][1:]) / np.array(seconds[1][1:])
    figures["1000_labels_over_1"] = round(float(np.median(ratios)), 2)
    return figures


def folder_throughput(photos: list[str], rounds: int = 5) -> dict[str, object]:
    """Return photos per second of the tagger on files, and of the bare encoder on decoded arrays, in turn.

    The bare encoder is plain onnxruntime in the better of its two arrangements: one call at a time on all cores,
    or one call per core.
    """
    cores = available_cores()
    tagger = Tagger(workers=cores)
    two = tagger.label_set(["dog", "beach"])
    preprocessing = ModelFolder().config.preprocessing
    feeds = [{"images": load_array(photo, preprocessing)[None]} for photo in photos]
    wide, narrow = _bare_session(cores), _bare_session(1)
    with ThreadPoolExecutor(cores) as pool:
        jobs: dict[str, Callable[[], object]] = {
            "two_labels": lambda: list(tagger.tag_many(photos, two)),
            "vocabulary": lambda: list(tagger.tag_many(photos)),
            "encoder_all_cores": lambda: [wide.run(["tokens"], feed) for feed in feeds],
            "encoder_a_core": lambda: list(pool.map(lambda feed: narrow.run(["tokens"], feed), feeds)),
        }
        rates: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds + 1):
            for name, job in jobs.items():
                start = time.perf_counter()
                job()
                rates[name].append(len(photos) / (time.perf_counter() - start))
    figures: dict[str, object] = {f"{name}_photos_per_s": round(median(rate[1:]), 1) for name, rate in rates.items()}
    bare = np.maximum(rates["encoder_all_cores"][1:], rates["encoder_a_core"][1:])
    for name in ("two_labels", "vocabulary"):
        figures[f"{name}_ratio"] = round(float(np.median(np.array(rates[name][1:]) / bare)), 2)
    return {"photos": len(photos), **figures}


def _bare_session(threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(ModelFolder().path / ENCODER_FILE), options)


class Took(NamedTuple):
    """Time of a command from process start to exit, and CPU time of all its threads, in seconds."""

    seconds: float
    cpu: float


def _in_turn(commands: list[list[str]], runs: int) -> list[list[Took]]:
    """Return the times of each command, run in turn; the first round is not counted."""
    rounds = [[_timed(command) for command in commands] for _ in range(runs + 1)]
    return rounds[1:]


def _timed(command: list[str]) -> Took:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"median": round(median(seconds), 3), "min": round(min(seconds), 3), "max": round(max(seconds), 3)}


def _peak_memory(command: list[str]) -> int:
    """Return the peak resident memory of a command in KB."""
    script = (
        f"import resource, subprocess; subprocess.run({command!r}, check=True, capture_output=True, cwd={str(ROOT)!r});"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()

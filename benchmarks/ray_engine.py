"""Compare ``--engine ray`` on one machine with the local engine, to measure the overhead of Ray.

    python -m benchmarks.ray_engine --photos FOLDER

The packaged model and vocabulary, from the start of a command to its exit: ``tag``, ``index`` and ``evaluate`` (of 20
labels). Each turn runs a few photos and all of them, in each way; the difference in photos over the difference in time
is the speed, the rest is startup. Ratios are within a turn. The local engine uses all cores, Ray one per worker; Ray's
own processes share the same cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.tagger import Tagger

FEW = 16
COMMANDS = ("tag", "index", "evaluate")
LABELS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--at-most", type=int, default=1000)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], help="numbers of Ray's workers")
    arguments = parser.parse_args()
    photos = [item for item in find_images([str(arguments.photos.resolve())]) if isinstance(item, str)]
    photos = photos[: arguments.at_most]
    ways = {"local": ["--engine", "local"]}
    ways |= {f"ray, workers: {count}": ["--engine", "ray", "--workers", str(count)] for count in arguments.workers}
    figures = {command: _figures(command, ways, photos, arguments.turns) for command in arguments.commands}
    measured = {"photos": len(photos), "cores": available_cores(), "turns": arguments.turns, **figures}
    write_result("ray_engine", measured)


def _figures(command: str, ways: dict[str, list[str]], photos: list[str], turns: int) -> dict[str, Any]:
    speeds: dict[str, list[float]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        for way, options in ways.items():
            few, many = _seconds(command, options, photos[:FEW]), _seconds(command, options, photos)
            speeds[way].append((len(photos) - FEW) / (many - few))
            starts[way].append(few - FEW / speeds[way][-1])
    ratios = {
        way: [ray / local for ray, local in zip(own, speeds["local"], strict=True)]
        for way, own in speeds.items()
        if way != "local"
    }
    return {
        "photos/s": {way: round(median(own), 1) for way, own in speeds.items()},
        "start, s": {way: round(median(own), 1) for way, own in starts.items()},
        "over local": {
            way: [round(value, 2) for value in (median(own), min(own), max(own))] for way, own in ratios.items()
        },
    }


def _seconds(command: str, options: list[str], photos: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "cli", *_arguments(command, photos, Path(folder)), *options]
        start = time.perf_counter()
        subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def _arguments(command: str, photos: list[str], folder: Path) -> list[str]:
    if command == "tag":
        return ["tag", *photos, "--output", f"{folder}/tags.jsonl"]
    if command == "index":
        return ["index", *photos, "--index", f"{folder}/index"]
    labels = Tagger().default_labels[:LABELS]
    rows = [[photo.removeprefix("/"), *(f"{(row + k) % 2}" for k in range(LABELS))] for row, photo in enumerate(photos)]
    targets = folder / "targets.csv"
    targets.write_text("\n".join(",".join(row) for row in [["image", *labels], *rows]), encoding="utf-8")
    return ["evaluate", "--model", "packaged", "--targets", str(targets), "--images", "/", "--resamples", "0"]


if __name__ == "__main__":
    main()

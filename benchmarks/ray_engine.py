"""Compare tagging through Ray on one machine with the local engine, to measure the overhead of Ray.

    python -m benchmarks.ray_engine --photos FOLDER

The packaged model and vocabulary, from the start of the command to its exit. Each turn tags a few photos and all of
them, with each engine; the difference in photos over the difference in time is the speed, the rest is startup. Ratios
are within a turn. Both engines use one core per worker; Ray's own processes share the same cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.system.threads import available_cores

FEW = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--at-most", type=int, default=1000)
    arguments = parser.parse_args()
    photos = [item for item in find_images([str(arguments.photos.resolve())]) if isinstance(item, str)]
    photos = photos[: arguments.at_most]
    speeds: dict[str, list[float]] = {"local": [], "ray": []}
    starts: dict[str, list[float]] = {"local": [], "ray": []}
    for _ in range(arguments.turns):
        for engine in speeds:
            few, many = _seconds(engine, photos[:FEW]), _seconds(engine, photos)
            speeds[engine].append((len(photos) - FEW) / (many - few))
            starts[engine].append(few - FEW / speeds[engine][-1])
    ratios = [ray / local for ray, local in zip(speeds["ray"], speeds["local"], strict=True)]
    write_result(
        "ray_engine",
        {
            "photos": len(photos),
            "workers": available_cores(),
            "turns": arguments.turns,
            "photos/s": {engine: round(median(own), 1) for engine, own in speeds.items()},
            "start, s": {engine: round(median(own), 1) for engine, own in starts.items()},
            "ray over local": [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))],
        },
    )


def _seconds(engine: str, photos: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cli", "tag", "-", "--engine", engine, "--output", f"{folder}/tags.jsonl"]
        start = time.perf_counter()
        subprocess.run(command, input="\n".join(photos), text=True, cwd=ROOT, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Measure time and memory of ``zsl-tagger evaluate --scores`` at the size of NUS-WIDE's test set.

    python -m benchmarks.evaluation_speed

Synthetic scores of 107,859 images and 1,006 labels, 81 of them unseen, with about 2 in 100 entries true.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, write_result

IMAGES, LABELS, UNSEEN = 107_859, 1006, 81


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        figures: dict[str, object] = {"images": IMAGES, "labels": LABELS, "turns": turns}
        for name, resamples in (("without intervals", 0), ("1,000 resamples", 1000)):
            seconds = sorted(run(Path(folder), resamples) for _ in range(turns if not resamples else 1))
            figures[name] = {"seconds": {"median": round(seconds[len(seconds) // 2], 1), "all": seconds}}
            figures["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
            if not resamples:
                figures["peak_memory_without_intervals_mb"] = figures["peak_memory_mb"]
    write_result("evaluation_speed", figures)


def write_files(folder: Path) -> None:
    random = np.random.default_rng(0)
    images = np.array([f"{row:06d}.jpg" for row in range(IMAGES)])
    labels = np.array([f"label {column:04d}" for column in range(LABELS)])
    targets = random.random((IMAGES, LABELS), np.float32) < 0.02
    scores = random.standard_normal((IMAGES, LABELS), np.float32) + targets
    np.savez(folder / "scores.npz", scores=scores, images=images, labels=labels, kind="logits")
    np.savez(folder / "targets.npz", targets=targets.astype(np.int8), images=images, labels=labels)
    (folder / "unseen.txt").write_text("\n".join(labels[:UNSEEN]))


def run(folder: Path, resamples: int) -> float:
    command = [sys.executable, "-m", "cli", "evaluate", "--scores", str(folder / "scores.npz")]
    command += ["--targets", str(folder / "targets.npz"), "--unseen-file", str(folder / "unseen.txt")]
    start = time.perf_counter()
    subprocess.run([*command, "--resamples", str(resamples)], check=True, capture_output=True, cwd=ROOT)
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main()

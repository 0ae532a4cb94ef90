"""Run ``zsl-tagger train --recipe my-photos`` as a user would: Caltech-101, 30 training photos per class, on a CPU.

    python -m benchmarks.my_photos --photos DIR

DIR contains ``caltech101/<class>/*.jpg``. For each seed (``--seeds``) another 30 photos per class are for training and
another set for validation; top-1 is measured on the test photos through the ONNX model folder that the command wrote,
as the share of all test photos and as the mean over classes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, write_result
from zsl_tagger import Tagger
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.system.threads import available_cores, map_in_order

SEEDS = (0,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="settings to try; prints, writes no result")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_run(arguments.photos / "caltech101", Path(folder), seed, arguments.set) for seed in arguments.seeds]
    figures = {
        name: {"mean": round(float(np.mean(values)), 2), "low": round(min(values), 2), "high": round(max(values), 2)}
        for name in runs[0] for values in [[run[name] for run in runs]]
    }  # fmt: skip
    if arguments.set:
        print(arguments.set, figures)
    else:
        write_result("my_photos", {"seeds": len(runs), "training_photos_a_class": 30, "classes": 100, **figures})


def one_run(photos: Path, folder: Path, seed: int, settings: list[str]) -> dict[str, float]:
    data, model = folder / f"data{seed}", folder / f"model{seed}"
    command("prepare", "folders", "--source", photos, "--output", data, "--train-per-class", 30, "--seed", seed)
    start = time.monotonic()
    given = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
    command("train", "--data", data, "--recipe", "my-photos", "--output", model, *given)
    seconds = time.monotonic() - start
    truth, best = predictions(load_dataset(data), model)
    by_class = [float((best[truth == label] == label).mean()) for label in np.unique(truth)]
    return {
        "top1": 100 * float((truth == best).mean()),
        "mean_of_classes": 100 * float(np.mean(by_class)),
        "test_photos": len(truth),
        "train_minutes": seconds / 60,
    }


def command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "cli", *map(str, words)], cwd=ROOT, check=True)


def predictions(data: PreparedDataset, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of each test photo, and its highest-scoring label."""
    tagger = Tagger(model, workers=available_cores())
    labels, rows = tagger.label_set(data.labels), data.rows("test")

    def best(row: int) -> int:
        return int(tagger.scores(tagger.encode(f"{data.image_root}/{data.paths[row]}"), labels)[0].argmax())

    found = np.fromiter(map_in_order(best, rows.tolist(), available_cores()), int, len(rows))
    return np.array([data.label_indices[row][0] for row in rows]), found


if __name__ == "__main__":
    main()

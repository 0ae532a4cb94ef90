"""Measure how often words that were never trained are printed, on photos with and without the thing.

    python -m benchmarks.unknown_words --coco DIR [--without-coco FOLDER]

DIR contains COCO photos with the annotation of all 80 classes. The thresholds from the stored background photos
(:mod:`zsl_tagger.tagging.background`) and the plain one of 0.5 answer two questions:

- False alarms: 1,000 random words of the word table that the packaged model was never trained on are scored on every
  photo. Almost none of them is there ("vestry", "quoin"), so the share of printed pairs bounds the false alarms.
- COCO's names, scored by FOLDER, a model trained without them (``python -m zsl_tagger.packaged --without``):
  precision and recall of the printed names.

It also measures the time of the thresholds per word.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_result
from benchmarks.tagging_accuracy import read_coco
from zsl_tagger.assets import PACKAGED
from zsl_tagger.tagging.model_folder import ModelFolder, write_labels
from zsl_tagger.tagging.tagger import Tagger

WORDS = 1000
AT_ONCE = 50  # words scored together
PLAIN = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--without-coco", type=Path)
    arguments = parser.parse_args()
    paths, targets, names = read_coco(arguments.coco)
    figures = {"photos": len(paths), "never trained": of_random_words(paths)}
    if arguments.without_coco:
        figures["COCO's names, kept out of training"] = of_coco_names(
            arguments.without_coco, paths, names, targets == 1
        )
    write_result("unknown_words", figures)


def of_random_words(paths: list[Path]) -> dict[str, Any]:
    tagger = Tagger()
    trained = {tagger.key(label.name) for label in ModelFolder(PACKAGED).labels()}
    known = [word for word in tagger.words.words if word not in trained]
    words = np.random.default_rng(0).choice(known, WORDS, replace=False).tolist()
    tagger.label_set(words[:AT_ONCE])  # opens the files
    start = time.perf_counter()
    sets = [tagger.label_set(words[first : first + AT_ONCE]) for first in range(0, WORDS, AT_ONCE)]
    together = (time.perf_counter() - start) / WORDS
    start = time.perf_counter()
    for word in words[:AT_ONCE]:
        tagger.label_set([word])
    alone = (time.perf_counter() - start) / AT_ONCE
    encoded = [tagger.encode(path) for path in paths]
    scores = np.concatenate([[tagger.scores(one, labels)[0] for one in encoded] for labels in sets], axis=1)  # (N, K)
    thresholds = np.concatenate([labels.thresholds for labels in sets])
    return {
        "words": WORDS,
        "printed, % of all pairs": percent((scores >= thresholds).mean()),
        "printed at 0.5, % of all pairs": percent((scores >= PLAIN).mean()),
        "words printed on some photo, %": percent((scores >= thresholds).any(axis=0).mean()),
        f"ms a word, {AT_ONCE} together": round(1000 * together, 2),
        "ms a word, one alone": round(1000 * alone, 2),
    }


def of_coco_names(folder: Path, paths: list[Path], names: list[str], truth: np.ndarray) -> dict[str, Any]:
    """Score by a model that does not list the names either, so that they are ordinary words; truth is ``(N, K)``."""
    with tempfile.TemporaryDirectory() as scratch:
        unlisted = Path(scratch) / "model"
        shutil.copytree(folder, unlisted)
        write_labels(unlisted, [label for label in ModelFolder(folder).labels() if label.name not in names])
        tagger = Tagger(unlisted)
        labels = tagger.label_set(names)
        scores = np.concatenate([tagger.scores(tagger.encode(path), labels) for path in paths])  # (N, K)
    return {
        "by the background": precision_and_recall(scores >= labels.thresholds, truth),
        "at 0.5": precision_and_recall(scores >= PLAIN, truth),
    }


def precision_and_recall(printed: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    right = int((printed & truth).sum())
    return {
        "printed": int(printed.sum()),
        "precision": percent(right / max(int(printed.sum()), 1)),
        "recall": percent(right / int(truth.sum())),
    }


def percent(share: float) -> float:
    return round(100 * float(share), 2)


if __name__ == "__main__":
    main()

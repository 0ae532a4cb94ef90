"""Measure tags taught from a few photos: find the rest of their photos, compared with the word alone.

    python -m benchmarks.teach --photos DIR --work WORK

DIR contains ``caltech101``, ``scenes`` and ``more``. 40 classes are the things: some photos of each are examples, all
others are looked for among about 2,000 photos of other things. The packaged model was never trained on half of the
names. It has seen these photos with other words (its backbone is frozen, its head was trained on most of them), as it
has the distractors. The settings of :mod:`zsl_tagger.tagging.reader` were chosen on other classes of the same folders.

- *without an index*: compared with the background that the model folder stores;
- *with an index*: of the distractors and of the thing's other photos, unlabelled, among them those that are looked for.

Average precision is scikit-learn's, in percent, mean over things and draws of the examples. The photos are looked at
once, into an index in WORK. Seconds are of the whole command, with and without that index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.common import ROOT, write_result
from zsl_tagger.search.library import TO_COMPARE, Library
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.reader import Photos, learn
from zsl_tagger.tagging.taught import FOLDER_VARIABLE
from zsl_tagger.tagging.teaching import is_known_word, word_log_odds

DRAWS = 3
CURVE = (1, 3, 5, 10, 20)
EXAMPLES = 5
#: Minimum number of photos to find; things with fewer are left out of the curve at this point.
LEAST_LEFT = 5
#: Minimum average precision of the word alone to count as good.
GOOD = 75.0

ACTIONS = "more/stanford40_actions"
NEVER_TRAINED = (
    "caltech101/car_side", "caltech101/cougar_face", "caltech101/dollar_bill", "caltech101/garfield",
    "caltech101/ketch", "caltech101/stegosaurus", "caltech101/yin_yang", "more/sports/sport_shooting",
    "more/roads/gravel_road", "more/roads/snowy_road", f"{ACTIONS}/feeding_a_horse", f"{ACTIONS}/fixing_a_car",
    f"{ACTIONS}/looking_through_a_microscope", f"{ACTIONS}/pouring_liquid", f"{ACTIONS}/riding_a_bike",
    f"{ACTIONS}/rowing_a_boat", f"{ACTIONS}/texting_message", f"{ACTIONS}/walking_the_dog",
    f"{ACTIONS}/writing_on_a_board", f"{ACTIONS}/writing_on_a_book",
)  # fmt: skip
TRAINED = (
    f"{ACTIONS}/blowing_bubbles", f"{ACTIONS}/climbing", f"{ACTIONS}/cutting_vegetables", f"{ACTIONS}/fishing",
    f"{ACTIONS}/jumping", f"{ACTIONS}/playing_guitar", f"{ACTIONS}/reading", f"{ACTIONS}/smoking",
    f"{ACTIONS}/washing_dishes", "more/animals/ape", "more/animals/bison", "more/animals/chicken",
    "more/animals/deer", "more/animals/dolphin", "more/animals/eagle", "more/animals/horse", "more/sports/badminton",
    "more/sports/basketball", "more/sports/chess", "more/sports/fencing",
)  # fmt: skip
#: {folder of distractors: stride at which photos are taken}.
DISTRACTORS = {
    "more/coco_captions": 3, "more/osie_scenes": 1, "more/food_cc": 2, "more/food101_10": 1, "more/rooms_places": 2,
    "more/events": 2, "scenes": 10,
}  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Features of N photos, float32 ``(N, F)``, and the log-odds of the things' words, ``(N, K)``."""

    rows: np.ndarray
    words: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    things = [_photos(arguments.photos / thing) for thing in (*NEVER_TRAINED, *TRAINED)]
    others = [path for folder, nth in DISTRACTORS.items() for path in _photos(arguments.photos / folder)[::nth]]
    with Library.open(arguments.work / "index") as library:
        library.add([path for thing in things for path in thing] + others)
        benchmark = Benchmark(library, things, others)
        figures = {
            "things": len(things),
            "distractors": len(others),
            "examples": EXAMPLES,
            "without an index": benchmark.compared(EXAMPLES, with_index=False),
            "with an index": benchmark.compared(EXAMPLES, with_index=True),
            "curve": {f"{count} examples": benchmark.points(count) for count in CURVE},
            "photos of the index": len(library),
        }
    figures["seconds a tag"] = seconds(things[0][:EXAMPLES], arguments.work / "index")
    write_result("teach", figures)


def _photos(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.jpg"))


class Benchmark:
    """Model outputs for all photos, read from an index once."""

    def __init__(self, library: Library, things: list[list[str]], others: list[str]):
        self.tagger = library.tagger
        names = [Path(thing[0]).parent.name.replace("_", " ") for thing in things]
        self.keys = [self.tagger.key(name) for name in names]
        self.names, self.known = names, [is_known_word(self.tagger, name) for name in names]
        with library._store.snapshot():
            ranker, photos = library._current_ranker(), library._store.photos()
            place = {content: row for row, content in enumerate(ranker._stored.contents.tolist())}
            self.things = [np.unique([place[photos[path].content] for path in thing]) for thing in things]
            self.others = np.unique([place[photos[path].content] for path in others])
            every = np.arange(len(place))
            rows = ranker._features(every)
            labels = self.tagger.plain_label_set(self.keys)
            self.photos = Features(rows, ranker.decode(every, labels) - labels.biases)
        stored = self.tagger.background
        assert stored is not None
        words = [word_log_odds(self.tagger, key, stored) for key in self.keys]
        self.background = Features(pooled(stored), np.stack(words, axis=1))

    def tried(self, thing: int, count: int, draw: int, with_index: bool) -> tuple[float, ...]:
        """Return average precision of the word alone and of the tag, precision and recall of the tag; NaN: too few."""
        random = np.random.default_rng([draw, thing])
        mixed = random.permutation(self.things[thing])
        examples, left = mixed[:count], mixed[count:]
        if len(left) < LEAST_LEFT:
            return (np.nan,) * 4
        background, library = self._of(self.background, slice(None), thing), None
        if with_index:
            some = random.permutation(np.concatenate([self.others, left]))[:TO_COMPARE]
            library = self._of(self.photos, some, thing)
        none = Photos(background.features[:0], background.word[:0])
        # A single example does not show how good the word is.
        word = self.keys[thing] if self.known[thing] and count > 1 else None
        reader = learn(self._of(self.photos, examples, thing), none, background, library, word).reader
        asked = self._of(self.photos, np.concatenate([left, self.others]), thing)
        truth = np.arange(len(asked.word)) < len(left)
        taught = reader.log_odds(asked.features, asked.word)
        right = int((taught[truth] > 0).sum())
        precision, recall = right / max(int((taught > 0).sum()), 1), right / len(left)
        found = average_precision_score(truth, asked.word), average_precision_score(truth, taught), precision, recall
        return tuple(100 * share for share in found)

    def _of(self, features: Features, photos: Any, thing: int) -> Photos:
        return Photos(features.rows[photos], features.words[photos, thing])

    def scores(self, count: int, with_index: bool) -> np.ndarray:
        """Return the result of :meth:`tried` for each thing, ``(K, 4)``, mean over draws."""
        drawn = [
            [self.tried(thing, count, draw, with_index) for draw in range(DRAWS)] for thing in range(len(self.things))
        ]
        return np.mean(drawn, axis=1)

    def compared(self, count: int, with_index: bool) -> dict[str, Any]:
        scores = self.scores(count, with_index)
        never, trained = np.split(scores, [len(NEVER_TRAINED)])
        good = scores[scores[:, 0] >= GOOD]
        worst = _percent(np.min(good[:, 1] - good[:, 0]))
        each = zip(self.names, scores.tolist(), strict=True)
        return {
            "never trained": _means(never),
            "trained": _means(trained),
            f"words with {GOOD:g} or more": {**_means(good), "things": len(good), "worst change": worst},
            "each: word alone, taught": {name: [_percent(value) for value in row[:2]] for name, row in each},
        }

    def points(self, count: int) -> dict[str, Any]:
        """Return a point of the curve, over the things with enough photos."""
        found = {
            name: self.scores(count, with_index)
            for name, with_index in (("without an index", False), ("with an index", True))
        }
        enough = np.isfinite(found["with an index"][:, 0])
        points = {name: _means(scores[enough, :2]) for name, scores in found.items()}
        return {"things": int(enough.sum()), **points}


def _means(scores: np.ndarray) -> dict[str, float]:
    names = ("word alone", "taught", "precision of its tags", "recall of its tags")
    return dict(zip(names, map(_percent, scores.mean(axis=0)), strict=False))


def _percent(value: float) -> float:
    return round(float(value), 1)


def seconds(examples: list[str], index: Path) -> dict[str, float]:
    """Return the time of the command from start to exit, median of three."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, FOLDER_VARIABLE: f"{scratch}/taught", "XDG_DATA_HOME": scratch}
        command = [sys.executable, "-m", "cli", "teach", "our thing", *examples]

        def run(*more: str) -> float:
            start = time.perf_counter()
            subprocess.run([*command, *more], cwd=ROOT, env=environment, check=True, capture_output=True)
            shutil.rmtree(f"{scratch}/taught")
            return time.perf_counter() - start

        def median(*more: str) -> float:
            return round(float(np.median([run(*more) for _ in range(3)])), 1)

        return {"without an index": median(), "with an index": median("--index", str(index))}


if __name__ == "__main__":
    main()

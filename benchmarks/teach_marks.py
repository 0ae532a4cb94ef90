"""Measure teaching a tag from hundreds of photos of an index, whose features need not be computed again.

    python -m benchmarks.teach_marks --photos DIR --work WORK

DIR contains ``more/stanford40_actions`` and ``scenes``. 150 photos of actions are the examples, 160 of scenes the
counterexamples; 190 others are in the index too. The tag is taught twice in one process: with what the index stores
of these photos, and with all of them encoded again. Seconds of the parts are sums over two threads. Scores are of
all 500 photos.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_result
from zsl_tagger.search.library import Library
from zsl_tagger.tagging import teaching
from zsl_tagger.tagging.reader import Photos
from zsl_tagger.tagging.tagger import Tagger, probabilities
from zsl_tagger.tagging.taught import FOLDER_VARIABLE, TaughtTag

#: {folder: number of photos in the index, how many of them are marked}.
FOLDERS = {"more/stanford40_actions": (200, 150), "scenes": (300, 160)}
#: A name that is no word, and one that is.
NAMES = ("our people", "person")


class Encoded:
    """A library whose photos are to be encoded again."""

    def __init__(self, library: Library):
        self.random_photos = library.random_photos

    def stored_photos(self, *_: Any) -> dict[str, tuple[np.ndarray, float]]:
        return {}


class Timed:
    """Add up the seconds of calls of a function."""

    def __init__(self, owner: Any, name: str):
        self.seconds, self._function = 0.0, getattr(owner, name)
        setattr(owner, name, lambda *arguments: self._call(*arguments))

    def _call(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*arguments)
        finally:
            self.seconds += time.perf_counter() - start

    def taken(self) -> float:
        """Return the seconds since the last call of this."""
        seconds, self.seconds = self.seconds, 0.0
        return round(seconds, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    found = {folder: sorted((arguments.photos / folder).rglob("*.jpg")) for folder in FOLDERS}
    chosen = [
        [str(path.absolute()) for path in paths[:: len(paths) // count][:count]]
        for paths, (count, _) in zip(found.values(), FOLDERS.values(), strict=True)
    ]
    marked = [paths[:count] for paths, (_, count) in zip(chosen, FOLDERS.values(), strict=True)]
    with Library.open(arguments.work / "index", workers=2) as library:
        library.add([path for paths in chosen for path in paths])
        parts = {"decode": Timed(teaching, "load_array"), "encode": Timed(Tagger, "encode_pixels")}
        figures = {name: compared(library, name, marked, parts) for name in NAMES}
    write_result("teach_marks", {"marks": sum(map(len, marked)), **figures})


def compared(library: Library, name: str, marked: list[list[str]], parts: dict[str, Timed]) -> dict[str, Any]:
    stored, encoded = (taught(one, library.tagger, name, marked, parts) for one in (library, Encoded(library)))
    word = stored[0].reader.word
    library.tagger.forget_taught()
    with library._store.snapshot():
        ranker = library._current_ranker()
        photos: Photos = ranker.random_photos(word, len(ranker.contents))
    log_odds = [tag.reader.log_odds(photos.features, photos.word) for tag, _ in (stored, encoded)]
    scores = [probabilities(values) for values in log_odds]
    weights = [(tag.reader.weights / tag.reader.scale).astype(np.float64) for tag, _ in (stored, encoded)]
    return {
        "stored": stored[1],
        "encoded again": encoded[1],
        "cosine of the weights": round(
            float(weights[0] @ weights[1] / np.prod([np.linalg.norm(w) for w in weights])), 6
        ),
        "largest difference of a score": round(float(np.abs(scores[0] - scores[1]).max()), 4),
        "photos that pass": [int((values > 0).sum()) for values in log_odds],
        "photos that pass with one only": int(((log_odds[0] > 0) != (log_odds[1] > 0)).sum()),
    }


def taught(
    library: Library | Encoded, tagger: Tagger, name: str, marked: list[list[str]], parts: dict[str, Timed]
) -> tuple[TaughtTag, dict[str, float]]:
    """Return the tag, and the seconds of the whole and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        start = time.perf_counter()
        tag = tagger.teach(name, *marked, library=library)
        seconds = {"teach": round(time.perf_counter() - start, 1)}
    return tag, seconds | {part: timer.taken() for part, timer in parts.items()}


if __name__ == "__main__":
    main()

"""Measure tagging with 100,000 labels: cold, the shortlist against 1,000 labels, and its recall of the ten best.

    python -m benchmarks.shortlist --photos FOLDER

The packaged model and its whole word table. Cold: `zsl-tagger tag one.jpg --labels-file FILE` from the start of the
process to its end. Otherwise one photo at a time, from the file to the tags, labels prepared before.
Times are medians of turns of three (1,000 labels; 100,000 through the shortlist; 100,000 one by one), ratios within a
turn. "Found" is over all photos: the share of the ten labels with the best exact scores that the shortlist scored.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import timed, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.system.threads import keep_freed_memory
from zsl_tagger.tagging import shortlist
from zsl_tagger.tagging.tagger import Tagger

TOP = 10
COLD_RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=11)
    arguments = parser.parse_args()
    keep_freed_memory()
    photos = [path for path in find_images([str(arguments.photos)]) if isinstance(path, str)]
    tagger = Tagger()
    words = list(tagger.words.words)
    few, many = tagger.label_set(words[:1000]), tagger.label_set(words)
    tagger.tag(photos[0], many, top_k=TOP)  # prepares the labels
    shares = []
    for photo in photos:
        exact = tagger.log_odds(tagger.encode(photo), many)[0] + many.biases  # (K,)
        best = {words[label] for label in np.argsort(-exact, kind="stable")[:TOP]}
        found = {tag.label for tag in tagger.tag(photo, many, threshold=0.0, top_k=TOP)}
        shares.append(len(best & found) / TOP)
    jobs: dict[str, Callable[[str], object]] = {
        "1,000 labels": lambda photo: tagger.tag(photo, few, top_k=TOP),
        "100,000 labels, shortlist": lambda photo: tagger.tag(photo, many, top_k=TOP),
        "100,000 labels, each": lambda photo: tagger.tag(photo, many, top_k=TOP, exact=True),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(arguments.turns + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job(photos[turn % len(photos)])
            times[name].append(time.perf_counter() - start)
    cold = [cold_command(photos[0], words) for _ in range(COLD_RUNS)]
    taken = {name: np.array(own[1:]) for name, own in times.items()}
    ratios = taken["100,000 labels, shortlist"] / taken["1,000 labels"]
    write_result(
        "shortlist",
        {
            "labels": len(words),
            "asked, at most": shortlist.ANCHORS + shortlist.ROUNDS * shortlist.LABELS_PER_ROUND,
            "photos": len(photos),
            "of the exact ten best found": round(float(np.mean(shares)), 4),
            "photos with all ten": round(float(np.mean([share == 1 for share in shares])), 4),
            "worst photo": min(shares),
            **{f"{name}, ms": round(1000 * median(own.tolist()), 1) for name, own in taken.items()},
            "100,000 labels, cold command, s": median(seconds for seconds, _ in cold),
            "100,000 labels, cold command, peak memory, MB": max(peak for _, peak in cold),
            "shortlist over 1,000 labels": [round(float(f(ratios)), 2) for f in (np.median, np.min, np.max)],
        },
    )


def cold_command(photo: str, words: list[str]) -> tuple[float, int]:
    """Return the seconds and the peak memory in MB of a command that tags one photo."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as labels:
        labels.write("\n".join(words))
        labels.flush()
        return timed([sys.executable, "-m", "zsl_tagger", "tag", photo, "--labels-file", labels.name, "--top-k", "10"])


if __name__ == "__main__":
    main()

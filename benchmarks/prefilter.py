"""Measure what the prefilter of the vocabulary saves, and which tags it loses.

    python -m benchmarks.prefilter --photos FOLDER

The packaged model, from encoded photos to tags, one photo at a time on one thread: CPU milliseconds with the prefilter
and without it (``exact=True``), in turn, and the median of the ratios. A tag is lost if it is a tag only without the
prefilter; scores of the others must be equal to the bit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.common import write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.tagger import Tagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    arguments = parser.parse_args()
    photos = [path for path in find_images([str(arguments.photos)]) if isinstance(path, str)]
    tagger = Tagger(workers=available_cores())  # so each photo has one thread
    labels = tagger.vocabulary
    for exact in (False, True):
        tagger.tag(photos[0], exact=exact)  # prepares the labels
    times, tags, lost, others = [], 0, 0, 0
    for photo in photos:
        encoded = tagger.encode(photo)
        start = time.process_time()
        some = tagger.tag_encoded(encoded)
        middle = time.process_time()
        every = tagger.tag_encoded(encoded, exact=True)
        times.append((middle - start, time.process_time() - middle))
        missing = {tag.label for tag in every} - {tag.label for tag in some}
        tags, lost = tags + len(every), lost + len(missing)
        others += [tag for tag in every if tag.label not in missing] != some
    milliseconds = 1000 * np.array(times)  # (N, 2)
    write_result(
        "prefilter",
        {
            "labels": len(labels),
            "photos": len(photos),
            "tags": tags,
            "tags lost": lost,
            "photos whose other tags differ": others,
            "with the prefilter, CPU ms": round(float(np.median(milliseconds[:, 0])), 1),
            "without it, CPU ms": round(float(np.median(milliseconds[:, 1])), 1),
            "ratio": round(float(np.median(milliseconds[:, 1] / milliseconds[:, 0])), 2),
        },
    )


if __name__ == "__main__":
    main()

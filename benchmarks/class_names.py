"""Measure how often a photo of one thing is tagged with its name, on ImageNet's sample photos.

    python -m benchmarks.class_names --imagenet DIR [--model FOLDER]

DIR has one photo of each ImageNet-1k class, ``wnid_name.jpg``. The test photos are of every second class whose own
name is in the default vocabulary, so that the others may be used for choosing. They are training photos, of backbone
and head, so this shows whether the tagger names what it knows, not how it does on new photos. Three shares of
the photos: the own name is printed by default; it is among the five best tags, parents and synonyms left out; of all
photos of DIR, that photo scores highest for the name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.common import write_result
from zsl_tagger.assets import PACKAGED
from zsl_tagger.tagging.class_evidence import CLASS_WORDS_FILE, read_class_words
from zsl_tagger.tagging.tagger import Tagger

BEST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--name", default="class_names")
    arguments = parser.parse_args()
    photos = sorted(arguments.imagenet.glob("n*_*"))
    tagger = Tagger(arguments.model)
    labels = tagger.vocabulary
    names = names_of_classes(labels.keys)
    encoded = [tagger.encode(photo) for photo in photos]
    scores = np.concatenate([tagger.scores(one, labels) for one in encoded])  # (photos, V)
    asked = [number for number in range(1, len(photos), 2) if number in names]
    printed, among, first = [], [], []
    for number in asked:
        own = {labels.labels[column] for column in names[number]}
        printed.append(bool(own & {tag.label for tag in tagger.tag_encoded(encoded[number])}))
        best = tagger.tag_encoded(encoded[number], threshold=0, top_k=BEST)
        among.append(bool(own & {tag.label for tag in best}))
        first.append(any(scores[:, column].argmax() == number for column in names[number]))
    shares = {"printed": printed, f"among the best {BEST}": among, "right photo first": first}
    figures = {name: round(100 * float(np.mean(values)), 1) for name, values in shares.items()}
    write_result(arguments.name, {"photos asked": len(asked), "photos": len(photos), **figures})


def names_of_classes(keys: list[str]) -> dict[int, list[int]]:
    """Return {class: labels that mean only this class}, from the packaged model's ``class_words.json``."""
    words = read_class_words(PACKAGED / CLASS_WORDS_FILE)
    found: dict[int, list[int]] = {}
    for column, key in enumerate(keys):
        word = words.get(key)
        if word is not None and word.names and len(word.classes) == 1:
            found.setdefault(word.classes[0], []).append(column)
    return found


if __name__ == "__main__":
    main()

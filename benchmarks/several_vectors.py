"""Compare one vector a label with several: their mean, and weights that follow the image.

    python -m benchmarks.several_vectors --coco DIR --wordnet DIR

The packaged model without class evidence, on the photos and with the figures of ``benchmarks.tagging_accuracy``. Each
of the 80 names gets the other names of its first meaning in WordNet, and the ``KINDS`` most common names of the
meanings directly below it, as far as the word table has them. "Weighed by the image" is the idea of RAM++ (Huang et
al. 2023, arXiv 2310.15200), which has descriptions where this has names: a softmax over a label's vectors of their
cosine with the image's vector, here the mean of the class vectors by the class probabilities (ConSE). "Weighed by
score" is a softmax over the logits of a label's vectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.common import write_result
from benchmarks.tagging_accuracy import accuracy, read_coco
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.words.table import unit_length

KINDS = 8
TEMPERATURES = (0.3, 0.1, 0.05)  # of cosines
SCORE_TEMPERATURES = (2.0, 1.0, 0.5)  # of logits


class Photos(NamedTuple):
    """Output of the model for N photos: embedded tokens ``(N, L, D)`` and word vectors ``(N, word_dim)``."""

    tokens: torch.Tensor
    vectors: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    arguments = parser.parse_args()
    paths, targets, names = read_coco(arguments.coco)
    folder, model = ModelFolder(), load_model()
    table, wordnet = folder.words(), WordNet(arguments.wordnet)
    place = {word: row for row, word in enumerate(table.words)}
    phrases = [phrases_of(name, wordnet, place) for name in names]
    vectors = [table.vectors(own) for own in phrases]  # (n, word_dim) each
    photos = encoded(model, [load_array(path, folder.config.preprocessing) for path in paths])

    def score(queries: np.ndarray, some: slice = slice(None)) -> np.ndarray:
        with torch.inference_mode():
            return model.score(photos.tokens[some], torch.from_numpy(queries.astype(np.float32))).numpy()

    def by_image(temperature: float) -> np.ndarray:
        rows = []
        for row, image in enumerate(photos.vectors):
            weighed = [softmax(own @ image / temperature) @ own for own in vectors]  # (word_dim,) each
            rows.append(score(unit_length(np.stack(weighed)), slice(row, row + 1))[0])
        return np.stack(rows)  # (N, K)

    by_phrase = np.split(score(np.concatenate(vectors)), np.cumsum([len(own) for own in vectors])[:-1], axis=1)

    def by_score(temperature: float) -> np.ndarray:
        return np.stack([(softmax(own / temperature) * own).sum(axis=1) for own in by_phrase], axis=1)  # (N, K)

    scores = {
        "the label alone": score(np.stack([own[0] for own in vectors])),
        "the mean of its vectors": score(unit_length(np.stack([own.mean(axis=0) for own in vectors]))),
        **{f"weighed by the image, temperature {one:g}": by_image(one) for one in TEMPERATURES},
        "the mean of their logits": np.stack([own.mean(axis=1) for own in by_phrase], axis=1),
        **{f"weighed by score, temperature {one:g}": by_score(one) for one in SCORE_TEMPERATURES},
    }
    figures = {name: accuracy(own, targets) for name, own in scores.items()}
    counts = {"photos": len(paths), "labels": len(names), "vectors": sum(map(len, vectors))}
    write_result("several_vectors", {**counts, "scores": figures})


def phrases_of(name: str, wordnet: WordNet, place: dict[str, int]) -> list[str]:
    """Return a label and the names of its first meaning, and the most common names directly below it.

    Args:
        place: row of each word in the word table, where common words come first.
    """
    meanings = wordnet.senses.get(name)
    if not meanings:
        return [name]
    below = [synset for synset in wordnet.synsets.values() if meanings[0] in synset.parents]
    kinds = {kind for synset in below for kind in known_names(synset.names, place)}
    most_common = sorted(kinds, key=place.__getitem__)[:KINDS]
    return list(dict.fromkeys([name, *known_names(wordnet.synsets[meanings[0]].names, place), *most_common]))


def known_names(names: tuple[str, ...], known: dict[str, int]) -> list[str]:
    return [name for name in (name.replace("_", " ") for name in names) if name in known]


@torch.inference_mode()
def encoded(model: TaggerModel, pixels: list[np.ndarray]) -> Photos:
    """Return the tokens of photos, and of each the mean of the class vectors by its class probabilities."""
    assert model.reading is not None
    tokens, means = [], []
    for image in pixels:
        places = model.backbone_tokens(torch.from_numpy(image.copy())[None])  # (1, L, C)
        tokens.append(model.embed(places))  # (1, L, D)
        means.append(model.classes(places) @ model.reading.class_vectors)  # (1, word_dim)
    return Photos(torch.cat(tokens), unit_length(torch.cat(means).numpy()))


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    main()

"""A user's program over the public page. mypy checks it as with ``--strict``; it is not run."""

from pathlib import Path

import numpy as np
import torch

from zsl_tagger import (
    ImageError,
    Library,
    MLDecoder,
    Record,
    Tag,
    Tagger,
    UnknownLabelError,
    UserError,
    WordTable,
    load_photo,
    overlay,
)


def tags_of(folder: Path, words: list[str]) -> dict[str, list[Tag]]:
    tagger = Tagger()
    try:
        labels = tagger.label_set(words)
    except UnknownLabelError as error:
        raise SystemExit(f"unknown: {error.suggestions}") from error
    found: dict[str, list[Tag]] = {}
    for path in sorted(folder.glob("*.jpg")):
        try:
            found[str(path)] = tagger.tag(path, labels, top_k=5)
        except (ImageError, UserError) as error:
            print(path, error)
    return found


def best(record: Record) -> tuple[str, float]:
    tag = max(record.tags, key=lambda one: one.score)
    return tag.label, tag.score


def heat(path: Path, word: str) -> np.ndarray:
    tagger = Tagger()
    maps = tagger.heatmap(tagger.encode(path), [word])
    return np.asarray(overlay(load_photo(path, 640), maps[0]))


def head(tokens: torch.Tensor) -> torch.Tensor:
    decoder = MLDecoder(32, num_classes=5)
    logits: torch.Tensor = decoder(tokens)
    return logits


def taught(name: str, photos: list[Path], index: Path) -> tuple[int, int]:
    with Library.open(index) as library:
        tag = library.tagger.teach(name, photos, like="cat", library=library)
    return tag.found, tag.positives


def searched(index: Path, query: str) -> list[tuple[str, float]]:
    with Library.open(index) as library:
        return [(hit.path, hit.score) for hit in library.search(query, top=3)]


def known(model: Path, word: str) -> bool:
    return word in WordTable.load(model)

"""Vectors of a word list, taken once from the source a model was trained with and stored as a table.

With them a model folder can be asked those words where the source is not installed: neither gensim, nor
sentence-transformers, nor torch is needed to tag.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.words.sources import WordSource, open_word_source
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable, unit_length

#: Vectors with a smaller cosine than this are not the same one: int8 alone leaves more than 0.9999.
SAME_VECTOR = 0.995


def open_source_of_other_words(spec: str | None, templates: Sequence[str] = ()) -> WordSource:
    """Open the source of word vectors that ``spec`` names, where it can be asked words that are no labels.

    Args:
        templates: the prompts that the labels' vectors were made with; none: the labels alone.

    Raises:
        UserError: it is unknown, a file of the labels' vectors only, or it cannot be opened.
    """
    if spec is None:
        raise UserError("nothing says where the vectors of other words come from")
    if spec.startswith("file:"):
        raise UserError(f"its word vectors came from a matrix of the data set's labels only ({spec})")
    return open_word_source(spec, templates=templates)


def bake_words(source: WordSource, words: Sequence[str]) -> WordTable:
    """Return an int8 table of the words that the source knows, under their normalised spelling.

    Raises:
        UserError: it knows none of them.
    """
    found = {}
    for word in words:
        key = normalize_label(word)
        if key and key not in found and (resolved := source.resolve(word)) is not None:
            found[key] = resolved
    if not found:
        raise UserError(f"the source of the word vectors knows none of the {len(words):,} words")
    return WordTable(list(found), int8_rows(source.vectors_of(found.values())), normalized=True)


def joined(table: WordTable, more: WordTable) -> WordTable:
    """All words of ``table`` with their vectors, then those of ``more`` that it lacks."""
    known = set(table.words)
    new = [index for index, word in enumerate(more.words) if word not in known]
    own, rows = np.asarray(table.raw_vectors), np.asarray(more.raw_vectors)[new]
    dtype = own.dtype if own.dtype == rows.dtype else np.dtype(np.float32)
    vectors = np.concatenate([own.astype(dtype), rows.astype(dtype)])
    return WordTable([*table.words, *(more.words[index] for index in new)], vectors, normalized=True)


def table_with_labels(labels: Sequence[str], vectors: np.ndarray, others: WordTable | None) -> WordTable:
    """Return a table with every label under its own vector, ``(K, word_dim)``, and other words as in ``others``."""
    vectors = unit_length(vectors)
    if others is None:
        return WordTable(labels, vectors.astype(np.float32), normalized=True)
    differ = ~has_same_vectors(others, labels, vectors)
    own = WordTable(np.array(labels)[differ].tolist(), int8_rows(vectors[differ]), normalized=True)
    return joined(own, others) if own.words else others


def has_same_vectors(source: WordSource, labels: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """For each label, bool ``(K,)``, whether the source knows it and its vector is this one of ``(K, word_dim)``."""
    resolved = [source.resolve(label) for label in labels]
    found = [index for index, one in enumerate(resolved) if one is not None]
    same = np.zeros(len(labels), bool)
    if found:
        cosines = (source.vectors_of([one for one in resolved if one]) * vectors[found]).sum(axis=1)
        same[found] = cosines > SAME_VECTOR
    return same


def int8_rows(vectors: np.ndarray) -> np.ndarray:
    """Only a row's direction matters: each is scaled to the whole range of int8."""
    scale = 127 / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12)
    return np.round(vectors * scale).astype(np.int8)

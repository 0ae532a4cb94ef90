"""Add the backbone's class probabilities to the logits of words that correspond to its classes.

A word that names classes ("lion"), or is a hypernym of some in WordNet ("big cat"), uses their probabilities::

    e        = max(0, log-odds(sum of the probabilities of the word's classes, at most 0.99) + 4)
    log-odds = scale * logit + weight * e + offset

with a scale, a weight and an offset per kind of word: words that name a class, words that are only hypernyms of
classes, and all others, whose weight is 0 (``scoring`` in ``config.json``). The backbone was trained on these classes,
so this evidence is not zero-shot. benchmarks/README.md explains the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import parse_json

CLASS_WORDS_FILE = "class_words.json"

#: Log-odds below which a class counts as absent.
FLOOR = -4.0
#: Maximum probability of a word: the probabilities come from several windows, so their sum may exceed 1.
MOST = 0.99

NAMES, ABOVE, OTHER = KINDS = "names", "above", "other"

Weights = tuple[float, float, float]  # scale of the logit, weight of the evidence, offset


@dataclass(frozen=True)
class Scoring:
    """Scale, weight and offset that combine logits and evidence, per kind of word.

    Attributes:
        names: for words that name a class.
        above: for words that are only hypernyms of classes.
        other: for all other words; its weight is 0.
    """

    names: Weights = (1.0, 0.67, -0.32)
    above: Weights = (1.0, 0.38, 0.23)
    other: Weights = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for kind in KINDS:
            values = getattr(self, kind)
            numbers = isinstance(values, (list, tuple)) and all(
                isinstance(value, (int, float)) and np.isfinite(value) for value in values
            )
            if not numbers or len(values) != 3:
                raise UserError(f"expected scoring {kind!r} to be three numbers: scale, weight, offset; got {values!r}")
            object.__setattr__(self, kind, tuple(map(float, values)))


@dataclass(frozen=True)
class ClassWord:
    """Classes of a word, and whether it names them (otherwise it is a hypernym)."""

    classes: tuple[int, ...]
    names: bool


def read_class_words(path: Path) -> dict[str, ClassWord]:
    """Read ``class_words.json``: ``{"names": {word: classes}, "above": {word: classes}}``.

    Raises:
        UserError: it cannot be read or has another format.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return {
            word: ClassWord(tuple(classes), kind == NAMES)
            for kind in (ABOVE, NAMES)
            for word, classes in content[kind].items()
            if _are_classes(classes)
        }
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(
            f'{path}: expected {{"names": {{word: classes}}, "above": {{word: classes}}}}, classes as lists of numbers'
        ) from None


def _are_classes(classes: object) -> bool:
    if isinstance(classes, list) and classes and all(type(number) is int and number >= 0 for number in classes):
        return True
    raise ValueError(classes)


class LabelEvidence:
    """Classes and weights of K labels.

    Attributes:
        scales, weights, offsets: float32 ``(K,)``.
        names_class: bool ``(K,)``, whether a label names one of the classes.
        columns: int64 ``(n,)``, the classes of all labels, concatenated.
    """

    def __init__(self, words: Sequence[ClassWord | None], scoring: Scoring):
        self._words, self._scoring = list(words), scoring
        kinds = [scoring.other if word is None else scoring.names if word.names else scoring.above for word in words]
        self.scales, self.weights, self.offsets = np.array(kinds, np.float32).reshape(-1, 3).T
        self.names_class = np.array([word is not None and word.names for word in words], bool)
        self._labels = np.flatnonzero([word is not None for word in words])  # (M,)
        of_each = [word.classes for word in words if word is not None]
        self._starts = np.cumsum([0, *map(len, of_each[:-1])]) if of_each else np.zeros(0, np.int64)  # (M,)
        self.columns = np.array([number for classes in of_each for number in classes], np.int64)

    @classmethod
    def of(cls, keys: Sequence[str], class_words: Mapping[str, ClassWord], scoring: Scoring) -> LabelEvidence:
        """Create the evidence of labels from their keys (:attr:`LabelSet.keys`)."""
        return cls([class_words.get(key) for key in keys], scoring)

    def only(self, keep: Sequence[int]) -> LabelEvidence:
        """Return the evidence of the labels with the indices ``keep``."""
        return LabelEvidence([self._words[index] for index in keep], self._scoring)

    def added(self, classes: np.ndarray) -> np.ndarray:
        """Return the term to add to the scaled logits: class probabilities ``(B, N)`` -> float32 ``(B, K)``."""
        return self.added_by(classes[:, self.columns])

    def added_by(self, probabilities: np.ndarray) -> np.ndarray:
        """Do the same as :meth:`added` from the probabilities of ``columns`` only: ``(B, n)`` -> float32 ``(B, K)``."""
        added = np.tile(self.offsets, (len(probabilities), 1))  # (B, K)
        if len(self._labels):
            summed = np.add.reduceat(probabilities, self._starts, axis=1)  # (B, M)
            p = np.clip(summed, 1e-6, MOST)
            evidence = np.maximum(np.log(p / (1 - p)) - FLOOR, 0.0)  # (B, M)
            added[:, self._labels] += self.weights[self._labels] * evidence
        return added

    def join(self, logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return log-odds float32 ``(B, K)`` of logits ``(B, K)`` and class probabilities ``(B, N)``."""
        return self.scales * logits + self.added(classes)

"""Add what the backbone's classifier says to the logits of the words that mean one of its classes.

A word that names classes ("lion"), or that lies above some in WordNet ("big cat"), hears their probabilities::

    e        = max(0, log-odds(sum of the probabilities of the word's classes, at most 0.99) + 4)
    log-odds = scale * logit + weight * e + offset

with a scale, a weight and an offset for each kind of word: those that name a class, those that only lie above some, and
all others, whose weight is 0 (``scoring`` of ``config.json``). The probabilities are knowledge of the classes that the
backbone was trained on, so this is no zero-shot evidence. benchmarks/README.md says how the numbers were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import parse_json

CLASS_WORDS_FILE = "class_words.json"

#: Log-odds below which a class counts as not seen.
FLOOR = -4.0
#: Probabilities come from several windows, so that their sum may pass 1; as a word's probability it goes up to this.
MOST = 0.99

NAMES, ABOVE, OTHER = KINDS = "names", "above", "other"

Weights = tuple[float, float, float]  # scale of the logit, weight of the evidence, offset


@dataclass(frozen=True)
class Scoring:
    """How logits and evidence make a score: scale, weight and offset of each kind of word.

    Attributes:
        names: of words that name a class.
        above: of words that only lie above classes.
        other: of all other words; its weight is 0.
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
    """The classes of one word, and whether it names them (or lies above them)."""

    classes: tuple[int, ...]
    names: bool


def read_class_words(path: Path) -> dict[str, ClassWord]:
    """Read ``class_words.json``: ``{"names": {word: classes}, "above": {word: classes}}``.

    Raises:
        UserError: it cannot be read, or it is not that.
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
    """The classes and the weights of K labels.

    Attributes:
        scales, weights, offsets: float32 ``(K,)``.
        columns: int64 ``(n,)``, the classes of all labels that have some, one label's after another's.
    """

    def __init__(self, words: Sequence[ClassWord | None], scoring: Scoring):
        self._words, self._scoring = list(words), scoring
        kinds = [scoring.other if word is None else scoring.names if word.names else scoring.above for word in words]
        self.scales, self.weights, self.offsets = np.array(kinds, np.float32).reshape(-1, 3).T
        self._labels = np.flatnonzero([word is not None for word in words])  # (M,)
        of_each = [word.classes for word in words if word is not None]
        self._starts = np.cumsum([0, *map(len, of_each[:-1])]) if of_each else np.zeros(0, np.int64)  # (M,)
        self.columns = np.array([number for classes in of_each for number in classes], np.int64)

    @classmethod
    def of(cls, keys: Sequence[str], class_words: Mapping[str, ClassWord], scoring: Scoring) -> LabelEvidence:
        """Look up labels by their keys (:attr:`LabelSet.keys`)."""
        return cls([class_words.get(key) for key in keys], scoring)

    def only(self, keep: Sequence[int]) -> LabelEvidence:
        """Return that of some of the labels, by their numbers."""
        return LabelEvidence([self._words[index] for index in keep], self._scoring)

    def added(self, classes: np.ndarray) -> np.ndarray:
        """Return what is added to the scaled logits: class probabilities ``(B, N)`` -> float32 ``(B, K)``."""
        return self.added_by(classes[:, self.columns])

    def added_by(self, probabilities: np.ndarray) -> np.ndarray:
        """:meth:`added` by the probabilities of ``columns`` alone: ``(B, n)`` -> float32 ``(B, K)``."""
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

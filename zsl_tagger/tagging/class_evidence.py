"""Add the probabilities of classes and objects to the logits of words that correspond to them.

A word that names classes of the backbone ("lion"), or is a hypernym of some in WordNet ("big cat"), uses their
probabilities::

    e        = max(0, log-odds(sum of the probabilities of the word's classes, at most 0.99) + 4)
    log-odds = scale * logit + weight * e + offset

with a scale, a weight and an offset per kind of word: words that name a class, words that are only hypernyms of
classes, and all others, whose weight is 0 (``scoring`` in ``config.json``). Words for the objects of a detector
("cup"), if the model folder has one, repeat this with the log-odds so far in place of the logit, values of their own,
and the highest probability of the word's objects in place of the sum, since objects do not exclude each other. The
backbone and the detector were trained on these classes and objects, so this evidence is not zero-shot.
benchmarks/README.md explains the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import parse_json
from zsl_tagger.tagging.near_classes import WEIGHT, Near

CLASS_WORDS_FILE = "class_words.json"
OBJECT_WORDS_FILE = "object_words.json"

#: Log-odds below which a class counts as absent.
FLOOR = -4.0
#: Maximum probability of a word: the probabilities come from several windows, so their sum may exceed 1.
MOST = 0.99

NAMES, ABOVE, OTHER = KINDS = "names", "above", "other"
OBJECT_NAMES, OBJECT_ABOVE = OBJECT_KINDS = "object_names", "object_above"

Weights = tuple[float, float, float]  # scale of the logit, weight of the evidence, offset
UNCHANGED: Weights = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scoring:
    """Scale, weight and offset that combine logits and evidence, per kind of word.

    Attributes:
        names: for words that name a class.
        above: for words that are only hypernyms of classes.
        other: for all other words; its weight is 0.
        object_names: for words that name an object, applied to the result of one of the above.
        object_above: for words that are only hypernyms of objects, likewise.
    """

    names: Weights = (1.0, 0.67, -0.32)
    above: Weights = (1.0, 0.38, 0.23)
    other: Weights = UNCHANGED
    object_names: Weights = UNCHANGED
    object_above: Weights = UNCHANGED

    def __post_init__(self) -> None:
        for kind in (*KINDS, *OBJECT_KINDS):
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
    return _read_words(path)[0]


def read_object_words(path: Path) -> tuple[dict[str, ClassWord], int]:
    """Read ``object_words.json``, as ``class_words.json`` but with ``"objects"``, a list of their names.

    Returns:
        words with numbers of objects in place of classes, and the number of objects.

    Raises:
        UserError: it cannot be read or has another format.
    """
    words, content = _read_words(path)
    objects = content.get("objects")
    if not isinstance(objects, list) or _largest(words) >= len(objects):
        raise UserError(f'{path}: expected "objects" to be a list with a name for every number of an object')
    return words, len(objects)


def _read_words(path: Path) -> tuple[dict[str, ClassWord], dict[str, object]]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        words = {
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
    return words, content


def _are_classes(classes: object) -> bool:
    if isinstance(classes, list) and classes and all(type(number) is int and number >= 0 for number in classes):
        return True
    raise ValueError(classes)


def _largest(words: Mapping[str, ClassWord]) -> int:
    return max((max(word.classes) for word in words.values()), default=-1)


@dataclass(frozen=True)
class EvidenceWords:
    """Words for the N class probabilities of an encoder and the M object probabilities behind them.

    Attributes:
        classes: words for the backbone's classes, numbers below N.
        objects: words for the detector's objects, numbers from N to N + M - 1.
    """

    classes: Mapping[str, ClassWord] = field(default_factory=dict)
    objects: Mapping[str, ClassWord] = field(default_factory=dict)

    @classmethod
    def joint(cls, classes: Mapping[str, ClassWord], objects: Mapping[str, ClassWord], count: int) -> EvidenceWords:
        """Join the words of ``count`` classes with those of objects whose numbers start at 0."""
        behind = {
            key: ClassWord(tuple(count + number for number in word.classes), word.names)
            for key, word in objects.items()
        }
        return cls(classes, behind)


class Evidence:
    """Evidence e of the M labels that have classes, see the module.

    Args:
        words: classes of each label, or None.
        join: how the probabilities of a label's classes are joined: ``np.add``, or ``np.maximum`` for objects.

    Attributes:
        labels: int64 ``(M,)``, indices of the labels.
        columns: int64 ``(n,)``, the classes of all of them, concatenated.
    """

    def __init__(self, words: Sequence[ClassWord | None], join: np.ufunc):
        self._join = join
        self.labels = np.flatnonzero([word is not None for word in words])  # (M,)
        of_each = [word.classes for word in words if word is not None]
        self._starts = np.cumsum([0, *map(len, of_each[:-1])]) if of_each else np.zeros(0, np.int64)  # (M,)
        self.columns = np.array([number for classes in of_each for number in classes], np.int64)  # (n,)

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the evidence, float32 ``(B, M)``, from the probabilities of ``columns``, ``(B, n)``."""
        joined = self._join.reduceat(probabilities, self._starts, axis=1)  # (B, M)
        p = np.clip(joined, 1e-6, MOST)
        evidence: np.ndarray = np.maximum(np.log(p / (1 - p)) - FLOOR, 0.0)  # (B, M)
        return evidence


class LabelEvidence:
    """Classes, objects and weights of K labels.

    Args:
        words: classes of each label, or None.
        scoring: scale, weight and offset per kind of word, for all labels or for each.
        objects: objects of each label, or None.
        near: classes near some of the labels.

    Attributes:
        scales, weights, object_weights, offsets: float32 ``(K,)``.
        names_class: bool ``(K,)``, whether a label names one of the classes.
        columns: int64 ``(n,)``, the classes and objects of all labels, concatenated.
    """

    def __init__(
        self,
        words: Sequence[ClassWord | None],
        scoring: Scoring | Sequence[Scoring],
        objects: Sequence[ClassWord | None] | None = None,
        near: Near | None = None,
    ):
        self._words = list(words)
        self._scoring = [scoring] * len(self._words) if isinstance(scoring, Scoring) else list(scoring)
        self._objects = [None] * len(self._words) if objects is None else list(objects)
        self._near = near
        kinds = [
            of_label.other if word is None else of_label.names if word.names else of_label.above
            for word, of_label in zip(self._words, self._scoring, strict=True)
        ]
        scales, weights, offsets = np.array(kinds, np.float32).reshape(-1, 3).T  # (K,) each
        then = [
            UNCHANGED if word is None else of_label.object_names if word.names else of_label.object_above
            for word, of_label in zip(self._objects, self._scoring, strict=True)
        ]
        then_scales, self.object_weights, then_offsets = np.array(then, np.float32).reshape(-1, 3).T
        self.scales, self.weights = then_scales * scales, then_scales * weights
        self.offsets = then_scales * offsets + then_offsets
        self.names_class = np.array([word is not None and word.names for word in words], bool)
        classes, of_objects = Evidence(self._words, np.add), Evidence(self._objects, np.maximum)
        both = (classes, self.weights), (of_objects, self.object_weights)
        self._terms: list[tuple[Evidence | Near, np.ndarray]] = [
            (evidence, of_all[evidence.labels]) for evidence, of_all in both if len(evidence.labels)
        ]
        if near is not None and len(near.labels):
            self._terms.append((near, np.full(len(near.labels), WEIGHT, np.float32)))
        self.columns = np.concatenate([np.zeros(0, np.int64), *(evidence.columns for evidence, _ in self._terms)])

    @classmethod
    def of(cls, keys: Sequence[str], words: EvidenceWords, scoring: Scoring | Sequence[Scoring]) -> LabelEvidence:
        """Create the evidence of labels from their keys (:attr:`LabelSet.keys`)."""
        return cls([words.classes.get(key) for key in keys], scoring, [words.objects.get(key) for key in keys])

    def only(self, keep: Sequence[int]) -> LabelEvidence:
        """Return the evidence of the labels with the indices ``keep``."""
        words, objects = ([of_labels[index] for index in keep] for of_labels in (self._words, self._objects))
        scoring = [self._scoring[index] for index in keep]
        near = None if self._near is None else self._near.only(list(keep))
        return LabelEvidence(words, scoring, objects, near)

    def with_near(self, near: Near) -> LabelEvidence:
        """Return the same evidence, and classes near some of the labels."""
        return LabelEvidence(self._words, self._scoring, self._objects, near)

    def added(self, classes: np.ndarray) -> np.ndarray:
        """Return the term to add to the scaled logits: probabilities ``(B, N + M)`` -> float32 ``(B, K)``."""
        return self.added_by(classes[:, self.columns])

    def added_by(self, probabilities: np.ndarray) -> np.ndarray:
        """Do the same as :meth:`added` from the probabilities of ``columns`` only: ``(B, n)`` -> float32 ``(B, K)``."""
        added = np.tile(self.offsets, (len(probabilities), 1))  # (B, K)
        start = 0
        for evidence, weights in self._terms:
            end = start + len(evidence.columns)
            added[:, evidence.labels] += weights * evidence.of(probabilities[:, start:end])
            start = end
        return added

    def join(self, logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return log-odds float32 ``(B, K)`` of logits ``(B, K)`` and probabilities ``(B, N + M)``."""
        return self.scales * logits + self.added(classes)

"""Class probabilities join the logits of the words that mean the classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.class_evidence import FLOOR, ClassWord, LabelEvidence, Scoring, read_class_words

SCORING = Scoring(names=(2.0, 0.7, -0.3), above=(1.5, 0.4, 0.2), other=(1.1, 0.0, -1.0))
WORDS = [ClassWord((1, 3), names=True), None, ClassWord((0,), names=False), None, ClassWord((2, 4, 5), names=True)]


def by_the_formula(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The module's docstring, one number at a time."""
    found = np.zeros(logits.shape)
    for row, column in np.ndindex(*logits.shape):
        word = WORDS[column]
        scale, weight, offset = SCORING.other if word is None else SCORING.names if word.names else SCORING.above
        evidence = 0.0
        if word is not None:
            p = float(sum(classes[row, number] for number in word.classes))
            p = min(max(p, 1e-6), 0.99)
            evidence = max(0.0, float(np.log(p / (1 - p))) - FLOOR)
        found[row, column] = scale * logits[row, column] + weight * evidence + offset
    return found


def test_log_odds_follow_the_formula() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(7, 5)).astype(np.float32)
    classes = random.random((7, 6)).astype(np.float32) ** 4
    classes[0] = 0  # no class seen
    classes[1, 3] = 1  # surely seen
    joined = LabelEvidence(WORDS, SCORING).join(logits, classes)
    np.testing.assert_allclose(joined, by_the_formula(logits, classes), rtol=1e-4, atol=1e-4)


def test_some_labels_hear_what_they_heard_among_all() -> None:
    random = np.random.default_rng(1)
    logits, classes = random.normal(size=(3, 5)), random.random((3, 6))
    evidence, keep = LabelEvidence(WORDS, SCORING), [4, 1, 0]
    np.testing.assert_allclose(
        evidence.only(keep).join(logits[:, keep], classes), evidence.join(logits, classes)[:, keep], rtol=1e-6
    )


def test_labels_without_classes_are_scaled_only() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    joined = LabelEvidence([None] * 3, SCORING).join(logits, np.ones((2, 6), np.float32))
    np.testing.assert_allclose(joined, 1.1 * logits - 1.0, rtol=1e-6)


def test_reads_which_words_name_classes(tmp_path: Path) -> None:
    path = tmp_path / "class_words.json"
    path.write_text(json.dumps({"names": {"lion": [291]}, "above": {"big cat": [290, 291]}}))
    assert read_class_words(path) == {"lion": ClassWord((291,), True), "big cat": ClassWord((290, 291), False)}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"names": {}}', '{"names": {"a": 1}, "above": {}}', '{"names": {"a": [-1]}, "above": {}}',
     '{"names": {"a": [1.5]}, "above": {}}', '{"names": {"a": []}, "above": {}}'],
)  # fmt: skip
def test_a_broken_file_is_one_message(tmp_path: Path, content: str) -> None:
    path = tmp_path / "class_words.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"class_words\.json: expected .*classes as lists of numbers"):
        read_class_words(path)


@pytest.mark.parametrize("values", [(1, 2), "abc", (1, 2, float("nan")), None])
def test_scoring_needs_three_numbers_a_kind(values: object) -> None:
    with pytest.raises(UserError, match=r"expected scoring 'above' to be three numbers"):
        Scoring(above=values)  # type: ignore[arg-type]

"""Class probabilities join the logits of the words that mean the classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.class_evidence import (
    FLOOR,
    ClassWord,
    EvidenceWords,
    LabelEvidence,
    Scoring,
    read_class_words,
    read_object_words,
)

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


OBJECT_SCORING = Scoring(
    SCORING.names, SCORING.above, SCORING.other, object_names=(0.6, 1.1, -1.7), object_above=(0.9, 0.5, 0.3)
)
OBJECTS = [None, ClassWord((7,), names=True), ClassWord((6, 8), names=False), None, ClassWord((6, 7), names=True)]


def test_objects_follow_the_formula() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(7, 5)).astype(np.float32)
    classes = random.random((7, 9)).astype(np.float32) ** 3
    classes[0], classes[1, 6:] = 0, 1
    expected = by_the_formula(logits, classes)
    for row, column in np.ndindex(*logits.shape):
        word = OBJECTS[column]
        if word is not None:
            scale, weight, offset = OBJECT_SCORING.object_names if word.names else OBJECT_SCORING.object_above
            p = min(max(float(max(classes[row, number] for number in word.classes)), 1e-6), 0.99)
            heard = max(0.0, float(np.log(p / (1 - p))) - FLOOR)
            expected[row, column] = scale * expected[row, column] + weight * heard + offset
    evidence = LabelEvidence(WORDS, OBJECT_SCORING, OBJECTS)
    np.testing.assert_allclose(evidence.join(logits, classes), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evidence.added_by(classes[:, evidence.columns]), evidence.added(classes), rtol=1e-6)
    keep = [4, 2, 1]
    np.testing.assert_allclose(
        evidence.only(keep).join(logits[:, keep], classes), expected[:, keep], rtol=1e-4, atol=1e-4
    )


def test_objects_without_words_change_no_bit() -> None:
    random = np.random.default_rng(4)
    logits, classes = random.normal(size=(3, 5)).astype(np.float32), random.random((3, 6)).astype(np.float32)
    joined = LabelEvidence(WORDS, OBJECT_SCORING, [None] * 5).join(logits, classes)
    assert (joined == LabelEvidence(WORDS, SCORING).join(logits, classes)).all()


def test_objects_are_numbered_behind_the_classes() -> None:
    words = EvidenceWords.joint(
        {"dog": ClassWord((2,), True)}, {"dog": ClassWord((0,), True), "cup": ClassWord((1, 4), True)}, 7
    )
    assert words.objects == {"dog": ClassWord((7,), True), "cup": ClassWord((8, 11), True)}
    assert LabelEvidence.of(["cup", "theorem", "dog"], words, SCORING).columns.tolist() == [2, 8, 11, 7]


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


def test_reads_which_words_name_objects(tmp_path: Path) -> None:
    path = tmp_path / "object_words.json"
    path.write_text(json.dumps({"objects": ["cup", "fork"], "names": {"mug": [0]}, "above": {"tableware": [0, 1]}}))
    assert read_object_words(path) == ({"mug": ClassWord((0,), True), "tableware": ClassWord((0, 1), False)}, 2)


NO_OBJECTS = r'object_words\.json: expected "objects" to be a list'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"object_words\.json: expected \{\"names\""),
        ('{"objects": ["a"], "names": {"a": [-1]}, "above": {}}', r"object_words\.json: expected \{\"names\""),
        ('{"names": {"a": [0]}, "above": {}}', NO_OBJECTS),
        (
            '{"objects": ["a"], "names": {"a": [1]}, "above": {}}',
            r'object_words\.json: expected "objects" to be a list',
        ),
        ('{"objects": {"a": 0}, "names": {}, "above": {}}', NO_OBJECTS),
    ],
)
def test_broken_words_for_objects_are_one_message(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "object_words.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_object_words(path)


@pytest.mark.parametrize("values", [(1, 2), "abc", (1, 2, float("nan")), None])
def test_scoring_needs_three_numbers_a_kind(values: object) -> None:
    with pytest.raises(UserError, match=r"expected scoring 'above' to be three numbers"):
        Scoring(above=values)  # type: ignore[arg-type]

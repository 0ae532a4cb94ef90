"""Words that were never trained hear the classes whose names are near them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.tagging import near_classes as near
from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence, Scoring

random = np.random.default_rng(0)
VECTORS, QUERIES = random.normal(size=(11, 5)), random.normal(size=(3, 5)).astype(np.float32)
BACKGROUND = random.random((7, 11)).astype(np.float32) ** 3


def by_the_formula(query: np.ndarray, classes: np.ndarray) -> float:
    """The module's docstring for one word and photo, before the mean is subtracted."""
    cosines = [float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) for row in VECTORS]
    nearest = sorted(range(11), key=lambda number: -cosines[number])[: near.NEAREST]
    return float(np.log(sum(classes[number] * np.exp(10 * (cosines[number] - 1)) for number in nearest) + 1e-3))


@pytest.fixture(params=[4, 20])  # fewer and more than there are
def _nearest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "NEAREST", request.param)


@pytest.mark.usefixtures("_nearest")
@pytest.mark.parametrize("at_once", [2, 2048])
def test_log_odds_follow_the_formula(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(near, "_LABELS_AT_ONCE", at_once)
    unit = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
    found = near.near_classes(np.array([1, 2, 4]), QUERIES, unit, BACKGROUND)
    words = [ClassWord((3,), True), None, ClassWord((5,), True), None, None]
    logits = random.normal(size=(6, 5)).astype(np.float32)
    classes = random.random((6, 11)).astype(np.float32) ** 3
    plain, hearing = LabelEvidence(words, Scoring()), LabelEvidence(words, Scoring()).with_near(found)
    expected = plain.join(logits, classes).astype(np.float64)
    for label, query in zip((1, 2, 4), QUERIES, strict=True):
        usual = np.mean([by_the_formula(query, row) for row in BACKGROUND])
        expected[:, label] += [0.6 * (by_the_formula(query, row) - usual) for row in classes]
    np.testing.assert_allclose(hearing.join(logits, classes), expected, atol=2e-5)
    for keep in ([4, 0, 2], [3, 0]):
        np.testing.assert_allclose(hearing.only(keep).join(logits[:, keep], classes), expected[:, keep], atol=2e-5)


def test_a_folder_in_its_place_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "class_vectors.npy").mkdir()
    with pytest.raises(UserError, match=r"class_vectors\.npy cannot be read: Is a directory"):
        near.read_class_vectors(tmp_path / "class_vectors.npy")

"""Test that calibration recovers the parameters of synthetic data."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.packaged.calibration import (
    HeldOutPhotos,
    Reliability,
    WordsOfLabels,
    fit_biases,
    fit_scoring,
    logistic_regression,
    precision_shifts,
)
from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence, Scoring, Weights


def test_logistic_regression_recovers_the_weights() -> None:
    random = np.random.default_rng(0)
    x = np.column_stack([random.normal(size=(40_000, 2)), np.ones(40_000)])
    weights = np.array([1.5, -0.7, -1.0])
    found = logistic_regression(x, random.random(40_000) < sigmoid(x @ weights))
    np.testing.assert_allclose(found, weights, atol=0.06)


def scaled(weights: Weights, scale: float, shift: float) -> Weights:
    return weights[0] * scale, weights[1] * scale, weights[2] * scale + shift


def test_scoring_is_recovered_by_kind() -> None:
    random = np.random.default_rng(1)
    words = [ClassWord((0, 2), True), ClassWord((1,), True), ClassWord((3,), False), None, None]
    plain = Scoring()
    scoring = Scoring(scaled(plain.names, 2.0, -2.0), scaled(plain.above, 0.9, 0.5), scaled(plain.other, 0.5, 1.0))
    logits, classes = random.normal(size=(20_011, 5)), random.random((20_011, 4)) ** 3
    truth = random.random(logits.shape) < sigmoid(LabelEvidence(words, scoring).join(logits, classes))
    known = random.random(logits.shape) < 0.9
    found = fit_scoring(HeldOutPhotos(logits, classes, truth, known), WordsOfLabels(words, [None] * 5))
    for kind in ("names", "above", "other"):
        np.testing.assert_allclose(getattr(found, kind), getattr(scoring, kind), atol=0.12)


def test_scoring_of_objects_is_recovered() -> None:
    random = np.random.default_rng(6)
    words = [ClassWord((0,), True), None, None, ClassWord((1,), False), None]
    objects = [ClassWord((2,), True), ClassWord((2, 4), False), None, ClassWord((3,), True), None]
    scoring = Scoring(object_names=(0.6, 1.1, -1.9), object_above=(0.8, 0.4, -0.5))
    logits, classes = random.normal(size=(40_009, 5)), random.random((40_009, 5)) ** 3
    truth = random.random(logits.shape) < sigmoid(LabelEvidence(words, scoring, objects).join(logits, classes))
    known = random.random(logits.shape) < 0.9
    found = fit_scoring(HeldOutPhotos(logits, classes, truth, known), WordsOfLabels(words, objects))
    evidence = LabelEvidence(words, found, objects)
    expected = LabelEvidence(words, scoring, objects).join(logits, classes)[:, [0, 1, 3]]
    np.testing.assert_allclose(evidence.join(logits, classes)[:, [0, 1, 3]].mean(0), expected.mean(0), atol=0.1)
    assert found.object_names[1] == pytest.approx(1.1, abs=0.15)
    assert found.object_above[1] == pytest.approx(0.4, abs=0.1)


def test_biases_follow_the_data_and_are_0_without_data() -> None:
    random = np.random.default_rng(2)
    log_odds = random.normal(-1.0, 1.0, (9_001, 3))
    truth = random.random(log_odds.shape) < sigmoid(log_odds + np.array([0.8, -0.5, 0.0]))
    known = np.ones_like(truth)
    known[:, 2] = False
    np.testing.assert_allclose(fit_biases(log_odds, truth, known), [0.8, -0.5, 0.0], atol=0.1)


def test_calibration_error_of_calibrated_and_of_wrong_scores() -> None:
    scores = np.repeat([0.1, 0.9], 50)
    right = np.concatenate([np.arange(50) < 5, np.arange(50) < 45])
    assert Reliability.of(scores, right).error == pytest.approx(0.0, abs=1e-9)
    assert Reliability.of(scores, ~right).error == pytest.approx(0.8)


def test_precision_shifts_reach_their_precision() -> None:
    random = np.random.default_rng(3)
    log_odds = random.normal(size=(5_003, 4)) * 3
    truth = random.random(log_odds.shape) < sigmoid(log_odds)
    known = random.random(log_odds.shape) < 0.8
    thresholds = np.array([-1.0, 0.0, 0.5, 1.0])
    pairs = precision_shifts(log_odds, thresholds, truth, known)
    assert [precision for precision, _ in pairs] == sorted(precision for precision, _ in pairs)
    for precision, shift in pairs:
        tags = known & (log_odds >= thresholds + shift)
        assert truth[tags].mean() == pytest.approx(precision, abs=0.02)

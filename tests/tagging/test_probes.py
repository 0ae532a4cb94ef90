"""Probes: the file, the labels that have some, and their part in a label's log-odds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence, Scoring
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.probes import Probes, write_probes

DIM, CLASSES, PROBES = 5, 4, 3
FEATURES = 2 * DIM + CLASSES
WEIGHTS = np.random.default_rng(0).normal(size=(PROBES, FEATURES)).astype(np.float32)
OFFSETS = np.array([-1.5, 0.0, 2.25], np.float32)

NOT_FINITE = np.zeros(3, [("weights", "u1", 7), ("step", "f4"), ("offset", "f4")])
NOT_FINITE["offset"][1] = np.inf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_probes(tmp_path / "probes.npy", WEIGHTS, OFFSETS)
    return tmp_path / "probes.npy"


def encoded(images: int) -> Encoded:
    random = np.random.default_rng(images)
    classes = random.dirichlet(np.ones(CLASSES), images).astype(np.float32)
    return Encoded(random.random((images, 7, DIM)).astype(np.float32), classes)


def test_stored_weights_are_near(file: Path) -> None:
    probes = Probes.load(file).of([2, None, 0, 2])
    assert probes is not None
    np.testing.assert_array_equal(probes.labels, [0, 2, 3])
    expected = WEIGHTS[[2, 0, 2]]
    bound = 3.2 * expected.std(axis=1, keepdims=True)
    half_a_step = bound / 7 / 2
    assert (np.abs(probes.weights - np.clip(expected, -bound, bound)) <= half_a_step * 1.0001).all()
    np.testing.assert_array_equal(probes.rows["offset"], OFFSETS[[2, 0, 2]])
    assert probes.rows.dtype.itemsize == FEATURES // 2 + 8


def test_only_labels_with_a_probe_get_something(file: Path) -> None:
    probes = Probes.load(file).of([None, 1, None, 0])
    assert probes is not None
    features = pooled(encoded(11))
    added = probes.added(features, 4)
    assert (added[:, [0, 2]] == 0).all()
    np.testing.assert_allclose(added[:, 1], features @ probes.weights[0] + OFFSETS[1], rtol=1e-5, atol=1e-5)
    some = probes.only([3, 2, 3])
    assert some is not None
    np.testing.assert_allclose(some.added(features, 3), added[:, [3, 2, 3]], rtol=1e-5, atol=1e-5)
    assert probes.only([0, 2]) is None
    assert Probes.load(file).of([None, None]) is None


def test_log_odds_scale_the_sum_of_logit_and_probe(file: Path) -> None:
    scoring = Scoring(names=(1.3, 0.67, -0.32), other=(1.7, 0.0, 0.4))
    evidence = LabelEvidence([ClassWord((1,), names=True), None, None], scoring)
    keys, biases = ["dog", "sky", "red"], np.array([0.1, -0.2, 0.3], np.float32)
    labels = LabelSet(keys, keys, np.zeros((3, 6)), np.full(3, 0.5), biases, evidence)
    labels.probes = Probes.load(file).of([0, None, 2])
    assert labels.probes is not None
    one, logits = encoded(1), np.array([[0.5, -1.0, 2.0]], np.float32)
    probed = labels.probed(one)
    assert probed[0, 1] == 0
    log_odds = labels.log_odds(logits + probed, one.classes) + biases
    scales, added = labels.terms(one.classes, probed)
    np.testing.assert_allclose(scales * logits[0] + added, log_odds[0], rtol=1e-5)
    plain = LabelSet(keys, keys, np.zeros((3, 6)), np.full(3, 0.5), biases, evidence)
    assert (plain.probed(one) == 0).all()
    difference = log_odds - plain.log_odds(logits, one.classes) - biases
    np.testing.assert_allclose(difference, [[1.3, 1.7, 1.7]] * probed, rtol=1e-4, atol=1e-5)
    for same in (labels.unfolded(), labels.shifted(0.5)):
        np.testing.assert_array_equal(same.probed(one), probed)
    np.testing.assert_allclose(labels.only([2, 1]).probed(one), probed[:, [2, 1]], rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 7)), "expected rows of weights, step and offset"),
        (np.zeros(3, [("weights", "u1", 7), ("step", "f8"), ("offset", "f4")]), "expected rows of weights"),
        (NOT_FINITE, "expected finite numbers"),
        (np.array([{}]), "expected an array of numpy"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: np.ndarray, message: str) -> None:
    np.save(tmp_path / "probes.npy", content, allow_pickle=True)
    with pytest.raises(UserError, match=rf"probes\.npy is not a file of probes: {message}"):
        Probes.load(tmp_path / "probes.npy")


@pytest.mark.parametrize("kept", [0, 3, 100, 140])
def test_cut_files_are_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"probes\.npy is not a file of probes: expected an array of numpy"):
        Probes.load(file)


def test_probes_of_another_model_are_refused(file: Path) -> None:
    probes = Probes.load(file).of([0])
    assert probes is not None
    message = rf"probes\.npy belongs to another model: expected 9 weights a probe, got {FEATURES}"
    with pytest.raises(UserError, match=message):
        probes.added(np.zeros((2, 9), np.float32), 1)


@pytest.mark.parametrize("number", [-1, 1.0, "0", True])
def test_numbers_of_probes_are_checked(number: object) -> None:
    with pytest.raises(ModelFolderError, match=rf"label 'dog' has probe {number!r}, expected the number of a probe"):
        VocabularyLabel("dog", 0.5, probe=number)  # type: ignore[arg-type]

"""The fit of probes: it learns words, leaves out what it can't know, and weighs them against the decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.evaluation.metrics import mean_average_precision
from zsl_tagger.packaged.calibration import HeldOutPhotos, WordsOfLabels
from zsl_tagger.packaged.probes import OBJECT_WEIGHT, WEIGHT, factors_of_probes, fit_probes
from zsl_tagger.packaged.targets import Targets
from zsl_tagger.tagging.class_evidence import ClassWord
from zsl_tagger.tagging.probes import Probes

pytestmark = pytest.mark.usefixtures("one_torch_thread")

WORDS = ["a", "b", "c", "same as a", "never"]


def made(photos: int, seed: int) -> tuple[np.ndarray, Targets]:
    """Return features and targets: words are linear in the features, and unknown in a third of the photos."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(photos, 12)).astype(np.float32) * 3 + 1
    directions = np.random.default_rng(9).normal(size=(3, 12))
    values = (features @ directions.T > 8).astype(np.float32)
    values = np.column_stack([values, values[:, 0], np.zeros(photos)]).astype(np.float32)
    weights = np.ones_like(values)
    weights[::3, 1] = 0
    values[::3, 1] = 1 - values[::3, 1]  # wrong where it does not count
    return features, Targets(WORDS, values, weights)


def test_probes_learn_words_of_new_photos(tmp_path: Path) -> None:
    probes = fit_probes(*made(60_013, 0))
    assert probes.numbers == [0, 1, 2, 0, None]
    features, targets = made(997, 1)
    log_odds = probes.log_odds(features)
    assert (log_odds[:, 4] == 0).all()
    np.testing.assert_array_equal(log_odds[:, 0], log_odds[:, 3])
    targets.values[::3, 1] = 1 - targets.values[::3, 1]
    assert mean_average_precision(log_odds[:, :3], targets.values[:, :3].astype(np.int64)) > 0.95

    scaled = probes.scaled(np.array([2.0, 1.0, 0.5, 2.0, 1.0]))
    np.testing.assert_allclose(
        scaled.log_odds(features)[:, :3], log_odds[:, :3] * [2.0, 1.0, 0.5], rtol=1e-4, atol=1e-4
    )
    scaled.save(tmp_path / "probes.npy")
    stored = Probes.load(tmp_path / "probes.npy").of(scaled.numbers)
    assert stored is not None
    assert stored.labels.tolist() == [0, 1, 2, 3]
    found = stored.added(features, 5)
    assert np.corrcoef(found[:, 1], scaled.log_odds(features)[:, 1])[0, 1] > 0.99


def test_the_same_seed_gives_the_same_probes() -> None:
    first, again, other = (fit_probes(*made(601, 0), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (first.weights != other.weights).any()


def test_factors_undo_the_scale_of_the_logit() -> None:
    """A decoder whose logits are a third of the log-odds: probes are divided by 3 before they are added."""
    random = np.random.default_rng(0)
    log_odds = random.normal(size=(3001, 4)) * 2
    truth = random.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))
    classes = np.full((3001, 1), 1e-6, np.float32)
    photos = HeldOutPhotos((log_odds / 3).astype(np.float32), classes, truth, np.ones_like(truth))
    words = WordsOfLabels([None] * 4, [None, None, ClassWord((0,), names=True), None])
    factors = factors_of_probes(photos, words, np.array([True, True, True, False]))
    expected = np.array([WEIGHT, WEIGHT, OBJECT_WEIGHT, WEIGHT]) / 3
    np.testing.assert_allclose(factors, expected, rtol=0.1)

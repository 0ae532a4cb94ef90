"""zsl_tagger/thresholds.py: by precision, and the bias of labels never trained, against trying everything."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger.metrics import harmonic_mean
from zsl_tagger.thresholds import calibrate_unseen, choose_thresholds


@pytest.mark.parametrize("precision", [0.3, 0.5, 0.9])
def test_the_lowest_threshold_of_a_precision(precision: float) -> None:
    random = np.random.default_rng(3)
    targets = (random.random((97, 5)) < 0.3).astype(int)
    scores = np.round(np.clip(0.3 * targets + random.random((97, 5)) * 0.7, 0.01, 0.99), 2)
    thresholds, _ = choose_thresholds(scores, targets, prior=0, precision=precision)
    for k, threshold in enumerate(thresholds):
        reached = [level for level in np.unique(scores[:, k]) if targets[scores[:, k] >= level, k].mean() >= precision]
        assert threshold == pytest.approx(min(reached) if reached else scores[:, k].max(), abs=1e-9)


def test_a_precision_that_nothing_reaches_tags_nothing() -> None:
    scores, targets = np.array([[0.9], [0.5], [0.2]]), np.array([[0], [1], [0]])
    _, common = choose_thresholds(scores, targets, precision=0.9)
    assert common > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_no_bias_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.random((61, 12)) < 0.2
    logits = random.normal(size=(61, 12)) + targets
    logits[:, 7:] -= 2

    def quality(bias: float) -> float:
        ranked = np.argsort(-(logits + bias * (np.arange(12) >= 7)), axis=1)[:, :3]
        hit = np.zeros_like(targets)
        np.put_along_axis(hit, ranked, True, axis=1)
        hit &= targets
        return harmonic_mean(*(hit[:, part].sum() / targets[:, part].sum() for part in (slice(7), slice(7, None))))

    bias = calibrate_unseen(logits[:, :7], logits[:, 7:], targets)
    best = max(quality(other) for other in np.linspace(-6, 6, 1201))
    assert quality(bias) >= best - 1e-12

"""zsl_tagger/evaluation/thresholds.py: by precision, and unseen labels' bias, against trying every value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from sklearn.metrics import f1_score

from zsl_tagger.evaluation.metrics import harmonic_mean
from zsl_tagger.evaluation.thresholds import calibrate_unseen, choose_thresholds


@pytest.mark.parametrize("precision", [0.3, 0.5, 0.9])
def test_the_lowest_threshold_of_a_precision(precision: float) -> None:
    random = np.random.default_rng(3)
    targets = (random.random((97, 5)) < 0.3).astype(int)
    scores = np.round(np.clip(0.3 * targets + random.random((97, 5)) * 0.7, 0.01, 0.99), 2)
    thresholds, _ = choose_thresholds(scores, targets, prior=0, precision=precision)
    for k, threshold in enumerate(thresholds):
        reached = [level for level in np.unique(scores[:, k]) if targets[scores[:, k] >= level, k].mean() >= precision]
        np.testing.assert_array_equal(scores[:, k] >= threshold, scores[:, k] >= min(reached, default=2))


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


# --- thresholds ------------------------------------------------------------------------------------------------------

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PRECISIONS = pytest.mark.parametrize("precision", [0.25, 0.5, 0.75, 1.0])  # exact in binary, unlike 0.55


def make_case(levels: int, dtype: Any, images: int = 97, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([levels, images, labels])
    targets = random.random((images, labels)) < 0.3
    scores = np.clip(0.3 * targets + 0.7 * random.integers(0, levels, targets.shape) / levels, 0.01, 0.99)
    return scores.astype(dtype), targets


def lowest(scores: np.ndarray, targets: np.ndarray, precision: float) -> float:
    """Of all scores the lowest at which the share of right tags is reached; inf where there is none."""
    reached = [level for level in np.unique(scores) if targets[scores >= level].mean() >= precision]
    return float(min(reached, default=np.inf))


@FLOATS
@PRECISIONS
@pytest.mark.parametrize("levels", [3, 11, 10**6])
def test_common_threshold_of_a_precision(dtype: Any, precision: float, levels: int) -> None:
    scores, targets = make_case(levels, dtype)
    _, common = choose_thresholds(scores, targets, precision=precision)
    expected = lowest(scores, targets, precision)
    np.testing.assert_array_equal(scores >= common, scores >= expected)
    said = scores >= common
    assert not said.any() or targets[said].mean() >= precision


@FLOATS
@PRECISIONS
@pytest.mark.parametrize("levels", [3, 11, 10**6])
def test_own_thresholds_of_a_precision(dtype: Any, precision: float, levels: int) -> None:
    scores, targets = make_case(levels, dtype)
    thresholds, _ = choose_thresholds(scores, targets, prior=0, precision=precision)
    for k, threshold in enumerate(thresholds):
        expected = lowest(scores[:, k], targets[:, k], precision)
        np.testing.assert_array_equal(scores[:, k] >= threshold, scores[:, k] >= expected)


def test_a_threshold_lies_midway_to_the_next_lower_score() -> None:
    """So that no last digit decides, neither of the score nor of the threshold as it is stored."""
    scores, targets = np.array([[0.9], [0.8], [0.4], [0.3]]), np.array([[True], [True], [False], [False]])
    assert choose_thresholds(scores, targets, prior=0) == (pytest.approx([0.6]), pytest.approx(0.6))
    assert choose_thresholds(scores, ~targets, prior=0, precision=0.5)[1] == pytest.approx(0.15)
    assert choose_thresholds(scores, ~targets, prior=0, precision=0.9)[1] == pytest.approx(0.95)


@FLOATS
def test_own_thresholds_tag_what_was_counted(dtype: Any) -> None:
    wrong = []
    for levels in range(7, 1009, 11):
        scores, targets = make_case(levels, dtype)
        thresholds, _ = choose_thresholds(scores, targets, prior=0, precision=0.75)
        for k in range(5):
            expected = scores[:, k] >= lowest(scores[:, k], targets[:, k], 0.75)
            wrong += [(levels, k)] if ((scores[:, k] >= thresholds[k]) != expected).any() else []
    assert wrong == []


@FLOATS
@pytest.mark.parametrize("top", [0.3, 0.5, 0.9, 0.99])
def test_nothing_is_tagged_where_nothing_is_sure_enough(dtype: Any, top: float) -> None:
    scores, targets = np.array([[top], [top / 2], [top / 3]], dtype), np.array([[False], [True], [True]])
    _, common = choose_thresholds(scores, targets, precision=0.75)
    assert not (scores >= common).any()
    assert top < common < 1


@pytest.mark.parametrize("top", [0.99993, 0.99999])
def test_nothing_is_tagged_where_the_network_is_sure_and_wrong(top: float) -> None:
    scores, targets = np.array([[top], [0.5], [0.25]], np.float32), np.array([[False], [True], [True]])
    thresholds, common = choose_thresholds(scores, targets, prior=0, precision=0.75)
    assert not (scores >= common).any()
    assert not (scores >= thresholds).any()


def test_no_threshold_is_above_one() -> None:
    """A model folder takes none such, so what scores 1 is tagged whatever it is."""
    scores, targets = np.array([[1.0], [0.5]]), np.array([[False], [True]])
    thresholds, common = choose_thresholds(scores, targets, prior=0, precision=0.75)
    assert common == 1
    assert thresholds[0] <= 1


def test_a_precision_that_is_reached_to_the_point() -> None:
    scores, targets = np.linspace(0.9, 0.1, 100)[:, None], np.arange(100)[:, None] >= 45
    assert choose_thresholds(scores, targets, precision=0.55)[1] < 0.1


@pytest.mark.slow
@FLOATS
@pytest.mark.parametrize("levels", [3, 11, 10**6])
def test_common_threshold_has_the_best_f1(dtype: Any, levels: int) -> None:
    scores, targets = make_case(levels, dtype, images=23)
    _, common = choose_thresholds(scores, targets)
    found = {level: f1_score(targets.ravel(), (scores >= level).ravel()) for level in np.unique(scores)}
    assert f1_score(targets.ravel(), (scores >= common).ravel()) == pytest.approx(max(found.values()))
    thresholds, _ = choose_thresholds(scores, targets, prior=0)
    for k, threshold in enumerate(thresholds):
        own = [f1_score(targets[:, k], scores[:, k] >= level) for level in np.unique(scores[:, k])]
        assert f1_score(targets[:, k], scores[:, k] >= threshold) == pytest.approx(max(own))


@pytest.mark.parametrize("prior", [0, 1, 10, 1000])
@pytest.mark.parametrize("precision", [None, 0.5])
def test_few_positives_are_drawn_to_the_common_threshold(prior: int, precision: float | None) -> None:
    scores, targets = make_case(10**6, np.float64)
    targets[:, 2] = False  # on no image
    own, common = choose_thresholds(scores, targets, prior=0, precision=precision)
    drawn, again = choose_thresholds(scores, targets, prior=prior, precision=precision)
    assert again == common
    assert drawn[2] == common
    for k in (0, 1, 3, 4):
        weight = targets[:, k].sum() / (targets[:, k].sum() + prior)
        a, b, c = (np.log(p / (1 - p)) for p in (own[k], common, drawn[k]))
        assert c == pytest.approx(weight * a + (1 - weight) * b, abs=1e-9)


# --- the bias of labels never trained --------------------------------------------------------------------------------


def quality_of(logits: np.ndarray, targets: np.ndarray, seen: np.ndarray, bias: float) -> float:
    return harmonic_mean(*reference.recalls_at_bias(logits, targets, seen, min(3, logits.shape[1]), bias))


@FLOATS
@pytest.mark.parametrize("handicap", [-3, 0, 3])
@pytest.mark.parametrize(("seen", "unseen"), [(1, 1), (2, 3), (5, 4), (7, 1)])
def test_the_bias_is_the_best_and_the_nearest_to_zero(dtype: Any, handicap: int, seen: int, unseen: int) -> None:
    random = np.random.default_rng([seen, unseen, handicap + 3])
    targets = random.random((19, seen + unseen)) < 0.3
    targets[0] = True
    logits = random.normal(size=targets.shape) + targets
    logits[:, seen:] += handicap
    logits, is_seen = logits.astype(dtype), np.arange(seen + unseen) < seen
    bias = calibrate_unseen(logits[:, :seen], logits[:, seen:], targets)
    wide = logits.astype(np.float64)
    # nothing changes but where a seen and an unseen label of an image are level
    edges = np.unique((wide[:, :seen, None] - wide[:, None, seen:]).ravel())
    starts, stops = np.append(-np.inf, edges), np.append(edges, np.inf)
    middles = np.concatenate([[edges[0] - 1], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1]])
    found = np.array([quality_of(wide, targets, is_seen, middle) for middle in middles])
    best = found >= found.max() - 1e-12
    assert quality_of(wide, targets, is_seen, bias) == pytest.approx(found.max())
    distance = np.maximum(0, np.maximum(starts[best], -stops[best])).min()
    assert distance <= abs(bias) <= distance + 1e-3 + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_no_bias_where_it_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(size=(13, 7)), random.random((13, 7)) < 0.4
    targets[:, 4:] = False  # no unseen label is on any image
    assert calibrate_unseen(logits[:, :4], logits[:, 4:], targets) == 0
    few = random.random((13, 3)) < 0.5  # all of three labels are among the three best
    assert calibrate_unseen(logits[:, :2], logits[:, 2:3], few) == 0


def test_the_bias_by_hand() -> None:
    """Three seen labels at 5 and a true unseen one at 0: among the three best above 5. It pushes out the last seen one,
    which is false."""
    seen, unseen = np.array([[5.0, 5, 5, 2]] * 2), np.array([[0.0]] * 2)
    targets = np.array([[True, False, False, False, True]] * 2)
    assert 5 < calibrate_unseen(seen, unseen, targets) <= 5.001
    assert calibrate_unseen(seen, unseen + 5.5, targets) == 0
    # three unseen ones at 10, the first true, and a true seen one at 5: of level labels the seen one is first
    found = calibrate_unseen(np.array([[5.0]]), np.array([[10.0, 10, 10]]), np.array([[True, True, False, False]]))
    assert -5.001 <= found <= -5

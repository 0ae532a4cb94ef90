"""Learning a tag in closed form: pooled features, the regression, its left-out scores, the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.pooled import by_place, pooled, pooled_tokens, with_classes
from zsl_tagger.tagging.reader import AGAINST, RIDGE, Photos, _Ridge, _unlike, learn

FEATURES = 60


def photos(count: int, shift: float, seed: int, word: float | None = None) -> Photos:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, FEATURES)).astype(np.float32)
    features[:, 0] += shift
    said = random.normal(size=count) + word if word is not None else np.zeros(count)
    return Photos(features, said.astype(np.float32))


NONE = photos(0, 0, 0)


def test_features_are_roots_of_mean_and_maximum_and_the_class_evidence() -> None:
    tokens = np.array([[[4.0, 0.0], [0.0, 1.0]]], np.float32)  # (1, 2, 2)
    features = pooled(Encoded(tokens, np.array([[0.5, 0.0]], np.float32)))
    np.testing.assert_allclose(features, [[2**0.5, 0.5**0.5, 2.0, 1.0, 0.3 * 4.5, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(pooled(Encoded(tokens)), features[:, :4])


def test_negative_tokens_of_other_models_keep_their_sign() -> None:
    np.testing.assert_allclose(pooled_tokens(np.full((1, 3, 1), -4.0, np.float32)), [[-2.0, -2.0]])


def test_what_the_places_add_is_the_whole() -> None:
    random = np.random.default_rng(0)
    tokens, weights = random.random((9, 5)).astype(np.float32), random.normal(size=10)
    assert by_place(tokens, weights).sum() == pytest.approx(float(pooled_tokens(tokens[None])[0] @ weights), rel=1e-5)


def test_a_strong_place_adds_most() -> None:
    tokens = np.zeros((4, 2), np.float32)
    tokens[2, 1] = 3.0
    assert by_place(tokens, np.ones(4)).argmax() == 2


def test_left_out_scores_are_those_of_a_regression_without_the_row() -> None:
    rows = [photos(count, shift, seed).features for count, shift, seed in ((3, 1.0, 1), (2, 0.5, 2), (7, 0.0, 3))]
    left_out = _Ridge(rows).left_out
    x = np.concatenate(rows).astype(np.float64)
    y = np.array([1.0] * 3 + [-1.0] * 9)
    against = 0.5 * 2 / (2 + AGAINST)
    w = np.array([0.5 / 3] * 3 + [against / 2] * 2 + [(0.5 - against) / 7] * 7)
    for row in range(len(x)):
        keep = np.arange(len(x)) != row
        ones = np.column_stack([x[keep], np.ones(keep.sum())])
        penalty = RIDGE * np.diag([1.0] * FEATURES + [0.0])
        solved = np.linalg.solve(ones.T @ (ones * w[keep, None]) + penalty, ones.T @ (w * y)[keep])
        assert left_out[row] == pytest.approx(np.append(x[row], 1) @ solved, abs=1e-8)


def test_photos_like_the_examples_reach_the_threshold_and_others_do_not() -> None:
    learned = learn(photos(8, 9, 1), NONE, photos(50, 0, 2))
    assert (learned.positives > 0).mean() >= 0.75
    seen, others = (learned.reader.log_odds(*photos(50, shift, 3)) for shift in (9, 0))
    assert (seen > 0).mean() > 0.75
    assert (others > 0).mean() < 0.05


def test_counterexamples_move_it_away_from_them() -> None:
    positives, background = photos(6, 6, 1), photos(40, 0, 2)
    near = photos(6, 6, 3)
    near.features[:, 1] += 6
    new = photos(20, 6, 4)
    new.features[:, 1] += 6
    without = learn(positives, NONE, background).reader.log_odds(*new)
    with_them = learn(positives, near, background).reader.log_odds(*new)
    assert with_them.mean() < without.mean()


def test_a_word_counts_as_much_as_it_tells_the_examples_apart() -> None:
    background = photos(40, 0, 2, word=0.0)
    told = {said: learn(photos(6, 5, 1, said), NONE, background, None, "cat").reader for said in (0.0, 4.0, 12.0)}
    weights = [reader.word_weight / np.linalg.norm(reader.weights) for reader in told.values()]
    assert weights == sorted(weights)
    assert told[12.0].word == "cat"
    assert learn(photos(6, 5, 1, -6.0), NONE, background, None, "cat").reader.word_weight == 0
    assert learn(photos(6, 5, 1), NONE, background).reader.word is None


def test_examples_that_stand_out_in_nothing_give_numbers_all_the_same() -> None:
    same = photos(40, 0, 2)
    learned = learn(Photos(same.features[:5], same.word[:5]), NONE, same)
    assert np.isfinite([*learned.reader.weights, learned.reader.offset, *learned.positives]).all()


def test_features_from_classes_are_those_of_the_index() -> None:
    tokens, classes = np.ones((2, 3, 4), np.float32), np.full((2, 5), 0.3, np.float32)
    np.testing.assert_array_equal(with_classes(pooled_tokens(tokens), classes), pooled(Encoded(tokens, classes)))


def test_photos_of_a_library_that_look_like_the_examples_are_no_counterexamples() -> None:
    positives, background, others = photos(5, 12, 1), photos(10, 0, 2), photos(60, 0, 3)
    hidden = photos(6, 12, 4)
    library = Photos(np.concatenate([others.features, hidden.features]), np.zeros(66, np.float32))
    kept = _unlike(positives, NONE, background, library)
    still_there = (kept.features[:, None] == hidden.features).all(axis=2).any(axis=0)
    assert still_there.sum() <= 1
    assert len(kept.word) >= 58
    assert len(_unlike(positives, NONE, background, NONE).word) == 0

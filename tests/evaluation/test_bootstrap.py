"""zsl_tagger/evaluation/bootstrap.py, against rows that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from zsl_tagger.evaluation.bootstrap import centred, draw_counts, interval, paired_test, resampled_average_precision
from zsl_tagger.evaluation.metrics import Ties, average_precision, ranking_steps


def test_counts() -> None:
    counts = draw_counts(101, 7, seed=3)
    assert counts.shape == (101, 7)
    assert counts.sum(axis=0).tolist() == [101] * 7
    np.testing.assert_array_equal(counts, draw_counts(101, 7, seed=3))
    assert (counts != draw_counts(101, 7, seed=4)).any()


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_resamples_equal_repeated_rows(levels: int) -> None:
    random = np.random.default_rng(levels)
    scores, targets = random.integers(0, levels, 53) / 7, random.random(53) < 0.2
    counts = draw_counts(53, 31, seed=0)
    steps = ranking_steps(scores, targets, None, "grouped")
    found = resampled_average_precision(steps, counts, int(counts.max()))
    for column, value in enumerate(found):
        rows = np.repeat(np.arange(53), counts[:, column])
        expected = average_precision(scores[rows, None], targets[rows, None])[0]
        assert value == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("largest", [1, 9, 127, 128, 255])
@pytest.mark.parametrize("share", [0.003, 0.5])
@pytest.mark.parametrize(("images", "resamples"), [(2003, 13), (2003, 16), (513, 8), (512, 3)])
def test_sums_of_any_length_are_exact(largest: int, share: float, images: int, resamples: int) -> None:
    """Long stretches without a positive, and counts that nearly fill a byte, to the bit."""
    random = np.random.default_rng(largest)
    counts = random.integers(0, largest, (images, resamples), np.uint8, endpoint=True)
    scores, targets = random.integers(0, 997, images) / 7, random.random(images) < share
    targets[0] = True
    steps = ranking_steps(scores, targets, None, "grouped")
    answers = counts[steps.order].cumsum(axis=0, dtype=np.int32)[steps.ends]
    hits = (counts[steps.order] * steps.ranked[:, None]).cumsum(axis=0, dtype=np.int32)[steps.ends]
    positives = np.diff(hits, axis=0, prepend=0)
    sums = (hits / np.maximum(answers, 1) * positives).sum(axis=0)
    expected = np.where(hits[-1] > 0, sums / np.maximum(hits[-1], 1), np.nan)  # unknown if no positive is drawn
    np.testing.assert_array_equal(resampled_average_precision(steps, counts, largest), expected)


def test_without_positives() -> None:
    counts = np.array([[0, 2], [2, 0]], np.uint8)
    steps = ranking_steps(np.array([1.0, 2.0]), np.array([True, False]), None, "grouped")
    np.testing.assert_array_equal(resampled_average_precision(steps, counts, int(counts.max())), [np.nan, 1.0])
    none = ranking_steps(np.array([1.0, 2.0]), np.array([False, False]), None, "grouped")
    assert np.isnan(resampled_average_precision(none, counts, 2)).all()


def test_interval_and_test() -> None:
    values = np.arange(1001.0)
    assert interval(values) == pytest.approx([25, 975])
    assert interval(np.array([np.nan])) is None
    assert centred(values, 7.0).mean() == pytest.approx(7)
    assert paired_test(np.zeros(99)) == 1
    assert paired_test(np.ones(99)) == pytest.approx(0.02)
    assert paired_test(np.array([-1.0] * 10 + [1.0] * 89)) == pytest.approx(2 * 11 / 100)


@pytest.mark.parametrize("images", [1, 2, 13, 257, 1009])
@pytest.mark.parametrize("resamples", [1, 11])
def test_every_resample_is_as_large_as_the_whole(images: int, resamples: int) -> None:
    counts = draw_counts(images, resamples, seed=5)
    assert (counts.shape, counts.dtype) == ((images, resamples), np.uint8)
    assert set(counts.sum(axis=0, dtype=np.int64).tolist()) == {images}
    # one resample more does not change those before it, so that runs of other lengths can be compared
    np.testing.assert_array_equal(draw_counts(images, resamples + 2, seed=5)[:, :resamples], counts)


def test_draws_are_as_likely_as_they_should_be() -> None:
    counts = draw_counts(101, 2003, seed=1)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 101) ** 101, abs=0.003)
    assert counts.mean(axis=1) == pytest.approx(np.ones(101), abs=5 / np.sqrt(2003))  # five standard errors


TIES = pytest.mark.parametrize("ties", ["grouped", "first", "last"])


def make_column(images: int, levels: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng([images, levels])
    known = random.random(images) > 0.2
    return random.integers(0, levels, images) / 7, (random.random(images) < share) & known, known


@TIES
@pytest.mark.parametrize("images", [2, 11, 53])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_resamples_are_the_definition(ties: Ties, images: int, levels: int, share: float) -> None:
    """With ignored images, which are drawn too and are in no ranking."""
    scores, targets, known = make_column(images, levels, share)
    counts = draw_counts(images, 17, seed=2)
    found = resampled_average_precision(ranking_steps(scores, targets, known, ties), counts, int(counts.max()))
    for column, value in zip(counts.T, found, strict=True):
        if ties == "grouped":
            rows = np.repeat(np.arange(images), column)
            expected = reference.average_precision(scores[rows], targets[rows], known[rows], ties)
        else:
            expected = reference.weighted_average_precision(scores, targets, known, column, ties)
        assert value == pytest.approx(expected, rel=1e-12, nan_ok=True)


@TIES
@pytest.mark.parametrize("levels", [2, 10**6])
def test_each_image_once_is_the_figure_itself(ties: Ties, levels: int) -> None:
    scores, targets, known = make_column(53, levels, 0.3)
    steps = ranking_steps(scores, targets, known, ties)
    once, thrice = np.ones((53, 1), np.uint8), np.full((53, 1), 3, np.uint8)
    whole = average_precision(scores[:, None], targets[:, None], ~known[:, None], ties)[0]
    assert steps.average_precision() == pytest.approx(whole)
    assert resampled_average_precision(steps, once, 1)[0] == pytest.approx(whole)
    assert resampled_average_precision(steps, thrice, 3)[0] == pytest.approx(whole)


@pytest.mark.parametrize("ties", ["first", "last"])
def test_an_image_drawn_twice_is_one_step_by_hand(ties: Ties) -> None:
    """Ranked: false, true, true; drawn 1, 2 and 0 times: two of three right at the only step. Once each: 1/2, 2/3."""
    steps = ranking_steps(np.array([3.0, 2, 1]), np.array([False, True, True]), None, ties)
    counts = np.array([[1, 2, 0], [1, 1, 1], [0, 0, 3], [3, 0, 0]], np.uint8).T
    found = resampled_average_precision(steps, counts, int(counts.max()))
    np.testing.assert_allclose(found, [2 / 3, (1 / 2 + 2 / 3) / 2, 1, np.nan])


def test_many_copies_do_not_run_over() -> None:
    """Counts are of 8 bits, their sums are not."""
    steps = ranking_steps(np.arange(7.0), np.array([True] * 3 + [False] * 4), None, "grouped")
    counts = np.full((7, 1), 255, np.uint8)
    assert resampled_average_precision(steps, counts, int(counts.max()))[0] == pytest.approx(
        (1 / 5 + 2 / 6 + 3 / 7) / 3
    )


def test_interval_leaves_out_what_is_no_number() -> None:
    values = np.append(np.arange(101.0), [np.nan, np.inf])
    assert interval(values) == pytest.approx([2.5, 97.5])
    assert interval(np.array([0.25])) == (0.25, 0.25)
    assert interval(np.zeros(0)) is None


def test_centred_is_a_shift() -> None:
    values = np.array([0.5, np.nan, 0.7])
    np.testing.assert_allclose(centred(values, 0.5), [0.4, np.nan, 0.6])
    np.testing.assert_array_equal(centred(np.full(3, np.nan), 0.5), np.full(3, np.nan))


@pytest.mark.parametrize("resamples", [1, 19, 997])
def test_test_of_one_sided_differences(resamples: int) -> None:
    always = np.linspace(0.1, 1, resamples)
    assert paired_test(always) == pytest.approx(2 / (resamples + 1))
    assert paired_test(-always) == pytest.approx(2 / (resamples + 1))
    assert paired_test(np.append(always, np.nan)) == pytest.approx(2 / (resamples + 1))
    assert paired_test(0 * always) == 1


@given(st.lists(st.integers(-3, 3), max_size=41))
def test_test_of_any_differences(values: list[int]) -> None:
    differences = np.array(values, float)
    p = paired_test(differences)
    assert 0 < p <= 1
    assert paired_test(-differences) == p
    opposite = min(sum(value <= 0 for value in values), sum(value >= 0 for value in values))
    assert p == pytest.approx(min(1, 2 * (opposite + 1) / (len(values) + 1)))

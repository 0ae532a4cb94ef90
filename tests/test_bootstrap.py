"""zsl_tagger/bootstrap.py, against rows that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger.bootstrap import centred, draw_counts, interval, paired_test, resampled_average_precision
from zsl_tagger.metrics import average_precision, ranking_steps


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
    found = resampled_average_precision(steps, counts)
    for column, value in enumerate(found):
        rows = np.repeat(np.arange(53), counts[:, column])
        expected = average_precision(scores[rows, None], targets[rows, None])[0]
        assert value == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_without_positives() -> None:
    counts = np.array([[0, 2], [2, 0]], np.uint8)
    steps = ranking_steps(np.array([1.0, 2.0]), np.array([True, False]), None, "grouped")
    np.testing.assert_array_equal(resampled_average_precision(steps, counts), [np.nan, 1.0])
    none = ranking_steps(np.array([1.0, 2.0]), np.array([False, False]), None, "grouped")
    assert np.isnan(resampled_average_precision(none, counts)).all()


def test_interval_and_test() -> None:
    values = np.arange(1001.0)
    assert interval(values) == pytest.approx([25, 975])
    assert interval(np.array([np.nan])) is None
    assert centred(values, 7.0).mean() == pytest.approx(7)
    assert paired_test(np.zeros(99)) == 1
    assert paired_test(np.ones(99)) == pytest.approx(0.02)
    assert paired_test(np.array([-1.0] * 10 + [1.0] * 89)) == pytest.approx(2 * 11 / 100)

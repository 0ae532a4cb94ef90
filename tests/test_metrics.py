"""zsl_tagger/metrics.py, against scikit-learn and a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from sklearn.metrics import average_precision_score

from zsl_tagger.metrics import average_precision, precision_recall_f1_at_k

#: Distinct score values: fewer means more ties.
LEVELS = pytest.mark.parametrize("levels", [1, 2, 5, 10**6])
SIZES = pytest.mark.parametrize(("images", "labels"), [(1, 5), (7, 11), (101, 13)])


def make_case(images: int, labels: int, levels: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([images, labels, levels])
    scores = rng.integers(levels, size=(images, labels)) / levels - 0.5
    return scores, (rng.random((images, labels)) < share).astype(int)


@SIZES
@LEVELS
@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_average_precision_equals_scikit_learn(images: int, labels: int, levels: int, share: float) -> None:
    scores, targets = make_case(images, labels, levels, share)
    expected = [
        average_precision_score(targets[:, label], scores[:, label]) if targets[:, label].any() else np.nan
        for label in range(labels)
    ]
    np.testing.assert_allclose(average_precision(scores, targets), expected, rtol=1e-12)


def test_average_precision_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 3], [0.8, 0.2, 2], [0.8, 0.3, 1], [0.1, 0.4, 0]], dtype=np.float32)
    targets = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    # 1/2 * 1/1 + 1/2 * 2/3 (the tie is one step) | found last of four | no positive
    np.testing.assert_allclose(average_precision(scores, targets), [5 / 6, 1 / 4, np.nan], rtol=1e-12)


@SIZES
@LEVELS
@pytest.mark.parametrize("k", [1, 3, 5])
def test_at_k_equals_a_loop(images: int, labels: int, levels: int, k: int) -> None:
    scores, targets = make_case(images, labels, levels)
    expected = reference.precision_recall_f1_at_k(scores, targets, k)
    assert precision_recall_f1_at_k(scores, targets, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, (1 / 3, 1 / 4, 2 / 7)),  # of three answers one is right; four positives in all
        (2, (3 / 6, 3 / 4, 3 / 5)),  # the tie of the second image goes to the first label
        (4, (4 / 12, 1, 1 / 2)),
    ],
)
def test_at_k_by_hand(k: int, expected: tuple[float, float, float]) -> None:
    scores = np.array([[4, 3, 2, 1], [5, 5, 5, 9], [1, 2, 3, 4]])
    targets = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert precision_recall_f1_at_k(scores, targets, k) == pytest.approx(expected)


def test_at_k_without_a_hit_is_zero() -> None:
    assert precision_recall_f1_at_k(np.array([[1.0, 2.0]]), np.array([[1, 0]]), 1) == (0, 0, 0)
    assert precision_recall_f1_at_k(np.array([[1.0, 2.0]]), np.array([[0, 0]]), 1) == (0, 0, 0)


@pytest.mark.parametrize("k", [0, 4])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 <= k <= 3 labels, got k={k}"):
        precision_recall_f1_at_k(np.zeros((2, 3)), np.zeros((2, 3)), k)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"of one shape \(N, K\), got \(2, 3\) and \(3, 2\)"),
        (np.zeros(3), np.zeros(3), r"of one shape \(N, K\), got \(3,\) and \(3,\)"),
        (np.array([[0.0, np.nan, np.nan]]), np.ones((1, 3)), "scores hold 2 NaN values"),
    ],
)
def test_unusable_input(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets)
    with pytest.raises(ValueError, match=message):
        precision_recall_f1_at_k(scores, targets, 1)

"""zsl_tagger/metrics.py, against scikit-learn and a slow loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from sklearn.metrics import average_precision_score, f1_score

from zsl_tagger.metrics import (
    CurveEvents,
    Ties,
    average_precision,
    confusion_at_threshold,
    curve_events,
    hits_at_k,
    precision_recall_f1,
    precision_recall_f1_at_k,
    seen_unseen_curve,
    tied_images,
)

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


# --- ties, ignored entries, thresholds, seen against unseen ------------------------------------------------------


@SIZES
@LEVELS
@pytest.mark.parametrize("ties", ["first", "last"])
def test_average_precision_in_order_equals_a_loop(images: int, labels: int, levels: int, ties: Ties) -> None:
    scores, targets = make_case(images, labels, levels)
    for label, value in enumerate(average_precision(scores, targets, ties=ties)):
        rows = range(images) if ties == "first" else range(images - 1, -1, -1)
        ranked = sorted(rows, key=lambda row: -scores[row, label])
        hits = [place for place, row in enumerate(ranked, start=1) if targets[row, label]]
        expected = np.mean([n / place for n, place in enumerate(hits, start=1)]) if hits else np.nan
        assert value == pytest.approx(expected, nan_ok=True)


@SIZES
@LEVELS
def test_ignored_entries_are_as_if_they_were_not_there(images: int, labels: int, levels: int) -> None:
    scores, targets = make_case(images, labels, levels)
    ignored = np.random.default_rng(images).random(scores.shape) < 0.3
    for label, value in enumerate(average_precision(scores, targets, ignored)):
        known = ~ignored[:, label]
        shown = targets[known, label]
        expected = average_precision_score(shown, scores[known, label]) if shown.any() else np.nan
        assert value == pytest.approx(expected, nan_ok=True)
    found = hits_at_k(scores, targets, 3, ignored, "first")
    for row in range(images):
        ranked = sorted((k for k in range(labels) if not ignored[row, k]), key=lambda k: -scores[row, k])[:3]
        assert found.answers[row] == len(ranked)
        assert found.hits[row] == targets[row, ranked].sum()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_tied_labels_share_places(k: int) -> None:
    """The expected hits over every order of the labels."""
    random = np.random.default_rng(k)
    scores, targets = random.integers(0, 3, (29, 5)).astype(float), random.random((29, 5)) < 0.4
    found = hits_at_k(scores, targets, k, ties="grouped")
    orders = [np.array(order) for order in itertools.permutations(range(5))]
    means = np.mean([hits_at_k(scores[:, o], targets[:, o], k, ties="first").hits for o in orders], axis=0)
    np.testing.assert_allclose(found.hits, means)
    ranked = -np.sort(-scores, axis=1)
    np.testing.assert_array_equal(found.tied, ranked[:, k - 1] == ranked[:, k])


@SIZES
@LEVELS
def test_tied_images_equal_a_loop(images: int, labels: int, levels: int) -> None:
    scores, targets = make_case(images, labels, levels)
    for label, value in enumerate(tied_images(scores, targets)):
        column, truth = scores[:, label], targets[:, label]
        assert value == sum(len(set(truth[column == level])) > 1 for level in column)


def test_f1_at_threshold_equals_scikit_learn() -> None:
    scores, targets = make_case(101, 13, 10**6)
    thresholds = np.linspace(-0.4, 0.4, 13)
    found = confusion_at_threshold(scores, targets, thresholds)
    said = scores >= thresholds
    assert precision_recall_f1(*(part.sum() for part in found))[2] == pytest.approx(
        f1_score(targets, said, average="micro")
    )
    np.testing.assert_allclose(found.f1(), f1_score(targets, said, average=None, zero_division=0))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("unseen", [1, 4, 9])
def test_seen_unseen_curve_equals_a_loop_over_biases(k: int, unseen: int) -> None:
    scores, targets = make_case(41, 11, 10**6)
    seen = np.arange(11) >= unseen
    blocks = [curve_events(scores[part], targets[part], seen, k) for part in (slice(17), slice(17, None))]
    joined = CurveEvents(
        np.concatenate([block.seen_leave for block in blocks]),
        np.concatenate([block.unseen_come for block in blocks]),
        sum(block.seen_positives for block in blocks),
        sum(block.unseen_positives for block in blocks),
    )
    curve = seen_unseen_curve(joined)
    recalls = []
    for bias in np.linspace(-1.2, 1.2, 4001):
        ranked = np.argsort(-(scores + bias * ~seen), axis=1)[:, :k]
        hit = np.zeros_like(targets)
        np.put_along_axis(hit, ranked, 1, axis=1)
        hit &= targets
        recalls.append([hit[:, part].sum() / targets[:, part].sum() for part in (seen, ~seen)])
        place = np.searchsorted(curve.bias, bias, side="right") - 1
        assert recalls[-1] == pytest.approx([curve.seen[place], curve.unseen[place]])
    y, x = np.array(recalls).T
    area = float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() + x[0] * y[0])
    assert curve.area == pytest.approx(area, abs=2e-3)


def test_seen_unseen_curve_by_hand() -> None:
    """One image, seen a (true) at 1, unseen b (true) at 0: at 1, a until the bias is 1, then b: area 1/2."""
    curve = seen_unseen_curve(curve_events(np.array([[1.0, 0.0]]), np.array([[1, 1]]), np.array([True, False]), 1))
    assert curve.bias.tolist() == [-np.inf, 1]
    assert (curve.seen.tolist(), curve.unseen.tolist(), curve.area) == ([1, 0], [0, 1], 0.5)

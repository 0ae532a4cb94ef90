"""zsl_tagger/evaluation/metrics.py, against scikit-learn and a slow loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from zsl_tagger.evaluation.metrics import (
    CurveEvents,
    Ties,
    average_precision,
    confusion_at_threshold,
    curve_events,
    harmonic_mean,
    hits_at_k,
    mean_average_precision,
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
        (np.zeros((2, 3)), np.zeros((3, 2)), r"of the same shape \(N, K\), got \(2, 3\) and \(3, 2\)"),
        (np.zeros(3), np.zeros(3), r"of the same shape \(N, K\), got \(3,\) and \(3,\)"),
        (np.array([[0.0, np.nan, np.nan]]), np.ones((1, 3)), "scores contain 2 NaN values"),
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


@pytest.mark.slow
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


# --- one image and one label at a time, with ties and ignored entries together -------------------------------------

TIES = pytest.mark.parametrize("ties", ["grouped", "first", "last"])
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make_ignored(shape: tuple[int, ...], share: float = 0.3) -> np.ndarray:
    return np.random.default_rng([97, *shape]).random(shape) < share


@SIZES
@LEVELS
@TIES
@FLOATS
def test_average_precision_is_the_definition(images: int, labels: int, levels: int, ties: Ties, dtype: Any) -> None:
    scores, targets = make_case(images, labels, levels)
    scores, ignored = scores.astype(dtype), make_ignored(scores.shape)
    found = average_precision(scores, targets, ignored, ties)
    expected = [
        reference.average_precision(*column, ties) for column in zip(scores.T, targets.T, ~ignored.T, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == np.float64


@given(
    column=st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), min_size=1, max_size=23),
    ties=st.sampled_from(["grouped", "first", "last"]),
)
def test_average_precision_of_any_column(column: list[tuple[int, bool, bool]], ties: Ties) -> None:
    scores, targets, known = (np.array(part) for part in zip(*column, strict=True))
    found = average_precision(scores[:, None], targets[:, None], ~known[:, None], ties)[0]
    assert found == pytest.approx(reference.average_precision(scores, targets, known, ties), nan_ok=True)
    # only the order of the scores counts, and the first of equals becomes the last when all stand the other way round
    stretched = np.exp(scores[:, None] / 2.0)
    assert average_precision(stretched, targets[:, None], ~known[:, None], ties)[0] == pytest.approx(found, nan_ok=True)
    if ties != "grouped":
        other: Ties = "last" if ties == "first" else "first"
        turned = average_precision(scores[::-1, None], targets[::-1, None], ~known[::-1, None], other)[0]
        assert turned == pytest.approx(found, nan_ok=True)


def test_average_precision_of_ties_by_hand() -> None:
    scores, targets = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([[1], [0], [0], [1]])
    for ties, expected in (("grouped", 5 / 12), ("first", 3 / 4), ("last", 5 / 12)):  # 1/2 (1/3, 1 or 1/3) + 1/2 * 2/4
        assert average_precision(scores, targets, ties=ties)[0] == pytest.approx(expected)  # type: ignore[arg-type]
    # without the second and the fourth: 1/2, 1/1 and 1/2
    ignored = np.array([[False], [True], [False], [True]])
    for ties, expected in (("grouped", 1 / 2), ("first", 1), ("last", 1 / 2)):
        found = average_precision(scores, targets, ignored, ties)  # type: ignore[arg-type]
        assert found[0] == pytest.approx(expected)


@TIES
@FLOATS
@pytest.mark.parametrize("levels", [1, 2, 5, 10**6])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_hits_are_the_definition(ties: Ties, dtype: Any, levels: int, k: int, share: float) -> None:
    scores, targets = make_case(19, 5, levels)
    scores, ignored = scores.astype(dtype), make_ignored(scores.shape, share)
    found = hits_at_k(scores, targets, k, ignored, ties)
    for row, known in enumerate(~ignored):
        assert found.hits[row] == pytest.approx(reference.hits_at_k(scores[row], targets[row], known, k, ties))
        assert found.answers[row] == min(k, known.sum())
        ranked = sorted(scores[row, known], reverse=True)
        assert found.tied[row] == (len(ranked) > k and ranked[k - 1] == ranked[k])


@SIZES
@LEVELS
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_tied_images_without_the_ignored(images: int, labels: int, levels: int, share: float) -> None:
    scores, targets = make_case(images, labels, levels)
    ignored = make_ignored(scores.shape, share)
    for label, value in enumerate(tied_images(scores, targets, ignored)):
        rows = [row for row in range(images) if not ignored[row, label]]
        expected = 0
        for row in rows:
            others = [o for o in rows if scores[o, label] == scores[row, label]]
            expected += any(targets[o, label] != targets[row, label] for o in others)
        assert value == expected


@SIZES
@LEVELS
@FLOATS
def test_confusion_equals_scikit_learn(images: int, labels: int, levels: int, dtype: Any) -> None:
    scores, targets = make_case(images, labels, levels)
    scores, ignored = scores.astype(dtype), make_ignored(scores.shape)
    thresholds = np.random.default_rng(levels).choice(np.unique(scores), labels)  # some scores are just at them
    found = confusion_at_threshold(scores, targets, thresholds, ignored)
    truth, said = targets.astype(bool) & ~ignored, (scores >= thresholds) & ~ignored
    micro = precision_recall_f1(*(int(part.sum()) for part in found))[2]
    assert micro == pytest.approx(f1_score(truth, said, average="micro", zero_division=0))
    shown = truth.any(axis=0)
    np.testing.assert_array_equal(np.isnan(found.f1()), ~shown)
    if shown.any():
        macro = f1_score(truth[:, shown], said[:, shown], average="macro", zero_division=0)
        assert np.nanmean(found.f1()) == pytest.approx(macro)


def test_mean_average_precision_leaves_out_what_is_on_no_image() -> None:
    scores, targets = make_case(101, 13, 10**6)
    targets[:, 4] = 0
    rest = np.arange(13) != 4
    expected = average_precision_score(targets[:, rest], scores[:, rest], average="macro")
    assert mean_average_precision(scores, targets) == pytest.approx(expected)


@pytest.mark.parametrize(("a", "b", "expected"), [(0, 0, 0), (0, 1, 0), (0.5, 0.25, 1 / 3), (1, 1, 1)])
def test_harmonic_mean(a: float, b: float, expected: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(expected)


# --- seen against unseen ---------------------------------------------------------------------------------------------


@FLOATS
@pytest.mark.parametrize(("seen_count", "unseen_count"), [(1, 1), (2, 5), (5, 2), (7, 6)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_curve_is_exact_at_every_bias(dtype: Any, seen_count: int, unseen_count: int, k: int) -> None:
    """Scores are whole numbers, so that biases make seen and unseen labels equal: of those the seen one is first."""
    random = np.random.default_rng([seen_count, unseen_count, k])
    count = seen_count + unseen_count
    scores = np.stack([random.permutation(3 * count)[:count] for _ in range(23)]).astype(dtype)
    targets = random.random(scores.shape) < 0.3
    seen = random.permutation(count) < seen_count
    k = min(k, count)
    curve = seen_unseen_curve(curve_events(scores, targets, seen, k))
    assert (np.diff(curve.bias) > 0).all()
    assert curve.bias[0] == -np.inf
    corners = []
    for bias in np.arange(-3 * count - 1, 3 * count + 2) / 1.0:
        for shift in (0, 0.5):  # where labels are level, and between
            expected = reference.recalls_at_bias(scores, targets, seen, k, bias + shift)
            place = np.searchsorted(curve.bias, bias + shift, side="left") - 1  # from an edge, itself left out
            assert (curve.seen[place], curve.unseen[place]) == pytest.approx(expected)
            corners.append(expected)
    y, x = np.array([(corners[0][0], 0.0), *corners]).T
    assert curve.area == pytest.approx(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


def test_curve_of_two_images_by_hand() -> None:
    """At 1. Image 1: seen a (true) 3 and b 1, unseen c (true) 2 and d 0: a until the bias is 1, then c.

    Image 2: a (true) 1 stands below b (true) 4 always; d (true) 1 above c 0: b until 3, then d.
    """
    scores = np.array([[3.0, 1, 2, 0], [1, 4, 0, 1]])
    targets = np.array([[1, 0, 1, 0], [1, 1, 0, 1]])
    curve = seen_unseen_curve(curve_events(scores, targets, np.array([True, True, False, False]), 1))
    assert curve.bias.tolist() == [-np.inf, 1, 3]
    assert curve.seen == pytest.approx([2 / 3, 1 / 3, 0])
    assert curve.unseen == pytest.approx([0, 1 / 2, 1])
    assert curve.area == pytest.approx(1 / 2 * (2 / 3 + 1 / 3) / 2 + 1 / 2 * (1 / 3 + 0) / 2)


@pytest.mark.parametrize("cuts", [[13], [1, 2, 3], [0, 29, 29]])
def test_blocks_together_are_the_whole(cuts: list[int]) -> None:
    scores, targets = make_case(41, 11, 5)
    seen, ignored, thresholds = np.arange(11) % 3 > 0, make_ignored((41, 11)), np.linspace(-0.3, 0.3, 11)
    parts = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, 41])]
    events = [curve_events(scores[part], targets[part], seen, 3) for part in parts]
    joined = CurveEvents(
        np.concatenate([block.seen_leave for block in events]),
        np.concatenate([block.unseen_come for block in events]),
        sum(block.seen_positives for block in events),
        sum(block.unseen_positives for block in events),
    )
    for a, b in zip(seen_unseen_curve(joined), seen_unseen_curve(curve_events(scores, targets, seen, 3)), strict=True):
        np.testing.assert_array_equal(a, b)
    whole = confusion_at_threshold(scores, targets, thresholds, ignored)
    found = [confusion_at_threshold(scores[part], targets[part], thresholds, ignored[part]) for part in parts]
    np.testing.assert_array_equal(np.sum(found, axis=0), whole)
    hits = [hits_at_k(scores[part], targets[part], 3, ignored[part], "grouped") for part in parts]
    for one, of_all in zip(zip(*hits, strict=True), hits_at_k(scores, targets, 3, ignored, "grouped"), strict=True):
        np.testing.assert_array_equal(np.concatenate(one), of_all)


# --- nothing to count --------------------------------------------------------------------------------------------


@FLOATS
def test_no_images(dtype: Any) -> None:
    scores, targets = np.zeros((0, 3), dtype), np.zeros((0, 3), bool)
    assert np.isnan(average_precision(scores, targets)).tolist() == [True] * 3
    assert tied_images(scores, targets).tolist() == [0, 0, 0]
    assert [len(part) for part in hits_at_k(scores, targets, 2)] == [0, 0, 0]
    assert [part.tolist() for part in confusion_at_threshold(scores, targets, np.zeros(3))] == [[0, 0, 0]] * 3
    curve = seen_unseen_curve(curve_events(scores, targets, np.array([True, True, False]), 2))
    assert (curve.seen.tolist(), curve.unseen.tolist(), curve.area) == ([0], [0], 0)
    with pytest.raises(ValueError, match="expected at least one image"):
        precision_recall_f1_at_k(scores, targets, 1)


@FLOATS
def test_no_labels(dtype: Any) -> None:
    scores, targets = np.zeros((3, 0), dtype), np.zeros((3, 0), bool)
    assert average_precision(scores, targets).shape == (0,)
    assert tied_images(scores, targets).shape == (0,)
    assert confusion_at_threshold(scores, targets, np.zeros(0)).f1().shape == (0,)
    with pytest.raises(ValueError, match="expected 1 <= k <= 0 labels, got k=1"):
        hits_at_k(scores, targets, 1)


@pytest.mark.parametrize("seen", [True, False])
def test_curve_of_one_group_only(seen: bool) -> None:
    scores, targets = make_case(7, 5, 10**6)
    curve = seen_unseen_curve(curve_events(scores, targets, np.full(5, seen), 2))
    hits = hits_at_k(scores, targets, 2).hits.sum() / targets.sum()
    assert ([*curve.seen], [*curve.unseen]) == (([hits], [0]) if seen else ([0], [hits]))
    assert curve.area == 0


@TIES
def test_everything_ignored(ties: Ties) -> None:
    scores, targets = make_case(7, 5, 2, share=1)
    ignored = np.ones(scores.shape, bool)
    assert np.isnan(average_precision(scores, targets, ignored, ties)).all()
    found = hits_at_k(scores, targets, 3, ignored, ties)
    assert (found.hits.sum(), found.answers.sum(), found.tied.any()) == (0, 0, False)
    assert precision_recall_f1_at_k(scores, targets, 3, ignored, ties) == (0, 0, 0)


@pytest.mark.parametrize("targets", [np.full((2, 3), 2), np.full((2, 3), 0.5), np.full((2, 3), -1)])
def test_targets_are_zeros_and_ones(targets: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected targets of 0 and 1 only"):
        hits_at_k(np.zeros((2, 3)), targets, 1)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8])
def test_kinds_of_targets(dtype: Any) -> None:
    scores, targets = make_case(7, 5, 5)
    ignored = make_ignored(scores.shape)
    np.testing.assert_array_equal(
        average_precision(scores, targets.astype(dtype), ignored), average_precision(scores, targets, ignored)
    )
    found = precision_recall_f1_at_k(scores, targets.astype(dtype), 2, ignored)
    assert found == precision_recall_f1_at_k(scores, targets, 2, ignored)


def test_targets_of_floats_beside_ignored_ones() -> None:
    scores, targets = make_case(7, 5, 5)
    ignored = make_ignored(scores.shape)
    found = precision_recall_f1_at_k(scores, targets.astype(float), 2, ignored)
    assert found == precision_recall_f1_at_k(scores, targets, 2, ignored)

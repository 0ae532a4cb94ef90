"""Test zsl_tagger/training/query_augment.py: each augmentation follows its formula, alone and with the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.query_augment import QueryAugment

LABELS, WIDTH, IMAGES = 101, 307, 7  # K labels, d wide
SEED = (5, 13, 2)


def make(**values: Any) -> QueryAugment:
    return QueryAugment(TrainConfig(**values))


def make_vectors() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(LABELS, WIDTH, generator=torch.Generator().manual_seed(0)))


def with_random(augment: QueryAugment, seed: tuple[int, ...] = SEED, own: tuple[int, ...] = (*SEED, 0)) -> Any:
    """Add random queries to the vectors of all labels, with targets 0 and weights 2."""
    targets = torch.zeros(IMAGES, LABELS)
    return augment.with_random(make_vectors(), targets, torch.full_like(targets, 2.0), seed, own)


# --- queries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_noise_has_length_s_and_differs_between_queries(share: float) -> None:
    vectors = make_vectors()
    noise = make(query_noise=share).queries(vectors, SEED) - vectors
    # ||z|| / sqrt(d) has mean 1 and a standard deviation of 1 / sqrt(2 d) = 0.04
    lengths = noise.norm(dim=1)
    assert_close(lengths.mean(), torch.tensor(share), rtol=0.02, atol=0)
    assert ((lengths - share).abs() < 5 * 0.041 * share).all()
    directions = torch.nn.functional.normalize(noise)
    crossed = (directions @ directions.T).fill_diagonal_(0)
    assert crossed.abs().max() < 6 / WIDTH**0.5  # as random directions are
    assert (directions @ vectors.T).abs().max() < 6 / WIDTH**0.5


def test_noise_scales_with_s() -> None:
    """Check that noise with twice the scale is the same noise, twice as long: the formula is linear in s."""
    vectors = make_vectors()
    once, twice = (make(query_noise=share).queries(vectors, SEED) - vectors for share in (0.25, 0.5))
    assert_close(twice, 2 * once, atol=1e-6, rtol=1e-4)


def test_random_queries_have_unit_length_and_random_directions() -> None:
    vectors = make_vectors()
    queries, _, _ = with_random(make(random_queries=53))
    assert queries.shape == (LABELS + 53, WIDTH)
    assert torch.equal(queries[:LABELS], vectors)
    drawn = queries[LABELS:]
    assert_close(drawn.norm(dim=1), torch.ones(53))
    assert (drawn @ drawn.T).fill_diagonal_(0).abs().max() < 6 / WIDTH**0.5
    assert_close(drawn.square().mean(), torch.tensor(1 / WIDTH))
    assert drawn.mean(dim=0).norm() < 2 / 53**0.5  # they point nowhere in common


def test_unit_noise_keeps_the_length_of_the_query() -> None:
    vectors = make_vectors()
    free, unit = (make(query_noise=0.5, query_noise_unit=unit).queries(vectors, SEED) for unit in (False, True))
    assert_close(unit.norm(dim=1), torch.ones(LABELS))
    assert_close(unit, free / free.norm(dim=1, keepdim=True))
    # noise is nearly orthogonal to the word, so the cosine is 1 / sqrt(1 + s^2)
    assert_close((unit * vectors).sum(dim=1).mean(), torch.tensor(1 / 1.25**0.5), rtol=0.02, atol=0)


@pytest.mark.parametrize("value", [1.0, 0.0, 0.25])
@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_target_and_weight_of_random_queries(value: float, weight: float) -> None:
    augment = make(random_queries=3, random_query_target=value, random_query_weight=weight)
    _, targets, weights = with_random(augment)
    assert torch.equal(targets, torch.cat([torch.zeros(IMAGES, LABELS), torch.full((IMAGES, 3), value)], dim=1))
    assert_close(weights, torch.cat([torch.full((IMAGES, LABELS), 2.0), torch.full((IMAGES, 3), weight)], dim=1))


def test_random_queries_per_image_have_weight_0_on_other_images() -> None:
    queries, targets, weights = with_random(make(random_queries=3, random_queries_per="image"))
    count = IMAGES * 3
    assert queries.shape == (LABELS + count, WIDTH)
    assert targets.shape == weights.shape == (IMAGES, LABELS + count)
    assert torch.unique(queries[LABELS:], dim=0).shape[0] == count  # others for each image
    for image in range(IMAGES):
        own = weights[image, LABELS:].nonzero().flatten()
        assert own.tolist() == [3 * image, 3 * image + 1, 3 * image + 2]


def test_processes_share_random_queries_per_batch_but_not_per_image() -> None:
    for per, same in (("batch", True), ("image", False)):
        augment = make(random_queries=3, random_queries_per=per)
        first, second = (with_random(augment, SEED, (*SEED, process))[0] for process in (0, 1))
        assert torch.equal(first, second) == same
        assert not torch.equal(first, with_random(augment, (*SEED, 1), (*SEED, 0, 1))[0])  # another step


def test_defaults_change_nothing() -> None:
    vectors = make_vectors()
    before = vectors.clone()
    augment = make()
    assert torch.equal(augment.queries(vectors, SEED), before)
    queries, targets, weights = with_random(augment)
    assert torch.equal(queries, before)
    assert torch.equal(targets, torch.zeros(IMAGES, LABELS))
    assert torch.equal(weights, torch.full((IMAGES, LABELS), 2.0))
    np.testing.assert_array_equal(augment.labels(np.array([3]), LABELS, SEED), np.arange(LABELS))


def test_word_vectors_are_not_modified() -> None:
    vectors = make_vectors()
    before = vectors.clone()
    make(query_noise=0.5, query_noise_unit=True).queries(vectors, SEED)
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_queries_keep_the_dtype_of_the_vectors(dtype: torch.dtype) -> None:
    augment, ones = make(query_noise=0.1, random_queries=3), torch.ones(IMAGES, LABELS)
    noisy = augment.queries(make_vectors().to(dtype), SEED)
    assert noisy.dtype == augment.with_random(noisy, ones, ones, SEED, SEED)[0].dtype == dtype


# --- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.2, 0.7])
def test_query_dropout_drops_a_share_p_of_the_labels(chance: float) -> None:
    augment, kept = make(query_dropout=chance), np.zeros(LABELS)
    steps = 211
    for step in range(steps):
        chosen = augment.labels(np.array([3]), LABELS, (5, step, 1))
        assert (np.diff(chosen) > 0).all()
        kept[chosen] += 1
    spread = (chance * (1 - chance) / steps) ** 0.5
    assert kept.mean() / steps == pytest.approx(1 - chance, abs=5 * spread / LABELS**0.5)
    assert np.abs(kept / steps - (1 - chance)).max() < 5 * spread  # every label as often as any other


def test_at_least_one_label_remains() -> None:
    for step in range(5):
        assert make(query_dropout=1.0).labels(np.array([3]), 7, (0, step)).tolist() == [0]


@pytest.mark.parametrize("most", [2, 13, 53, 100])
def test_labels_per_step_prefers_labels_on_the_images(most: int) -> None:
    positives = np.array([2, 3, 31, 59, 97])
    for step in range(11):
        chosen = make(labels_per_step=most).labels(positives, LABELS, (5, step, 1))
        assert len(chosen) == most
        assert (np.diff(chosen) > 0).all()
        assert len(np.intersect1d(chosen, positives)) == min(most, len(positives))


@pytest.mark.parametrize(("share", "positives"), [(0.0, 20), (0.25, 15), (1.0, 0)])
def test_negative_share_reserves_labels_that_are_on_no_image(share: float, positives: int) -> None:
    on_images = np.arange(30)
    augment = make(labels_per_step=20, negative_share=share, negative_weight=2.5)
    kept = augment.labels(on_images, LABELS, (1, 2))
    assert len(kept) == 20
    assert np.isin(kept, on_images).sum() == positives
    weights = augment.label_weights(kept, on_images)
    assert weights is not None
    assert weights.tolist() == [1.0 if label < 30 else 2.5 for label in kept]
    assert make(labels_per_step=20).label_weights(kept, on_images) is None


def test_labels_per_step_draws_other_labels_uniformly() -> None:
    positives, counted = np.array([2, 3, 31]), np.zeros(LABELS)
    for step in range(400):
        counted[make(labels_per_step=31).labels(positives, LABELS, (5, step, 1))] += 1
    assert (counted[positives] == 400).all()
    others = np.delete(counted, positives) / 400
    assert others.mean() == pytest.approx(28 / 98)
    assert np.abs(others - 28 / 98).max() < 5 * (28 / 98 * 70 / 98 / 400) ** 0.5


def test_positives_are_drawn_uniformly_if_there_are_too_many() -> None:
    seen = {tuple(make(labels_per_step=2).labels(np.arange(11, 16), 53, (5, step, 1))) for step in range(97)}
    assert {label for pair in seen for label in pair} == set(range(11, 16))


@pytest.mark.parametrize("most", [LABELS, LABELS + 1, 10**6])
def test_limit_above_the_number_of_labels_changes_nothing(most: int) -> None:
    np.testing.assert_array_equal(make(labels_per_step=most).labels(np.array([3]), LABELS, SEED), np.arange(LABELS))


def test_dropped_labels_stay_out_even_if_on_an_image() -> None:
    """Dropout comes first: a dropped label is not used even if an image of the step shows it."""
    positives = np.arange(LABELS)[::2]
    dropped = make(query_dropout=0.5).labels(positives, LABELS, SEED)
    both = make(query_dropout=0.5, labels_per_step=13).labels(positives, LABELS, SEED)
    assert set(both) <= set(dropped)
    assert len(both) == 13
    assert set(both) <= set(positives)


@given(
    count=st.integers(1, 40), most=st.none() | st.integers(1, 50), chance=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    step=st.integers(0, 999), data=st.data(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_labels_are_sorted_and_distinct(
    count: int, most: int | None, chance: float, step: int, data: st.DataObject
) -> None:
    positives = np.array(data.draw(st.lists(st.integers(0, count - 1), unique=True)), np.int64)
    chosen = make(query_dropout=chance, labels_per_step=most).labels(positives, count, (7, step))
    assert chosen.dtype == np.int64
    assert 1 <= len(chosen) <= (most or count)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert 0 <= chosen[0] <= chosen[-1] < count


# --- seeds ------------------------------------------------------------------------------------------------

SETTINGS = pytest.mark.parametrize(
    "values",
    [
        {"query_noise": 0.1},
        {"random_queries": 3},
        {"query_dropout": 0.5},
        {"labels_per_step": 13},
        {"query_noise": 0.1, "random_queries": 3, "query_dropout": 0.5, "labels_per_step": 13},
    ],
    ids=["noise", "random", "dropout", "limit", "together"],
)


def drawn(values: dict[str, Any], seed: tuple[int, ...]) -> tuple[list[int], Tensor]:
    augment = make(**values)
    chosen = augment.labels(np.array([3, 5]), LABELS, (*seed, 1))
    queries = augment.queries(make_vectors()[chosen], (*seed, 2))
    zeros = torch.zeros(IMAGES, len(chosen))
    return chosen.tolist(), augment.with_random(queries, zeros, zeros, (*seed, 4), (*seed, 4, 0, 0))[0]


@SETTINGS
def test_results_depend_on_the_seed_only(values: dict[str, Any]) -> None:
    """They do not depend on earlier calls or on global generators."""
    first_labels, first_queries = drawn(values, (5, 13))
    torch.manual_seed(99)
    np.random.seed(99)
    drawn(values, (5, 14))
    again_labels, again_queries = drawn(values, (5, 13))
    assert again_labels == first_labels
    assert torch.equal(again_queries, first_queries)


@SETTINGS
@pytest.mark.parametrize("other", [(5, 14), (6, 13)], ids=["next step", "another run"])
def test_another_seed_gives_another_result(values: dict[str, Any], other: tuple[int, int]) -> None:
    labels, queries = drawn(values, (5, 13))
    other_labels, other_queries = drawn(values, other)
    assert labels != other_labels or not torch.equal(queries, other_queries)


def test_global_generators_are_not_used() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    drawn({"query_noise": 0.1, "random_queries": 3, "query_dropout": 0.5, "labels_per_step": 13}, (5, 13))
    after = torch.rand(3), np.random.random(3)
    torch.manual_seed(7)
    np.random.seed(7)
    assert torch.equal(after[0], torch.rand(3))
    np.testing.assert_array_equal(after[1], np.random.random(3))

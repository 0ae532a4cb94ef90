"""Test zsl_tagger/training/data.py: the data that training may use, and the images of each step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_runs import dataset_of

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import (
    LoadedPart,
    Part,
    Schedule,
    Targets,
    TrainingImages,
    image_loader,
    parts,
    split_for_training,
)

# --- what is trained --------------------------------------------------------------------------------------

#: Several labels an image; "lion" is unseen, "owl" and "yak" are on no training image.
SHOWN = ["sky tree", "dog", "", "sky", "lion", "owl tree", "dog lion sky", "tree"]
SPLITS = ["train", "train", "train", "train", "test", "val", "test", "train"]


def test_unseen_labels_and_labels_without_images_are_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, SHOWN, SPLITS, unseen="lion", more="yak")
    split = split_for_training(dataset, TrainConfig())
    assert dataset.labels == ("dog", "lion", "owl", "sky", "tree", "yak")
    assert split.labels == ("dog", "sky", "tree")
    assert split.columns.tolist() == [0, 3, 4]
    expected = np.stack([row / math.sqrt(sum(row**2)) for row in dataset.word_vectors[[0, 3, 4]].astype(float)])
    np.testing.assert_allclose(split.vectors, expected, rtol=1e-6)
    assert split.vectors.dtype == np.float32
    assert split.train.tolist() == [0, 1, 2, 3, 7]  # an image without a label teaches what is on none
    assert split.val.tolist() == [5]
    assert (split.held_out, split.held_out_columns.tolist()) == ((), [])
    assert split.notes == ["2 seen labels have no training image and are left out: owl, yak"]


def test_long_lists_of_labels_are_shortened(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, SHOWN, SPLITS, unseen="lion", more="yak asp bee cow")
    (note,) = split_for_training(dataset, TrainConfig()).notes
    assert note == "5 seen labels have no training image and are left out: asp, bee, cow, ..."


def test_no_notes(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["sky", "dog sky", "lion"], ["train", "train", "test"], unseen="lion")
    assert split_for_training(dataset, TrainConfig()).notes == []


def test_unseen_label_on_a_training_image_is_ignored(tmp_path: Path) -> None:
    """Use the image without the label, which data folders from other programs may have."""
    dataset = dataset_of(tmp_path, ["sky lion", "dog", "sky"], ["train"] * 3, unseen="lion")
    split = split_for_training(dataset, TrainConfig())
    assert split.labels == ("dog", "sky")
    assert split.train.tolist() == [0, 1, 2]
    assert Targets(dataset, split.columns).matrix(split.train).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_image_with_only_an_unseen_label_is_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["lion", "dog", "sky"], ["train"] * 3, unseen="lion")
    assert split_for_training(dataset, TrainConfig()).train.tolist() == [1, 2]


def single_label(folder: Path, classes: int = 10, images: int = 7) -> Any:
    names = [f"c{number}" for number in range(classes)]
    shown = [name for name in names for _ in range(images)]
    return dataset_of(folder, shown, (["train"] * (images - 2) + ["val", "test"]) * classes)


@pytest.mark.parametrize(("share", "held_out"), [(0.3, 3), (0.01, 1), (0.26, 3), (0.8, 8)])
def test_holdout_of_single_label_data(tmp_path: Path, share: float, held_out: int) -> None:
    """Images of held-out labels move from training to validation."""
    dataset = single_label(tmp_path)
    split = split_for_training(dataset, TrainConfig(holdout_labels=share))
    assert len(split.held_out) == held_out
    assert sorted(split.labels + split.held_out) == list(dataset.labels)
    assert [dataset.labels[column] for column in split.held_out_columns] == list(split.held_out)
    assert [dataset.labels[column] for column in split.columns] == list(split.labels)
    of = [dataset.labels[int(indices[0])] for indices in dataset.label_indices]
    in_train = {row for row in range(70) if dataset.splits[row] == "train"}
    hidden = {row for row in in_train if of[row] in split.held_out}
    assert split.train.tolist() == sorted(in_train - hidden)
    assert sorted(split.val.tolist()) == sorted({*np.flatnonzero(dataset.splits == "val").tolist(), *hidden})


def test_holdout_of_multi_label_data(tmp_path: Path) -> None:
    """Its images stay for their other labels; the held-out label is in no target."""
    shown = [f"a{number} b{number % 5}" for number in range(11)]
    dataset = dataset_of(tmp_path, [*shown, "a1 b1"], ["train"] * 11 + ["val"])
    split = split_for_training(dataset, TrainConfig(holdout_labels=0.25))
    assert len(split.held_out) == 4
    assert not set(split.labels) & set(split.held_out)
    assert split.train.tolist() == list(range(11))
    assert split.val.tolist() == [11]
    targets = Targets(dataset, split.columns).matrix(split.train)
    for row in range(11):
        assert [split.labels[place] for place in np.flatnonzero(targets[row])] == [
            label for label in sorted(shown[row].split()) if label not in split.held_out
        ]


def test_held_out_labels_are_drawn_by_the_seed(tmp_path: Path) -> None:
    dataset = single_label(tmp_path)
    drawn = [split_for_training(dataset, TrainConfig(holdout_labels=0.3, seed=seed)).held_out for seed in range(11)]
    again = [split_for_training(dataset, TrainConfig(holdout_labels=0.3, seed=seed)).held_out for seed in range(11)]
    assert drawn == again
    assert len(set(drawn)) > 5


def test_unseen_labels_are_not_held_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["a b", "c d", "e"], ["train", "train", "test"], unseen="e", more="f")
    split = split_for_training(dataset, TrainConfig(holdout_labels=0.5))
    assert len(split.held_out) == 2  # of four that have an image
    assert not {"e", "f"} & {*split.held_out, *split.labels}


@pytest.mark.parametrize(
    ("shown", "splits", "share", "message"),
    [
        (["sky", "dog"], ["val", "test"], 0.0, "has no image of the split train: nothing to train on"),
        (["sky", "sky", "dog"], ["train", "train", "val"], 0.0, "expected at least 2 labels .*, got 1: a tagger"),
        (["", ""], ["train", "train"], 0.0, "expected at least 2 labels with training images, got 0"),
        (["sky", "dog"], ["train", "train"], 0.4, "expected at least 2 labels with training images, got 1"),
        (["sky", "dog", "a", "b"], ["train"] * 4, 1.0, "expected at least 2 labels with training images, got 0"),
    ],
)
def test_nothing_to_train_on(tmp_path: Path, shown: list[str], splits: list[str], share: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_for_training(dataset_of(tmp_path, shown, splits), TrainConfig(holdout_labels=share))


# --- targets ----------------------------------------------------------------------------------------------


def test_targets_equal_a_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    names = [f"n{number:02d}" for number in range(23)]
    shown = [" ".join(name for name in names if random.random() < 0.2) for _ in range(31)]
    dataset = dataset_of(tmp_path, shown, ["train"] * 31)
    columns = np.sort(random.permutation(len(dataset.labels))[:13])
    trained = [dataset.labels[column] for column in columns]
    rows = random.integers(0, 31, 47)
    targets = Targets(dataset, columns)
    expected = [[float(name in shown[row].split()) for name in trained] for row in rows]
    assert targets.matrix(rows).tolist() == expected
    assert targets.matrix(rows).dtype == np.float32
    for row in range(31):
        places = [place for place, name in enumerate(trained) if name in shown[row].split()]
        assert sorted(targets.positives_of(row)) == places
    assert targets.positives(rows[:5]).tolist() == [
        place for place, name in enumerate(trained) if any(name in shown[row].split() for row in rows[:5])
    ]


def test_images_without_labels_have_no_positives(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["", "a", "b"], ["train"] * 3)
    positives = Targets(dataset, np.array([0, 1])).positives(np.array([0, 0]))
    assert positives.tolist() == []
    assert positives.dtype == np.int64


# --- the schedule -----------------------------------------------------------------------------------------

ROWS = np.arange(3, 3 + 2 * 103, 2)  # 103 images, none of which is its own place


def schedule_of(rows: np.ndarray = ROWS, **values: Any) -> Schedule:
    return Schedule(rows, TrainConfig(**{"batch_size": 7, "epochs": 3, **values}))


def epochs_of(schedule: Schedule) -> list[list[int]]:
    """Return the images of each epoch, in order."""
    per_epoch = schedule.steps_per_epoch
    batches = [schedule.batch(step).tolist() for step in range(schedule.steps)]
    return [list(chain(*batches[start : start + per_epoch])) for start in range(0, len(batches), per_epoch)]


def test_epoch_shows_each_image_at_most_once() -> None:
    schedule = schedule_of()
    assert (schedule.steps_per_epoch, schedule.steps) == (14, 42)
    for shown in epochs_of(schedule):
        assert len(shown) == len(set(shown)) == 14 * 7
        assert set(shown) <= set(ROWS.tolist())


def test_epochs_are_shuffled_differently() -> None:
    """Different images are left over in each epoch."""
    first, second, third = epochs_of(schedule_of())
    assert first != second != third
    assert first != sorted(first)
    assert len({frozenset(epoch) for epoch in (first, second, third)}) == 3
    (whole,) = epochs_of(schedule_of(ROWS[:21], epochs=1))
    assert sorted(whole) == ROWS[:21].tolist()


@pytest.mark.parametrize("repeats", [1, 3])
def test_batch_depends_on_seed_and_step_only(repeats: int) -> None:
    """A resumed run shows the same images as an uninterrupted one."""
    schedule = schedule_of(repeats=repeats)
    batches = [schedule.batch(step).tolist() for step in range(schedule.steps)]
    torch.manual_seed(99)
    np.random.seed(99)
    for step in np.random.default_rng(0).permutation(schedule.steps).tolist():
        assert schedule.batch(step).tolist() == batches[step]
        assert schedule_of(repeats=repeats).batch(step).tolist() == batches[step]
    assert schedule_of(repeats=repeats, seed=1).batch(0).tolist() != batches[0]


@pytest.mark.parametrize(
    ("images", "values"),
    [(1, {}), (5, {}), (5, {"repeats": 3}), (2, {"repeats": 3}), (7, {}), (11, {"min_epoch_steps": 5}),
     (11, {"min_epoch_steps": 5, "repeats": 3})],
)  # fmt: skip
def test_few_images_are_repeated(images: int, values: dict[str, Any]) -> None:
    schedule = schedule_of(ROWS[:images], **values)
    assert schedule.steps_per_epoch == values.get("min_epoch_steps", 1)
    for shown in epochs_of(schedule):
        assert len(shown) == 7 * schedule.steps_per_epoch
        assert set(shown) <= set(ROWS[:images].tolist())
        if "repeats" not in values:  # in turn
            counts = Counter(shown)
            assert set(counts.values()) <= {len(shown) // images, -(-len(shown) // images)}


def test_incomplete_last_batch_is_kept_or_dropped() -> None:
    """103 images, 7 per step: 14 full batches and 5 images, as in torch's DataLoader."""
    kept = schedule_of(drop_last=False)
    assert (kept.steps_per_epoch, kept.steps) == (15, 45)
    assert [len(kept.batch(step)) for step in range(30)] == 2 * ([7] * 14 + [5])
    for shown in epochs_of(kept):
        assert sorted(shown) == ROWS.tolist()
    assert schedule_of(ROWS[:21], drop_last=False).steps_per_epoch == 3
    few = schedule_of(ROWS[:5], drop_last=False)
    assert [len(few.batch(step)) for step in range(few.steps)] == [5, 5, 5]
    repeated = schedule_of(ROWS[:11], drop_last=False, min_epoch_steps=5)
    assert [len(repeated.batch(step)) for step in range(5)] == [7] * 5
    assert len(schedule_of(ROWS[:11], drop_last=False, min_epoch_steps=2).batch(1)) == 4
    mosaics = schedule_of(drop_last=False, mosaic4=0.5, freeze=True, cache_views=1)
    assert mosaics.batch(14).shape == (5, 9)


def test_cooldown_epochs_are_scheduled() -> None:
    assert schedule_of(schedule="timm_cosine", cooldown_epochs=2).steps == 14 * 5


def test_min_epoch_steps_is_a_minimum() -> None:
    assert schedule_of(min_epoch_steps=13).steps_per_epoch == 14
    assert schedule_of(min_epoch_steps=17).steps_per_epoch == 17


def test_repeats_show_fewer_images_more_often() -> None:
    """Hoffer et al. 2020 as in timm: epochs have the same length, and draws of an image are consecutive."""
    for shown in epochs_of(schedule_of(repeats=3)):
        assert len(shown) == 14 * 7
        counts = Counter(shown)
        assert set(counts.values()) <= {2, 3}  # the last one's draws may be cut
        assert len(counts) == -(-14 * 7 // 3)
        assert len(set(shown[:3])) == 1


def test_repeats_cover_all_images_eventually() -> None:
    seen = {row for shown in epochs_of(schedule_of(repeats=3, epochs=31)) for row in shown}
    assert seen == set(ROWS.tolist())


@given(
    images=st.integers(1, 60), batch=st.integers(1, 13), repeats=st.integers(1, 4), least=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_every_batch_is_full(images: int, batch: int, repeats: int, least: int, seed: int) -> None:
    schedule = schedule_of(ROWS[:images], batch_size=batch, repeats=repeats, min_epoch_steps=least, seed=seed, epochs=2)
    assert schedule.steps == 2 * max(least, images // batch)
    for step in range(schedule.steps):
        shown = schedule.batch(step)
        assert shown.shape == (batch,)
        assert np.isin(shown, ROWS[:images]).all()


# --- parts ------------------------------------------------------------------------------------------------


@given(
    processes=st.integers(1, 7), accumulate=st.integers(1, 5), share=st.integers(1, 3), more=st.integers(0, 6),
    first=st.integers(0, 6),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_parts_make_up_the_step(processes: int, accumulate: int, share: int, more: int, first: int) -> None:
    """Also if their sizes differ (``more``)."""
    batch = accumulate * (processes * share + more)
    schedule = schedule_of(batch_size=batch, accumulate=accumulate, epochs=2, min_epoch_steps=3)
    of_process = [list(parts(schedule, first, rank, processes)) for rank in range(processes)]
    for mine in of_process:
        steps = [part.step for part in mine]
        assert steps == [step for step in range(first, schedule.steps) for _ in range(accumulate)]
    for step in range(first, schedule.steps):
        these = [part for mine in of_process for part in mine if part.step == step]
        places = np.concatenate([part.places for part in these])
        assert sorted(places.tolist()) == list(range(batch))
        whole = schedule.batch(step)
        for part in these:
            assert part.rows.tolist() == whole[part.places].tolist()
        if more == 0:
            assert {len(part.rows) for part in these} == {share}


def test_short_batch_is_divided_among_processes() -> None:
    schedule = schedule_of(drop_last=False)
    last = [part.rows for rank in range(3) for part in parts(schedule, 14, rank, 3) if part.step == 14]
    assert sorted(len(rows) for rows in last) == [1, 2, 2]
    assert sorted(np.concatenate(last).tolist()) == sorted(schedule.batch(14).tolist())


@pytest.mark.parametrize(("processes", "accumulate"), [(3, 1), (3, 5), (5, 3)])
def test_draws_of_an_image_go_to_different_processes(processes: int, accumulate: int) -> None:
    schedule = schedule_of(batch_size=45, accumulate=accumulate, repeats=3)
    for step in range(schedule.steps):
        owners: dict[int, list[int]] = {}
        for rank in range(processes):
            for part in parts(schedule, step, rank, processes):
                if part.step == step:
                    for row in part.rows.tolist():
                        owners.setdefault(row, []).append(rank)
        assert all(len(set(ranks)) == len(ranks) for ranks in owners.values())


# --- reading ----------------------------------------------------------------------------------------------

SIZE, COUNT = 13, 29
READ_ROWS = np.arange(2, COUNT, 2)  # 14 of the 29 are training images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(5)
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (17, 19, 3), np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def images_of(root: Path, broken: Collection[int] = (), **values: Any) -> TrainingImages:
    paths = [f"{number:03d}.png" if number not in broken else f"none{number}.png" for number in range(COUNT)]
    config = TrainConfig(**{"image_size": SIZE, "flip": 0.0, **values})
    return TrainingImages(root, paths, READ_ROWS, config)


def part_of(rows: list[int]) -> Part:
    return Part(7, np.array(rows), np.arange(len(rows)))


def test_parts_are_read_in_order(root: Path) -> None:
    shown = images_of(root)[part_of([8, 2, 28, 2])]
    assert shown.inputs.dtype == torch.uint8
    expected = np.stack([load_array(root / f"{row:03d}.png", Preprocessing(SIZE)) for row in (8, 2, 28, 2)])
    np.testing.assert_array_equal(shown.inputs.numpy(), expected)
    assert shown.rows.tolist() == [8, 2, 28, 2]
    assert shown.faults == []
    assert shown.part.step == 7


def test_pixels_depend_on_the_position_in_the_batch_only(root: Path) -> None:
    """So that more processes or accumulation give the same result."""
    images = images_of(root, flip=0.5, crop="random")
    whole = images[Part(7, np.array([8, 2, 28, 4, 6]), np.arange(5))]
    for places in ([0, 2, 4], [1, 3]):
        part = images[Part(7, np.array([8, 2, 28, 4, 6])[places], np.array(places))]
        assert torch.equal(part.inputs, whole.inputs[places])
    twice = images[Part(7, np.array([8] * 11), np.arange(11))].inputs
    assert len({pixels.numpy().tobytes() for pixels in twice}) > 5  # draws of an image differ
    other = images[Part(8, np.array([8, 2, 28, 4, 6]), np.arange(5))]
    assert not torch.equal(other.inputs, whole.inputs)


@pytest.mark.parametrize(
    ("broken", "row", "instead", "faults"),
    [({8}, 8, 10, [8]), ({8, 10, 12}, 8, 14, [8, 10, 12]), ({28}, 28, 2, [28]), ({26, 28, 2}, 26, 4, [26, 28, 2])],
)
def test_an_unreadable_image_is_replaced_and_reported(
    root: Path, broken: set[int], row: int, instead: int, faults: list[int]
) -> None:
    shown = images_of(root, broken)[part_of([6, row, 16])]
    assert shown.rows.tolist() == [6, instead, 16]  # the targets are made of these
    np.testing.assert_array_equal(shown.inputs[1].numpy(), load_array(root / f"{instead:03d}.png", Preprocessing(SIZE)))
    assert shown.faults == [(number, "no such file") for number in faults]


@pytest.mark.parametrize("workers", [0, 2])
def test_only_unreadable_images(root: Path, workers: int) -> None:
    images = images_of(root, set(range(COUNT)))
    message = r"14 consecutive images cannot be read, the first is .*none8.png \(no such file\): check --images"
    with pytest.raises(UserError, match=message):
        next(image_loader(images, iter([part_of([8])]), workers))


def test_error_in_a_worker_is_one_line(root: Path) -> None:
    images = images_of(root, set(range(COUNT)))
    with pytest.raises(UserError, match="consecutive images") as caught:
        next(image_loader(images, iter([part_of([8])]), 2))
    assert "Traceback" not in str(caught.value)


def same(one: LoadedPart, other: LoadedPart) -> bool:
    return (
        torch.equal(one.inputs, other.inputs)
        and one.rows.tolist() == other.rows.tolist()
        and one.faults == other.faults
        and (one.part.step, one.part.places.tolist()) == (other.part.step, other.part.places.tolist())
    )


def test_workers_change_nothing(root: Path) -> None:
    images = images_of(root, {8}, flip=0.5, crop="random", cutout=0.3)
    schedule = Schedule(READ_ROWS, TrainConfig(accumulate=3, batch_size=6, epochs=2))
    shown = [list(image_loader(images, parts(schedule, 1, 0, 1), workers)) for workers in (0, 2)]
    assert len(shown[0]) == len(shown[1]) == (schedule.steps - 1) * 3
    assert all(same(one, other) for one, other in zip(*shown, strict=True))
    assert any(one.faults for one in shown[0])

"""Choose the images of each step and read them in worker processes, in a reproducible order."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.training.augment import Augment
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.words.table import unit_length

#: Give up after this many consecutive unreadable images.
MAX_UNREADABLE = 20


@dataclass(frozen=True)
class Split:
    """The part of a data set that training may use.

    Attributes:
        labels: names of the K trained labels, sorted.
        columns: int64 ``(K,)``, their indices among all labels of the data set.
        vectors: float32 ``(K, word_dim)``, unit length.
        held_out: names of seen labels left out of training (``holdout_labels``).
        held_out_columns: int64, their indices among all labels of the data set.
        train, val: int64, indices of the data set's images.
        notes: messages for the user, for example about labels without images.
    """

    labels: tuple[str, ...]
    columns: np.ndarray
    vectors: np.ndarray
    held_out: tuple[str, ...]
    held_out_columns: np.ndarray
    train: np.ndarray
    val: np.ndarray
    notes: list[str] = field(default_factory=list)


def split_for_training(dataset: PreparedDataset, config: TrainConfig) -> Split:
    """Select the labels and images to train on: seen labels with images in the train split, and those images.

    Unseen labels and those held out by ``holdout_labels`` are removed here, with their vectors and annotations, so the
    loss cannot depend on them. In single-label data their images are removed too: images of held-out labels move to
    validation.

    Raises:
        UserError: there is nothing to train on.
    """
    rows = dataset.rows("train")
    if not len(rows):
        raise UserError(f"{dataset.folder} has no image of the split train: nothing to train on")
    positives = dataset.images_per_label("train")
    notes = []
    unusable = np.flatnonzero(dataset.seen & (positives == 0))
    if len(unusable):
        notes.append(f"{len(unusable)} seen labels have no training image and are left out: {_some(dataset, unusable)}")
    usable = np.flatnonzero(dataset.seen & (positives > 0))
    held = np.sort(_draw_held_out(usable, config))
    trained = np.setdiff1d(usable, held)
    if len(trained) < 2:
        raise UserError(
            f"{dataset.folder}: expected at least 2 labels with training images, got {len(trained)}: "
            "a tagger also needs images without a label to learn it"
        )
    single = dataset.single_label
    moved = set(held) if single else set()
    to_val = np.array([not moved.isdisjoint(dataset.label_indices[row]) for row in rows], bool)
    unlabelled = np.array([np.isin(dataset.label_indices[row], trained).sum() == 0 for row in rows], bool) & single
    return Split(
        tuple(dataset.labels[column] for column in trained),
        trained,
        unit_length(dataset.word_vectors[trained]).astype(np.float32),
        tuple(dataset.labels[column] for column in held),
        held,
        rows[~unlabelled],
        np.concatenate([dataset.rows("val"), rows[to_val]]),
        notes,
    )


def _draw_held_out(usable: np.ndarray, config: TrainConfig) -> np.ndarray:
    if not config.holdout_labels:
        return usable[:0]
    count = max(1, round(config.holdout_labels * len(usable)))
    return np.random.default_rng([config.seed, 17]).choice(usable, min(count, len(usable)), replace=False)


def _some(dataset: PreparedDataset, columns: np.ndarray) -> str:
    names = [dataset.labels[column] for column in columns[:3]]
    return ", ".join(names) + (", ..." if len(columns) > 3 else "")


#: Number of photos in the largest mosaic.
MOST_PHOTOS = 9


def mosaic(photos: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the row of a mosaic in a batch: its photos, padded with -1, int64 ``(MOST_PHOTOS,)``."""
    row = np.full(MOST_PHOTOS, -1)
    row[: len(photos)] = photos
    return row


def photos_of(image: np.ndarray) -> np.ndarray:
    """Return the photos of an image in a batch: the image itself, or the photos of a mosaic."""
    return np.atleast_1d(image)[np.atleast_1d(image) >= 0]


class Targets:
    """0/1 targets of images for the trained labels.

    ``rows`` are int64 ``(b,)``, or mosaics ``(b, MOST_PHOTOS)``, which have the labels of all their photos.
    """

    def __init__(self, dataset: PreparedDataset, columns: np.ndarray):
        place = np.full(len(dataset.labels), -1)
        place[columns] = np.arange(len(columns))
        self._count, self._places = len(columns), place
        self._of_image, self._absent = dataset.label_indices, dataset.negative_indices

    def positives_of(self, row: int) -> np.ndarray:
        """Return the trained labels of an image, int64."""
        places = self._places[self._of_image[row]]
        return places[places >= 0]

    def negatives_of(self, row: int) -> np.ndarray:
        """Return the trained labels verified to be absent from an image, int64; empty if labels are complete."""
        places = self._places[self._absent[row] if self._absent is not None else []]
        return places[places >= 0]

    def positives(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of the images, ascending."""
        return np.unique(np.concatenate([self.positives_of(row) for row in rows[rows >= 0]]))

    def annotated(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels that are annotated on any of the images, as present or as absent, ascending.

        Complete labels have no annotated absence.
        """
        negatives = [self.negatives_of(row) for row in rows[rows >= 0]]
        return np.unique(np.concatenate([self.positives(rows), *negatives]))

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets, float32 ``(b, K)``."""
        targets = np.zeros((len(rows), self._count), np.float32)
        for line, image in enumerate(rows):
            for row in photos_of(image):
                targets[line, self.positives_of(row)] = 1.0
        return targets

    def unknown(self, rows: np.ndarray) -> np.ndarray | None:
        """Return 1 for unknown targets and 0 for known ones, float32 ``(b, K)``; None if labels are complete.

        A label is present in a mosaic if it is present in any photo, absent if it is absent from all, else unknown.
        """
        if self._absent is None:
            return None
        unknown = np.ones((len(rows), self._count), np.float32)
        for line, image in enumerate(rows):
            photos = photos_of(image)
            counts = Counter(place for row in photos for place in self.negatives_of(row).tolist())
            for place, absent_from in counts.items():
                unknown[line, place] = absent_from < len(photos)
            for row in photos:
                unknown[line, self.positives_of(row)] = 0.0
        return unknown

    def weights(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """Return None: all targets have the same weight."""
        return None


class PartialTargets:
    """Soft targets with weights, some of them unknown; same interface as :class:`Targets`.

    Args:
        values: float32 ``(N, K)`` in 0..1, by photo and label.
        known: float32 ``(N, K)``, weight in the loss; 0 for unknown targets.
    """

    #: A label is positive in a step if its target times its weight exceeds this on any of the images.
    POSITIVE = 0.3

    def __init__(self, values: np.ndarray, known: np.ndarray):
        self.values, self.known = values, known

    def annotated(self, rows: np.ndarray) -> np.ndarray:
        """Return the same labels as :meth:`positives`."""
        return self.positives(rows)

    def positives(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of the images, ascending."""
        photos = rows[rows >= 0]
        return np.flatnonzero((self.values[photos] * self.known[photos]).max(axis=0) > self.POSITIVE)

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets, float32 ``(b, K)``; a mosaic has the maximum over its photos."""
        return np.stack([self.values[photos_of(image)].max(axis=0) for image in rows])

    def unknown(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """Return None: unknown targets have weight 0 instead."""
        return None

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Return the weights, float32 ``(b, K)``.

        A mosaic has the minimum over its photos, or 1 if one of them shows the label.
        """
        least = np.stack([self.known[photos_of(image)].min(axis=0) for image in rows])
        return np.where(self.matrix(rows) > 0.5, np.float32(1.0), least)


class ImageSchedule(Protocol):
    """Interface of the choice of images in each step; ``zsl-tagger train`` uses :class:`Schedule`."""

    config: TrainConfig
    steps: int
    steps_per_epoch: int

    def batch(self, step: int) -> np.ndarray:
        """Return the images of a step, int64 ``(b,)``; with mosaics ``(b, MOST_PHOTOS)``."""


class Schedule:
    """Choose the images of each step from seed and step only, for any number of processes.

    Args:
        rows: the training images; they are repeated if an epoch needs more.
    """

    def __init__(self, rows: np.ndarray, config: TrainConfig):
        self.rows, self.config = rows, config
        self.steps_per_epoch = max(config.min_epoch_steps, len(rows) // config.batch_size)
        self.images_per_epoch = self.steps_per_epoch * config.batch_size
        if not config.drop_last and len(rows) > (self.steps_per_epoch - 1) * config.batch_size:
            self.steps_per_epoch = -(-len(rows) // config.batch_size)
            self.images_per_epoch = len(rows)
        self.steps = self.steps_per_epoch * (config.epochs + config.cooldown_epochs)
        self._epoch, self._order = -1, rows

    def batch(self, step: int) -> np.ndarray:
        """Return the images of a step, int64 ``(b,)``; with mosaics ``(b, MOST_PHOTOS)``.

        There are ``batch_size`` images, or fewer in the last step of an epoch if ``drop_last`` is off.
        """
        epoch, part = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        size = self.config.batch_size
        photos = self._order[part * size : (part + 1) * size]
        return photos if self.config.layouts == (1,) else self._mosaics(photos, step)

    def _mosaics(self, photos: np.ndarray, step: int) -> np.ndarray:
        """Turn some of the images into mosaics, with random other photos."""
        random = np.random.default_rng([self.config.seed, 37, step])
        counts = draw_layouts(len(photos), self.config.mosaic4, self.config.mosaic9, random)
        return np.stack(
            [mosaic([photo, *random.choice(self.rows, count - 1)]) for photo, count in zip(photos, counts, strict=True)]
        )

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch in order, int64 ``(images_per_epoch,)``."""
        rounds = -(-self.images_per_epoch // len(self.rows))
        if self.config.repeats == 1:
            random = np.random.default_rng([self.config.seed, epoch])
            return np.concatenate([random.permutation(self.rows) for _ in range(rounds)])[: self.images_per_epoch]
        sampler = RepeatAugSampler(
            range(len(self.rows)), num_replicas=1, rank=0, num_repeats=self.config.repeats, selected_round=0
        )
        sampler.set_epoch(self.config.seed * 100_003 + epoch)
        return np.tile(self.rows[list(sampler)], rounds)[: self.images_per_epoch]


def draw_layouts(images: int, mosaic4: float, mosaic9: float, random: np.random.Generator) -> np.ndarray:
    """Draw the number of photos in each image, int64 ``(images,)`` with values 1, 4 and 9."""
    return random.choice([1, 4, 9], images, p=[max(0.0, 1 - mosaic4 - mosaic9), mosaic4, mosaic9])


@dataclass(frozen=True)
class Part:
    """The part of a step's batch that one process computes at a time.

    Attributes:
        rows: its images, int64 ``(b,)`` or mosaics ``(b, MOST_PHOTOS)``.
        places: their positions in the step's batch, int64 ``(b,)``.
    """

    step: int
    rows: np.ndarray
    places: np.ndarray


def parts(schedule: ImageSchedule, first_step: int, rank: int, processes: int) -> Iterator[Part]:
    """Yield the parts of one process from ``first_step`` to the end, ``accumulate`` of them per step.

    Images are dealt out one by one, so repeated draws of an image go to different processes.
    """
    accumulate = schedule.config.accumulate
    for step in range(first_step, schedule.steps):
        batch = schedule.batch(step)
        for turn in range(accumulate):
            places = np.arange(turn * processes + rank, len(batch), accumulate * processes)
            yield Part(step, batch[places], places)


@dataclass(frozen=True)
class LoadedPart:
    """A part with its inputs.

    Attributes:
        inputs: pixels, uint8 ``(b, S, S, 3)``, or features ``(b, L, C)``.
        rows: the images that were read; they differ from those of ``part`` if some were unreadable.
        faults: unreadable images and the reasons.
    """

    part: Part
    inputs: Tensor
    rows: np.ndarray
    faults: list[tuple[int, str]]


class TrainingImages(Dataset):
    """Read and augment the images of a part in a worker process, and replace unreadable images."""

    def __init__(self, root: Path, paths: Sequence[str], rows: np.ndarray, config: TrainConfig):
        self.root, self.paths, self.rows = root, paths, rows
        self.augment, self.seed = Augment(config), config.seed

    def __getitem__(self, part: Part) -> LoadedPart:
        read = [
            self._read(row, (self.seed, part.step, place)) for row, place in zip(part.rows, part.places, strict=True)
        ]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _, _ in read]))  # (b, S, S, 3)
        rows = np.array([row for _, row, _ in read])
        return LoadedPart(part, pixels, rows, [fault for _, _, faults in read for fault in faults])

    def _read(self, row: int, seed: tuple[int, ...]) -> tuple[np.ndarray, int, list[tuple[int, str]]]:
        faults: list[tuple[int, str]] = []
        place = int(np.searchsorted(self.rows, row))
        for shift in range(min(MAX_UNREADABLE, len(self.rows))):
            other = int(self.rows[(place + shift) % len(self.rows)])
            try:
                return self.augment(self.root / self.paths[other], tuple(map(int, seed))), other, faults
            except ImageError as error:
                faults.append((other, str(error)))
        raise UserError(
            f"{len(faults)} consecutive images cannot be read, the first is {self.root / self.paths[faults[0][0]]} "
            f"({faults[0][1]}): check --images"
        )


def image_loader(images: TrainingImages, ordered: Iterator[Part], workers: int) -> Generator[LoadedPart, None, None]:
    """Yield the parts in order while worker processes read ahead.

    Raises:
        UserError: too many consecutive images cannot be read.
    """
    loader: DataLoader[LoadedPart] = DataLoader(
        images,
        sampler=_Ordered(ordered),
        batch_size=None,  # each part is a batch
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        collate_fn=None,
        worker_init_fn=leave_signals_to_parent,
    )
    try:
        yield from read_all(loader)
    except UserError as error:  # torch puts the worker's traceback before the message
        raise UserError(str(error).rstrip().splitlines()[-1].rpartition("UserError: ")[2]) from None


def read_all(loader: DataLoader) -> Generator[Any, None, None]:
    """Yield the batches of a loader, and end its processes when the generator is closed.

    Torch only ends them when nothing refers to them, but the traceback of an error may keep a reference.
    """
    reader = iter(loader)
    try:
        yield from reader
    finally:
        if loader.num_workers:
            reader._shutdown_workers()  # type: ignore[attr-defined]


def leave_signals_to_parent(worker: int) -> None:  # noqa: ARG001
    """Ignore Ctrl-C, which a terminal sends to all processes: the step to be saved still needs the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Ordered:
    def __init__(self, ordered: Iterator[Part]):
        self.ordered = ordered

    def __iter__(self) -> Iterator[Part]:
        return self.ordered

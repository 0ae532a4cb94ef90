"""Choose which images each step shows, and read them in worker processes, in an order that can be resumed."""

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

#: So many images are tried before a run is given up: an unreadable one, and those after it in its place.
TRIED = 20


@dataclass(frozen=True)
class Split:
    """Hold what training may know of a data set: its trained labels only.

    Attributes:
        labels: K names of the trained labels, sorted.
        columns: int64 ``(K,)``, their places among all labels of the data set.
        vectors: float32 ``(K, word_dim)``, unit length.
        held_out: names of seen labels kept out of training (``holdout_labels``); ``held_out_columns`` their places.
        train, val: int64, indices of the data set's images.
        notes: what a person should know: labels without images and the like.
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
    """Choose what is trained: seen labels with an image in the train split, on the images of that split.

    Unseen labels, and with ``holdout_labels`` some seen ones, leave it here: their names, vectors and marks on images
    are in nothing that the loss is made of. Images of such labels are not trained on where an image has one label.

    Raises:
        UserError: nothing to train on.
    """
    rows = dataset.rows("train")
    if not len(rows):
        raise UserError(f"{dataset.folder} has no image of the split train: nothing to train on")
    positives = dataset.images_per_label("train")
    notes = []
    without = np.flatnonzero(dataset.seen & (positives == 0))
    if len(without):
        notes.append(
            f"{len(without)} seen labels have no training image and are not trained: {_some(dataset, without)}"
        )
    usable = np.flatnonzero(dataset.seen & (positives > 0))
    held = np.sort(_draw_held_out(usable, config))
    trained = np.setdiff1d(usable, held)
    if len(trained) < 2:
        raise UserError(
            f"{dataset.folder}: expected at least 2 labels with training images, got {len(trained)}: "
            "a tagger learns what a label is from images without it"
        )
    single = dataset.single_label
    hidden = set(held) if single else set()
    shown = np.array([not hidden.isdisjoint(dataset.label_indices[row]) for row in rows], bool)
    empty = np.array([np.isin(dataset.label_indices[row], trained).sum() == 0 for row in rows], bool) & single
    return Split(
        tuple(dataset.labels[column] for column in trained),
        trained,
        unit_length(dataset.word_vectors[trained]).astype(np.float32),
        tuple(dataset.labels[column] for column in held),
        held,
        rows[~empty],
        np.concatenate([dataset.rows("val"), rows[shown]]),
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


#: Photos in the largest mosaic.
MOST_PHOTOS = 9


def mosaic(photos: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return one image's row of a batch of mosaics: its photos, then -1, int64 ``(MOST_PHOTOS,)``."""
    row = np.full(MOST_PHOTOS, -1)
    row[: len(photos)] = photos
    return row


def photos_of(image: np.ndarray) -> np.ndarray:
    """Return the photos of one image of a batch: itself, or those of a mosaic."""
    return np.atleast_1d(image)[np.atleast_1d(image) >= 0]


class Targets:
    """Make 0/1 targets of images over the trained labels, a batch at a time.

    ``rows`` are int64 ``(b,)``, or mosaics ``(b, MOST_PHOTOS)``, which have the labels of all their photos.
    """

    def __init__(self, dataset: PreparedDataset, columns: np.ndarray):
        place = np.full(len(dataset.labels), -1)
        place[columns] = np.arange(len(columns))
        self._count, self._places = len(columns), place
        self._of_image, self._absent = dataset.label_indices, dataset.negative_indices

    def of(self, row: int) -> np.ndarray:
        """Return the trained labels of an image, int64."""
        places = self._places[self._of_image[row]]
        return places[places >= 0]

    def absent(self, row: int) -> np.ndarray:
        """Return the trained labels that are verified to be absent from an image, int64; none of complete labels."""
        places = self._places[self._absent[row] if self._absent is not None else []]
        return places[places >= 0]

    def positives(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels on the images, ascending."""
        return np.unique(np.concatenate([self.of(row) for row in rows[rows >= 0]]))

    def annotated(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels on the images, and those of partial labels that are verified to be absent, ascending."""
        return np.unique(np.concatenate([self.positives(rows), *(self.absent(row) for row in rows[rows >= 0])]))

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets, float32 ``(b, K)``."""
        targets = np.zeros((len(rows), self._count), np.float32)
        for line, image in enumerate(rows):
            for row in photos_of(image):
                targets[line, self.of(row)] = 1.0
        return targets

    def unknown(self, rows: np.ndarray) -> np.ndarray | None:
        """Return 1 where a target is not known, else 0: float32 ``(b, K)``; None of complete labels.

        A mosaic shows a label that any of its photos shows, and lacks one that all of them lack; others are unknown.
        """
        if self._absent is None:
            return None
        unknown = np.ones((len(rows), self._count), np.float32)
        for line, image in enumerate(rows):
            photos = photos_of(image)
            for place, lacking in Counter(place for row in photos for place in self.absent(row).tolist()).items():
                unknown[line, place] = lacking < len(photos)
            for row in photos:
                unknown[line, self.of(row)] = 0.0
        return unknown

    def weights(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """Return how sure each target is; None: all are equally sure."""
        return None


class PartialTargets:
    """Give soft targets, some of them unknown; the interface is that of :class:`Targets`.

    Args:
        values: float32 ``(N, K)`` in 0..1, by photo and label.
        known: float32 ``(N, K)``, weight in the loss; 0 where a target is not known.
    """

    #: A label on at least one image of a step by more than this counts as positive in that step.
    POSITIVE = 0.3

    def __init__(self, values: np.ndarray, known: np.ndarray):
        self.values, self.known = values, known

    def annotated(self, rows: np.ndarray) -> np.ndarray:
        """Return the same as :meth:`positives`."""
        return self.positives(rows)

    def positives(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels on the images, ascending."""
        photos = rows[rows >= 0]
        return np.flatnonzero((self.values[photos] * self.known[photos]).max(axis=0) > self.POSITIVE)

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets, float32 ``(b, K)``; a mosaic shows what any of its photos shows."""
        return np.stack([self.values[photos_of(image)].max(axis=0) for image in rows])

    def unknown(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """Return None: here the weights say what is not known."""
        return None

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """Return the weights, float32 ``(b, K)``.

        What one photo of a mosaic leaves open is open for the mosaic too, unless another photo shows it.
        """
        least = np.stack([self.known[photos_of(image)].min(axis=0) for image in rows])
        return np.where(self.matrix(rows) > 0.5, np.float32(1.0), least)


class ImageSchedule(Protocol):
    """Say which images each step shows; :class:`Schedule` does it for ``zsl-tagger train``."""

    config: TrainConfig
    steps: int
    steps_per_epoch: int

    def batch(self, step: int) -> np.ndarray:
        """Return the images of a step, int64 ``(b,)``; with mosaics ``(b, MOST_PHOTOS)``."""


class Schedule:
    """Choose the images of each step from seed and step alone, however many processes share them.

    Args:
        rows: the training images; where they are fewer than an epoch shows, they are shown again.
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

        There are ``batch_size`` of them, but in the last step of an epoch maybe fewer without ``drop_last``.
        """
        epoch, part = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        size = self.config.batch_size
        photos = self._order[part * size : (part + 1) * size]
        return photos if self.config.layouts == (1,) else self._mosaics(photos, step)

    def _mosaics(self, photos: np.ndarray, step: int) -> np.ndarray:
        """Fill up the images that are drawn as mosaics with random photos."""
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
    """Draw how many photos each image consists of, int64 ``(images,)`` of 1, 4 and 9."""
    return random.choice([1, 4, 9], images, p=[max(0.0, 1 - mosaic4 - mosaic9), mosaic4, mosaic9])


@dataclass(frozen=True)
class Part:
    """A process's part of a step: ``rows`` its images, ``places`` their places in the step's batch."""

    step: int
    rows: np.ndarray
    places: np.ndarray


def parts(schedule: ImageSchedule, first_step: int, rank: int, processes: int) -> Iterator[Part]:
    """Yield the parts of one process, ``accumulate`` a step, from ``first_step`` to the end.

    Images are dealt one by one: with repeated augmentation, the draws of an image go to different processes.
    """
    accumulate = schedule.config.accumulate
    for step in range(first_step, schedule.steps):
        batch = schedule.batch(step)
        for turn in range(accumulate):
            places = np.arange(turn * processes + rank, len(batch), accumulate * processes)
            yield Part(step, batch[places], places)


@dataclass(frozen=True)
class Shown:
    """Inputs of a part, pixels uint8 ``(b, S, S, 3)`` or features ``(b, L, C)``, and the images really read."""

    part: Part
    inputs: Tensor
    rows: np.ndarray
    faults: list[tuple[int, str]]  # images that could not be read, and why


class TrainingImages(Dataset):
    """Read and augment the images of a part in a worker process; replace an unreadable one."""

    def __init__(self, root: Path, paths: Sequence[str], rows: np.ndarray, config: TrainConfig):
        self.root, self.paths, self.rows = root, paths, rows
        self.augment, self.seed = Augment(config), config.seed

    def __getitem__(self, part: Part) -> Shown:
        read = [
            self._read(row, (self.seed, part.step, place)) for row, place in zip(part.rows, part.places, strict=True)
        ]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _, _ in read]))  # (b, S, S, 3)
        rows = np.array([row for _, row, _ in read])
        return Shown(part, pixels, rows, [fault for _, _, faults in read for fault in faults])

    def _read(self, row: int, seed: tuple[int, ...]) -> tuple[np.ndarray, int, list[tuple[int, str]]]:
        faults: list[tuple[int, str]] = []
        place = int(np.searchsorted(self.rows, row))
        for shift in range(min(TRIED, len(self.rows))):
            other = int(self.rows[(place + shift) % len(self.rows)])
            try:
                return self.augment(self.root / self.paths[other], tuple(map(int, seed))), other, faults
            except ImageError as error:
                faults.append((other, str(error)))
        raise UserError(
            f"{len(faults)} images in a row cannot be read, the first is {self.root / self.paths[faults[0][0]]} "
            f"({faults[0][1]}): is --images right?"
        )


def image_loader(images: TrainingImages, ordered: Iterator[Part], workers: int) -> Generator[Shown, None, None]:
    """Yield the parts in order, read ahead by worker processes.

    Raises:
        UserError: too many images in a row cannot be read.
    """
    loader: DataLoader[Shown] = DataLoader(
        images,
        sampler=_Ordered(ordered),
        batch_size=None,  # a part is a batch already
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        collate_fn=None,
        worker_init_fn=leave_signals_to_parent,
    )
    try:
        yield from read_all(loader)
    except UserError as error:  # torch puts a worker's traceback before what it says
        raise UserError(str(error).rstrip().splitlines()[-1].rpartition("UserError: ")[2]) from None


def read_all(loader: DataLoader) -> Generator[Any, None, None]:
    """Yield what a loader gives; end its processes when this is closed.

    Torch ends them when nothing refers to them any more, but the traceback of an error may.
    """
    reader = iter(loader)
    try:
        yield from reader
    finally:
        if loader.num_workers:
            reader._shutdown_workers()  # type: ignore[attr-defined]


def leave_signals_to_parent(worker: int) -> None:  # noqa: ARG001
    """Ignore Ctrl-C, which reaches every process of a terminal: a dead reader would break the step to be saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Ordered:
    def __init__(self, ordered: Iterator[Part]):
        self.ordered = ordered

    def __iter__(self) -> Iterator[Part]:
        return self.ordered

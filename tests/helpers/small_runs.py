"""Make prepared data sets to train on, and small runs on them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import write_lines, write_photo
from safetensors.numpy import load_file

from data_prep.folders import Folders
from data_prep.pipeline import Options, prepare
from data_prep.tables import Columns, Table
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.training.run import TrainRun, resolve_config
from zsl_tagger.training.trainer import Trainer

ANIMALS = ("bird", "cat", "dog", "horse")


#: Tags of 10 photos, again and again; "lion" and "boat" are for test images only.
TAGS = (
    ("sky", "tree"), ("dog", "grass"), ("sky",), ("car", "street"), ("tree", "grass"),
    ("dog", "street"), ("car",), ("sky", "car", "tree"), ("lion", "grass"), ("boat", "sky"),
)  # fmt: skip


UNSEEN = ("boat", "lion")


#: A network that takes a second; after them a test's own settings.
SMALL = (
    "image_size=64", "dim=32", "ffn_dim=64", "heads=4", "batch_size=8", "epochs=1", "min_epoch_steps=1", "workers=0",
    "bake_words=10", "drop_last=true", "sync_batch_norm=false",
)  # fmt: skip


@contextmanager
def killed_while_saving(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt the training in the block when it saves a step, before anything is written."""
    save, message = Trainer.save, f"while saving step {step}"

    def dies(trainer: Trainer) -> None:
        if trainer.step == step:
            raise KeyboardInterrupt(message)
        save(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", dies)
        with pytest.raises(KeyboardInterrupt, match=message):
            yield


def animal_data(folder: Path, count: int = 12, unseen: str = "") -> Path:
    """A prepared single-label data set of class folders, ``count`` photos a class."""
    for number, name in enumerate(ANIMALS):
        for seed in range(count):
            write_photo(folder / "photos" / name / f"{seed:03d}.jpg", 1000 * number + seed)
    options = Options(val_fraction=0.2, test_fraction=0.1, workers=1)
    prepare(Folders(source=folder / "photos", unseen=unseen), folder / "data", options)
    return folder / "data"


def tagged_data(folder: Path, count: int = 50) -> Path:
    """A prepared multi-label data set of a table, with the labels ``UNSEEN`` on test images only."""
    lines = ["path,tags,split"]
    for number in range(count):
        tags = TAGS[number % 10]
        split = "test" if set(UNSEEN) & set(tags) else "val" if number // 10 % 4 == 3 else "train"
        write_photo(folder / "photos" / f"{number:03d}.jpg", number)
        lines.append(f'photos/{number:03d}.jpg,"{",".join(tags)}",{split}')
    write_lines(folder / "tags.csv", lines)
    source = Table(source=folder / "tags.csv", unseen=",".join(UNSEEN), columns=Columns(split="split"))
    prepare(source, folder / "data", Options(workers=1))
    return folder / "data"


def train_arguments(data: Path, output: Path, *settings: str, backbone: str = "test_resnet") -> list[str]:
    """Return the arguments of ``zsl-tagger train`` for a small run from scratch."""
    values = [part for one in (*SMALL, *settings) for part in ("--set", one)]
    return ["--data", str(data), "--output", str(output), "--backbone", backbone, "--init", "scratch", *values]


def small_run(data: Path, output: Path, *settings: str, recipe: str = "nus-wide-zsl", **options: Any) -> TrainRun:
    """Return the same run as :func:`train_arguments`, for this process.

    Args:
        options: ``backbone``, ``init``, and those of ``TrainRun``.
    """
    backbone, init = options.pop("backbone", "test_resnet"), options.pop("init", "scratch")
    config = resolve_config(recipe=recipe, backbone=backbone, init=init, settings=[*SMALL, *settings])
    return TrainRun(data=data, output=output, config=config, **options)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """``model.safetensors``."""
    return dict(load_file(folder / "model.safetensors"))


def loss_curve(folder: Path) -> list[tuple[str, ...]]:
    """Step and what was measured of each row of ``metrics.csv``, but the speed, which differs."""
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return [tuple(value for name, value in row.items() if name != "images_per_s") for row in csv.DictReader(file)]


def dataset_of(
    folder: Path, shown: Sequence[str], splits: Sequence[str], unseen: str = "", more: str = "", width: int = 5
) -> PreparedDataset:
    """A data set in memory, an image for each of ``["sky tree", "", "dog"]``; its files are not written.

    Args:
        unseen, more: labels with spaces between: unseen ones, and seen ones that no image shows.
    """
    rows = [row.split() for row in shown]
    labels = tuple(sorted({*" ".join([*shown, unseen, more]).split()}))
    seen = np.array([label not in unseen.split() for label in labels], bool)
    vectors = np.random.default_rng(len(labels)).standard_normal((len(labels), width)).astype(np.float32)
    indices = [np.array(sorted(labels.index(label) for label in row), np.int64) for row in rows]
    paths = [f"{number:03d}.png" for number in range(len(rows))]
    return PreparedDataset(folder, folder, paths, np.array(splits), indices, labels, seen, vectors)

"""Compare the released training loop with ``zsl-tagger train``: losses of each step and final accuracy.

    python -m benchmarks.released_loop [--steps 200] [--seeds 3]

The released loop (train_zsl_nus.py, train.py) is rewritten here from its rules, with its own head, loss, average and
augmentation. Both loops start from the same weights. They are small enough for two cores: timm's ``test_resnet``, a
head 64 wide, made-up photos of 64 px that show one to three of twelve coloured shapes.

``loss curves``: the released settings of both scripts (word queries and a closed set), on the same batches, without
augmentation and dropout, in float64 so that rounding errors do not grow; the largest relative difference between the
two losses of a step. ``final mAP``: with augmentation and dropout, where each loop draws its own batches, and with a
learning rate and a decay of the average that suit a short run; mAP on test photos in percent, of the last weights and
of their average, by seed.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.common import write_result
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.evaluation.metrics import mean_average_precision
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.signals import StopRequest
from zsl_tagger.training.augment import seed_everything
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
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.initial import initial_model
from zsl_tagger.training.recipes import read_recipe
from zsl_tagger.training.trainer import Trainer

SIDE, TRAIN, TEST = 64, 320, 300  # of made-up photos
WORD_DIM = 32
BATCH = 8
SHAPES = ("disc", "square", "triangle")
COLOURS = ("red", "yellow", "green", "blue")

#: Settings of both loops that keep a run small; word queries are used like in the released script.
SMALL = (
    "backbone=test_resnet", "init=scratch", f"image_size={SIDE}", "dim=64", "ffn_dim=128", f"batch_size={BATCH}",
    "workers=0", "query_noise=0", "random_queries=0",
)  # fmt: skip
PLAIN = ("dropout=0", "cutout=0", "rand_augment=")
SHORT_RUN = ("lr=1e-3", "ema=0.98")
MAP_EPOCHS = 12


# --- the released loop ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReleasedSettings:
    """Settings of the released scripts. ``weight_decay``: 1e-2 in train_zsl_nus.py, 1e-4 in train.py."""

    weight_decay: float
    epochs: int
    lr: float = 1e-4
    decay: float = 0.9997


class ReleasedModel(nn.Module):
    """Released network over a timm backbone instead of TResNet, with a copy of our weights.

    Args:
        words: ``(K, word_dim)``; None for a closed set.
    """

    words: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, ours: TaggerModel, words: Tensor | None):
        super().__init__()
        self.body = copy.deepcopy(ours.backbone.network)
        self.body.reset_classifier(0)
        self.head = ReleasedHead(ours.head)
        self.register_buffer("words", None if words is None else words.to(ours.mean.dtype), persistent=False)
        mean, std = (torch.tensor(value, dtype=ours.mean.dtype) for value in ours.normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of images uint8 ``(B, S, S, 3)``."""
        images = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std
        return self.head(self.body.forward_features(images.permute(0, 3, 1, 2)), self.words)


class ReleasedHead(nn.Module):
    """ML-Decoder as released: every query of every image passes through the whole layer."""

    def __init__(self, ours: MLDecoder):
        super().__init__()
        layer, attention, share = ours.layer, ours.layer.attention, ours.layer.dropout.p
        self.embed, self.norms = copy.deepcopy(ours.embed), nn.ModuleList()
        self.word_embed = copy.deepcopy(ours.word_embed)
        if ours.word_embed is None:
            self.queries = ours.group_queries.clone()
        self.attention = nn.MultiheadAttention(ours.dim, attention.heads, dropout=share).to(ours.bias.dtype)
        with torch.no_grad():
            thirds = (attention.q, attention.k, attention.v)
            self.attention.in_proj_weight.copy_(torch.cat([third.weight for third in thirds]))
            self.attention.in_proj_bias.copy_(torch.cat([third.bias for third in thirds]))
        self.attention.out_proj.load_state_dict(attention.out.state_dict())
        self.linear1, self.linear2 = copy.deepcopy(layer.linear1), copy.deepcopy(layer.linear2)
        self.norms.extend(copy.deepcopy(norm) for norm in (layer.norm1, layer.norm2, layer.norm3))
        self.dropout = nn.Dropout(share)
        self.pooling, self.bias = copy.deepcopy(ours.group_weight), copy.deepcopy(ours.bias)

    def forward(self, features: Tensor, words: Tensor | None) -> Tensor:
        """Return logits ``(B, K)`` of a feature map ``(B, C, h, w)``."""
        memory = F.relu(self.embed(features.flatten(2).transpose(1, 2))).transpose(0, 1)  # (L, B, D)
        queries = self.queries if self.word_embed is None else F.relu(self.word_embed(words))  # (Q, D)
        t = queries.unsqueeze(1).expand(-1, len(features), -1)  # (Q, B, D)
        t = self.norms[0](t + self.dropout(t))
        t = self.norms[1](t + self.dropout(self.attention(t, memory, memory)[0]))
        t = self.norms[2](t + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(t))))))
        outputs = [state @ self.pooling[min(q, len(self.pooling) - 1)] for q, state in enumerate(t)]  # Q of (B, f)
        logits = torch.cat(outputs, dim=1)
        return (logits if words is not None else logits[:, : len(self.bias)]) + self.bias


def released_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the asymmetric loss, summed: gammas 4 and 0, clip 0.05, the focal weight a constant."""
    p = logits.sigmoid()
    of_negative = (1 - p + 0.05).clamp(max=1)
    with torch.no_grad():
        weight = torch.where(targets > 0, torch.ones_like(p), (1 - of_negative) ** 4)
    likelihood = torch.where(targets > 0, p, of_negative).clamp(min=1e-8).log()
    return -(weight * likelihood).sum()


class ReleasedAverage:
    """Average weights and statistics with a constant decay."""

    def __init__(self, model: ReleasedModel, decay: float):
        self.model, self.decay = copy.deepcopy(model).eval(), decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for average, now in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            average.copy_(self.decay * average + (1 - self.decay) * now)


def train_as_released(
    model: ReleasedModel, batches: Iterable[tuple[Tensor, Tensor]], steps: int, settings: ReleasedSettings
) -> tuple[list[float], ReleasedModel]:
    """Train ``model`` on batches of pixels and targets; return the loss of each step and the averaged model."""
    matrices = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim == 1]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": settings.weight_decay}]
    optimizer = torch.optim.Adam(groups, lr=settings.lr, weight_decay=0)
    per_epoch = steps // settings.epochs
    schedule = OneCycleLR(
        optimizer, max_lr=settings.lr, steps_per_epoch=per_epoch, epochs=settings.epochs, pct_start=0.2
    )
    average, losses = ReleasedAverage(model, settings.decay), []
    model.train()
    for pixels, targets in batches:
        loss = released_loss(model(pixels).float(), targets)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update(model)
        losses.append(loss.item())
    return losses, average.model


# --- the released augmentation ----------------------------------------------------------------------------


def released_augmentation(image: Image.Image) -> Image.Image:
    """Cut out a box of half the side, then apply two operations of RandAugment, each with a chance of a half."""
    width, height = image.size
    x, y = random.randrange(width), random.randrange(height)
    left, top = max(0, x - width // 4), max(0, y - height // 4)
    right, bottom = min(width, x + width // 4), min(height, y + height // 4)
    colour = tuple(random.randrange(256) for _ in range(3))
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), fill=colour)
    for operation in random.choices(OPERATIONS, k=2):
        magnitude = random.randint(1, 9) / 9
        if random.random() < 0.5:
            image = operation(image, magnitude)
    return image


GREY = (128, 128, 128)


def _signed(magnitude: float) -> float:
    return random.choice((-1, 1)) * magnitude


def _moved(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=GREY)


def _shear(image: Image.Image, by_row: float, by_column: float) -> Image.Image:
    return _moved(image, (1, by_row, 0, by_column, 1, 0), Image.Resampling.BICUBIC)


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    return _moved(image, (1, 0, x * image.width, 0, 1, y * image.height), Image.Resampling.NEAREST)


def _hole(image: Image.Image, magnitude: float) -> Image.Image:
    half = round(20 * magnitude) // 2
    x, y = random.randrange(image.width), random.randrange(image.height)
    image = image.copy()
    image.paste((125, 122, 113), (max(0, x - half), max(0, y - half), x + half, y + half))
    return image


def _enhance(kind: Any, image: Image.Image, amount: float) -> Image.Image:
    enhanced: Image.Image = kind(image).enhance(1 + amount)
    return enhanced


#: Maps an image and a magnitude in 1/9..1 to an image.
OPERATIONS: list[Callable[[Image.Image, float], Image.Image]] = [
    lambda image, _: ImageOps.invert(image),
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, m: ImageOps.posterize(image, round(8 - 4 * m)),
    lambda image, m: ImageOps.solarize(image, math.ceil(256 * (1 - m))),
    lambda image, m: _enhance(ImageEnhance.Sharpness, image, 0.9 * _signed(m)),
    lambda image, m: _enhance(ImageEnhance.Contrast, image, 0.9 * _signed(m)),
    lambda image, m: _enhance(ImageEnhance.Color, image, 0.9 * _signed(m)),
    lambda image, m: _enhance(ImageEnhance.Brightness, image, 0.9 * _signed(m)),
    lambda image, m: _shear(image, 0.3 * _signed(m), 0),
    lambda image, m: _shear(image, 0, 0.3 * _signed(m)),
    lambda image, m: _translate(image, 150 / 331 * _signed(m), 0),
    lambda image, m: _translate(image, 0, 150 / 331 * _signed(m)),
    lambda image, m: image.rotate(30 * m, fillcolor=GREY),
    lambda image, m: _hole(image, m),
]


# --- ours -------------------------------------------------------------------------------------------------


class RecordedTrainer(Trainer):
    """Train as ``zsl-tagger train`` does, and keep the loss of each step."""

    losses: list[float]

    def _train_step(self, shown: Iterator[LoadedPart]) -> Tensor:
        total = super()._train_step(shown)
        self.losses.append(float(total))
        return total


@dataclass(frozen=True)
class Task:
    """Data for both loops, and our settings."""

    data: PreparedDataset
    root: Path
    config: TrainConfig

    def initial(self) -> TaggerModel:
        """Return the model in the initial state of ``zsl-tagger train``."""
        seed_everything((self.config.seed, 0))
        model, _ = initial_model(self.config, self.data, len(self.data.labels))
        model.backbone.leave_out_unused(self.config.image_size)
        return model

    def words(self) -> Tensor | None:
        vectors = split_for_training(self.data, self.config).vectors
        return torch.from_numpy(vectors) if self.config.head == "words" else None


def trainer_of(task: Task, model: TaggerModel) -> RecordedTrainer:
    """Return the trainer of ``zsl-tagger train``, on the CPU and without validation."""
    config, split = task.config, split_for_training(task.data, task.config)
    images = TrainingImages(task.root, task.data.paths, split.train, config)
    schedule = Schedule(split.train, config)
    trainer = RecordedTrainer(
        model, split, Targets(task.data, split.columns), schedule, config, Accelerator(cpu=True),
        from_features=False,
        parts_from=lambda step: image_loader(images, parts(Schedule(split.train, config), step, 0, 1), 0),
        validate=lambda _: ValidationFigures(),
        folder=task.root,
        data="",
    )  # fmt: skip
    trainer.losses = []
    if trainer.vectors is not None:
        trainer.vectors = trainer.vectors.to(model.head.bias.dtype)
    return trainer


def run_ours(trainer: RecordedTrainer) -> None:
    trainer.run(None, Progress("training", trainer.schedule.steps, shown=False), StopRequest())


# --- the comparisons --------------------------------------------------------------------------------------


def loss_curves(recipe: str, weight_decay: float, folder: Path, steps: int) -> dict[str, float]:
    """Compare the losses of both loops over the same batches, step by step, and their averaged weights at the end."""
    epochs = max(1, steps * BATCH // TRAIN)
    count = steps // epochs * BATCH
    data = make_photos(folder, count)
    task = Task(data, folder, read_recipe(recipe).changed([*SMALL, *PLAIN, f"epochs={epochs}"]))
    ours = task.initial().double()
    theirs = ReleasedModel(ours, task.words())
    trainer = trainer_of(task, ours)
    batches = same_batches(task, trainer.schedule.steps)
    run_ours(trainer)
    losses, average = train_as_released(theirs, batches, len(trainer.losses), ReleasedSettings(weight_decay, epochs))
    a, b = np.array(trainer.losses), np.array(losses)
    return {
        "steps": len(a),
        "first loss": round(float(a[0]), 4),
        "last loss": round(float(a[-1]), 4),
        "largest relative difference of losses": float(np.abs(a / b - 1).max()),
        "largest difference of averaged logits": averaged_difference(trainer, average, task),
    }


def same_batches(task: Task, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pixels and targets that :class:`Trainer` gets."""
    split = split_for_training(task.data, task.config)
    schedule, targets = Schedule(split.train, task.config), Targets(task.data, split.columns)
    images = TrainingImages(task.root, task.data.paths, split.train, task.config)
    for step in range(steps):
        rows = schedule.batch(step)
        pixels = images[Part(step, rows, np.arange(len(rows)))].inputs
        yield pixels, torch.from_numpy(targets.matrix(rows))


@torch.no_grad()
def averaged_difference(trainer: Trainer, average: ReleasedModel, task: Task) -> float:
    """Return the maximum difference between the averaged models' logits over test photos."""
    pixels, _ = photos_of_test(task)
    return float((trainer.averaged().eval()(pixels, trainer.vectors) - average(pixels)).abs().max())


def final_map(recipe: str, weight_decay: float, folder: Path, seed: int, epochs: int) -> dict[str, float]:
    """Train both loops with augmentation; return their mAP in percent, of the last weights and of the averaged ones."""
    data = make_photos(folder, TRAIN)
    task = Task(data, folder, read_recipe(recipe).changed([*SMALL, *SHORT_RUN, f"epochs={epochs}", f"seed={seed}"]))
    ours = task.initial()
    theirs = ReleasedModel(ours, task.words())
    trainer = trainer_of(task, ours)
    run_ours(trainer)
    settings = ReleasedSettings(weight_decay, epochs, task.config.lr, task.config.ema)
    steps = trainer.schedule.steps
    seed_everything((seed, 1))
    _, average = train_as_released(theirs, own_batches(task, steps), steps, settings)
    return {
        "ours": map_of(partial(trainer.model.eval(), queries=trainer.vectors), task),
        "ours, averaged": map_of(partial(trainer.averaged().eval(), queries=trainer.vectors), task),
        "released": map_of(theirs.eval(), task),
        "released, averaged": map_of(average, task),
    }


def own_batches(task: Task, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as the released loader does: reshuffled each epoch, each photo augmented."""
    rows, targets = task.data.rows("train"), task.data.targets(np.arange(len(task.data.paths)))
    order: list[int] = []
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.sample(rows.tolist(), len(rows))
        batch, order = order[:BATCH], order[BATCH:]
        photos = [np.asarray(released_augmentation(photo)) for photo in opened(task, batch)]
        yield torch.from_numpy(np.stack(photos)), torch.from_numpy(targets[batch].astype(np.float32))


def opened(task: Task, rows: Iterable[int]) -> list[Image.Image]:
    return [Image.open(task.root / task.data.paths[row]).convert("RGB") for row in rows]


@torch.no_grad()
def map_of(logits_of: Callable[[Tensor], Tensor], task: Task) -> float:
    pixels, targets = photos_of_test(task)
    return round(100 * mean_average_precision(logits_of(pixels).numpy(), targets), 2)


def photos_of_test(task: Task) -> tuple[Tensor, np.ndarray]:
    """Return the pixels uint8 ``(N, S, S, 3)`` and the targets bool ``(N, K)`` of test."""
    rows = task.data.rows("test")
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in opened(task, rows)])), task.data.targets(rows)


# --- made-up photos ---------------------------------------------------------------------------------------


def make_photos(folder: Path, train: int) -> PreparedDataset:
    """Draw photos of one to three coloured shapes on noise, the same each time, and return them as a data set."""
    labels = tuple(sorted(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))
    draw = random.Random(0)
    splits = np.array(["train"] * train + ["test"] * TEST)
    shown = [np.array(sorted(draw.sample(range(len(labels)), draw.randint(1, 3)))) for _ in splits]
    paths = [f"{number:04d}.png" for number in range(len(splits))]
    for number, (path, indices) in enumerate(zip(paths, shown, strict=True)):
        if not (folder / path).is_file():
            _photo([labels[index] for index in indices], random.Random(number)).save(folder / path)
    vectors = np.random.default_rng(0).standard_normal((len(labels), WORD_DIM)).astype(np.float32)
    return PreparedDataset(folder, folder, paths, splits, shown, labels, np.ones(len(labels), bool), vectors)


def _photo(labels: list[str], draw: random.Random) -> Image.Image:
    noise = np.random.default_rng(draw.randrange(2**32)).integers(60, 200, (8, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for label in labels:
        colour, shape = label.split()
        half = draw.randint(7, 14)
        x, y = draw.randint(half, SIDE - half), draw.randint(half, SIDE - half)
        box = (x - half, y - half, x + half, y + half)
        if shape == "disc":
            pen.ellipse(box, fill=colour)
        elif shape == "square":
            pen.rectangle(box, fill=colour)
        else:
            pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    return image


# --- the command ------------------------------------------------------------------------------------------

#: {recipe: weight decay of the released script that it follows}.
RECIPES = {"nus-wide-zsl": 1e-2, "coco-multilabel": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of the loss curves")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    curves = {}
    for recipe, weight_decay in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            curves[recipe] = loss_curves(recipe, weight_decay, Path(folder), arguments.steps)
        print(recipe, curves[recipe], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(arguments.seeds):
            runs.append(final_map("nus-wide-zsl", RECIPES["nus-wide-zsl"], Path(folder), seed, MAP_EPOCHS))
            print(seed, runs[-1], flush=True)
    maps = {name: spread([run[name] for run in runs]) for name in runs[0]}
    write_result("released_loop", {"loss curves": curves, "seeds": arguments.seeds, "final mAP": maps})


def spread(values: list[float]) -> dict[str, object]:
    return {"mean": round(float(np.mean(values)), 2), "low": min(values), "high": max(values), "by seed": values}


if __name__ == "__main__":
    main()

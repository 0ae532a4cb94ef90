"""Measure the cost of training beyond the network itself: reading images, and the head.

    python -m benchmarks.training_speed --data DIR

DIR is a prepared data set. ``loading``: steps of EfficientNet-Lite0 trained whole at 224 px with the head of
my-photos, its images read, augmented and put together by worker processes, over the same steps on pixels that are there
already. ``head``: a training step of ResNet-50 at 224 px with the head and 925 word queries, over one with its own
pooling and linear classifier. The two of a pair take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import write_result
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.threads import available_cores, keep_freed_memory
from zsl_tagger.training.data import LoadedPart, Schedule, TrainingImages, image_loader, parts
from zsl_tagger.training.losses import asymmetric_loss
from zsl_tagger.training.recipes import read_recipe

LABELS, WORD_DIM = 925, 300
BATCH = 32
STEPS = 3  # per turn
TURNS = 3
HEAD_BATCHES = (1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    write_result("training_speed", {"loading": loading(arguments.data), "head": head()})


def loading(data: Path) -> dict[str, object]:
    """Return images per second of both, and their ratio."""
    dataset = load_dataset(data)
    config = read_recipe("my-photos").changed(
        ["freeze=false", "cache_views=0", f"batch_size={BATCH}", "epochs=1000", "rand_augment=rand-m7-mstd0.5-inc1"]
    )
    rows = dataset.rows("train")
    backbone = Backbone(config.backbone).to(memory_format=torch.channels_last)
    small = MLDecoder(backbone.channels, word_dim=WORD_DIM, dim=config.dim, ffn_dim=config.ffn_dim)
    step = training_step(TaggerModel(backbone, small), labels=len(dataset.labels))
    images = TrainingImages(Path(str(dataset.image_root)), dataset.paths, rows, config)
    real = image_loader(images, parts(Schedule(rows, config), 0, 0, 1), available_cores())
    made: Iterator[LoadedPart] = repeat(next(real))
    rates: dict[str, list[float]] = {"read": [], "made": []}
    for _ in range(TURNS):
        for name, source in (("made", made), ("read", real)):
            next(source)
            start = time.perf_counter()
            for _ in range(STEPS):
                step(next(source).inputs)
            rates[name].append(STEPS * BATCH / (time.perf_counter() - start))
    return {
        "images_read_per_s": _spread(rates["read"]),
        "images_made_per_s": _spread(rates["made"]),
        "ratio": _spread([read / made for read, made in zip(rates["read"], rates["made"], strict=True)]),
        "batch": BATCH,
        "workers": available_cores(),
    }


def head() -> dict[str, object]:
    """Return the ratio of training step times with and without the head, by batch."""
    backbone = Backbone("resnet50").to(memory_format=torch.channels_last)
    classifier = torch.nn.Linear(backbone.channels, LABELS)
    model = TaggerModel(backbone, _head(backbone.channels))
    figures: dict[str, object] = {}
    for batch in HEAD_BATCHES:
        pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
        with_head = training_step(model)
        bare = training_step(model, lambda pixels: classifier(model.backbone_tokens(pixels).mean(1)), classifier)
        seconds = {"bare": [_seconds(bare, pixels) for _ in range(1)][1:], "with": [_seconds(with_head, pixels)][1:]}
        for _ in range(TURNS):
            seconds["bare"].append(_seconds(bare, pixels))
            seconds["with"].append(_seconds(with_head, pixels))
        ratios = [ours / theirs for ours, theirs in zip(seconds["with"], seconds["bare"], strict=False)]
        figures[f"batch {batch}"] = {
            "bare_s": _spread(seconds["bare"]), "with_head_s": _spread(seconds["with"]), "ratio": _spread(ratios),
        }  # fmt: skip
    return {"labels": LABELS, "backbone": "resnet50, 224 px", **figures}


def training_step(
    model: TaggerModel,
    logits_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
    other: torch.nn.Module | None = None,
    labels: int = LABELS,
) -> Callable[[torch.Tensor], None]:
    """Return a function for one update on a batch: forward, loss, backward, Adam."""
    queries = torch.nn.functional.normalize(torch.randn(labels, WORD_DIM))
    trained = list(model.backbone.parameters()) + list((other or model.head).parameters())
    optimizer = torch.optim.Adam(trained, 1e-5)
    model.train()

    def step(pixels: torch.Tensor) -> None:
        logits = model(pixels, queries) if logits_of is None else logits_of(pixels)
        asymmetric_loss(logits, (torch.rand(logits.shape) < 0.01).float()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _head(channels: int) -> MLDecoder:
    return MLDecoder(channels, word_dim=WORD_DIM)


def _seconds(step: Callable[[torch.Tensor], None], pixels: torch.Tensor) -> float:
    start = time.perf_counter()
    step(pixels)
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(values)), 3), "low": round(min(values), 3), "high": round(max(values), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()

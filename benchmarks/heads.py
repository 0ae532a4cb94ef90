"""Compare ML-Decoder with other heads: one trainer, one data set, the same features of a frozen backbone.

    python -m benchmarks.heads --photos DIR --work WORK [--seeds 0 --steps 5]

Data: ``more/coco_captions``, 18 COCO classes, five in ten photos for training, one for validation, four for test; and
the photos of ``coco100``, on which nothing is trained or chosen, with the same classes. Features are computed once and
kept in WORK, at 224 px.

Every head has the settings of ``BASE``. Validation mAP chooses the step of each run and, on the first seed, the
learning rate among ``RATES``. mAP is the mean over classes with a test photo, then over seeds. Its 95 % interval is a
bootstrap over test photos (the same draws for every head, so that the gain over pooling is paired); the least and the
largest of the seeds stand beside it. Milliseconds are for the head alone and one image; the part
that depends on labels only is prepared before.

All of it should take at most half an hour on two idle cores; ``--seeds`` and ``--steps`` are for a trial, which writes
no result.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.common import write_result
from benchmarks.query_augmentation import COCO, split_of
from benchmarks.tagging_accuracy import read_coco
from data_prep.pipeline import Options, prepare
from data_prep.tables import Columns, Table
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.evaluation.bootstrap import centred, draw_counts, interval, resampled_average_precision
from zsl_tagger.evaluation.metrics import average_precision, ranking_steps
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training.augment import seed_everything
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import LoadedPart, Schedule, Split, Targets, parts, split_for_training
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.initial import initial_model
from zsl_tagger.training.recipes import read_recipe
from zsl_tagger.training.run import make_accelerator
from zsl_tagger.training.trainer import Trainer, run_trainer
from zsl_tagger.training.validation import score_cached, validation_metrics

SEEDS = (0, 1, 2, 3, 4)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RESAMPLES = 1000
COCO100 = "coco100"
POOLING = "pooling + linear"

BASE = (
    "backbone=tf_efficientnet_lite2", "class_evidence=false", "cache_views=1", "epochs=6", "min_epoch_steps=1",
    "batch_size=32", "labels_per_step=none", "query_noise=0", "ema=0.99", "crop=squash", "flip=0",
)  # fmt: skip

HEADS: dict[str, tuple[str, ...]] = {
    "ML-Decoder": ("head=closed",),
    "ML-Decoder, 6 groups": ("head=closed", "groups=6"),
    "ML-Decoder, word queries": ("head=words",),
    "6 groups of word queries": ("head=words", "groups=6"),
    "CSRA": ("head=csra",),
    "CSRA, 4 heads": ("head=csra", "csra_heads=4"),
    "Query2Label": ("head=query2label",),
    POOLING: ("head=linear",),
}

Resampled = dict[str, np.ndarray]  # by test set: mAP of each resample (R,)
Trained = tuple[TaggerModel, Split]


def parsed_arguments(description: str | None) -> argparse.Namespace:
    """Return the options of the command, which ``benchmarks.partial_labels`` shares."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", help="these only; no result is written")
    parser.add_argument("--steps", type=int, help="train on this many batches, once; no result is written")
    return parser.parse_args()


def seeds(arguments: argparse.Namespace) -> tuple[int, ...]:
    return tuple(arguments.seeds or SEEDS)


def main() -> None:
    arguments = parsed_arguments(__doc__)
    data = prepared(arguments.photos, arguments.work)
    cache = filled_cache(data, arguments.work)
    figures: dict[str, dict[str, Any]] = {}
    resampled: dict[str, Resampled] = {}
    for name, settings in HEADS.items():
        figures[name], resampled[name] = measured(data, cache, *trained(data, cache, settings, arguments))
        print(name, figures[name], flush=True)
    for name, values in resampled.items():
        figures[name]["gain over pooling, mAP"] = {
            tested: gain(
                figures[name][tested]["mAP"] - figures[POOLING][tested]["mAP"], own - resampled[POOLING][tested]
            )
            for tested, own in values.items()
        }
    if not arguments.seeds and not arguments.steps:
        photos = {split: int((data.splits == split).sum()) for split in ("train", "val")}
        photos |= {name: len(rows) for name, rows in test_sets(data).items()}
        settings_of = {name: list(settings) for name, settings in HEADS.items()}
        about = {
            "seeds": len(SEEDS),
            "base": list(BASE),
            "rates": list(RATES),
            "settings": settings_of,
            "photos": photos,
        }
        write_result("heads", {**about, "classes": list(data.labels), "heads": figures})


def prepared(photos: Path, work: Path) -> PreparedDataset:
    """Return the data set: the COCO photos of all splits, with coco100's as further test photos."""
    folder = work / "data"
    if not (folder / "dataset.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        said = json.loads((photos / COCO / "labels.json").read_text(encoding="utf-8"))
        named = {(COCO / name).as_posix(): labels for name, labels in sorted(said["labels"].items()) if labels}
        rows = [(path, labels, split_of(path)) for path, labels in named.items()]
        paths, targets, names = read_coco(photos / COCO100)
        classes = set(said["classes"])
        for path, row in zip(paths, targets, strict=True):
            shown = [names[column] for column in np.flatnonzero(row) if names[column] in classes]
            rows.append((path.relative_to(photos).as_posix(), shown, "test"))
        table = work / "photos.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "tags", "split"))
            writer.writerows((path, ",".join(labels), split) for path, labels, split in rows)
        source = Table(source=table, image_root=photos, columns=Columns(split="split"))
        prepare(source, folder, Options(skip_images=True))
    return load_dataset(folder)


def test_sets(data: PreparedDataset) -> dict[str, np.ndarray]:
    """Return the rows of each test set."""
    rows = data.rows("test")
    of_coco100 = np.array([data.paths[row].startswith(f"{COCO100}/") for row in rows])
    return {"coco_captions": rows[~of_coco100], COCO100: rows[of_coco100]}


def settings_for(settings: tuple[str, ...], seed: int, rate: float) -> TrainConfig:
    return read_recipe("my-photos").changed([*BASE, *settings, f"seed={seed}", f"lr={rate}"])


def filled_cache(data: PreparedDataset, work: Path) -> FeatureCache:
    """Return the features of every photo, as tagging sees it: one view, whatever the seed."""
    config = settings_for(HEADS[POOLING], 0, RATES[0])
    model, _ = initial_model(config, data, len(data.labels))
    cache = FeatureCache(work / "cache", Path(str(data.image_root)), data.paths, np.arange(len(data.paths)), config)
    cache.fill(model, Accelerator(cpu=True))
    return cache


def trained(
    data: PreparedDataset,
    cache: FeatureCache,
    settings: tuple[str, ...],
    arguments: argparse.Namespace,
    priors: Mapping[int, np.ndarray] | None = None,
) -> tuple[list[Trained], dict[float, float]]:
    """Return the model of each seed, and the validation mAP of the first seed at each learning rate, which chose it.

    Args:
        priors: by seed, the prior of each label ``(K,)`` that ``unknown_labels=selective`` takes.
    """
    first, *others = seeds(arguments)

    def one(seed: int, rate: float) -> tuple[Trained, float]:
        config = settings_for(settings, seed, rate)
        split = split_for_training(data, config)
        if arguments.steps:
            config = config.changed(["epochs=1"])
            split = replace(split, train=split.train[: arguments.steps * config.batch_size])
        trainer = run_of(data, cache, split, config, arguments.work / "run", None if priors is None else priors[seed])
        return (trainer.averaged(), split), trainer.best.val_map or 0.0

    tried = {rate: one(first, rate) for rate in RATES}
    best = max(RATES, key=lambda rate: tried[rate][1])
    models = [tried[best][0], *(one(seed, best)[0] for seed in others)]
    return models, {rate: round(100 * score, 2) for rate, (_, score) in tried.items()}


def run_of(
    data: PreparedDataset,
    cache: FeatureCache,
    split: Split,
    config: TrainConfig,
    folder: Path,
    priors: np.ndarray | None = None,
) -> Trainer:
    """Train one head from random weights; its averaged part has the best weights in the end."""
    seed_everything((config.seed, 0))
    model, _ = initial_model(config, data, len(split.labels), split.vectors)

    def parts_from(step: int) -> Generator[LoadedPart, None, None]:
        return cache.load(parts(Schedule(split.train, config), step, 0, 1))

    def validate(averaged: TaggerModel) -> ValidationFigures:
        return validation_metrics(
            score_cached(averaged, queries_of(averaged, split), cache, split.val), split, data, False
        )

    trainer = Trainer(
        model, split, Targets(data, split.columns), Schedule(split.train, config), config, make_accelerator(config),
        from_features=True, parts_from=parts_from, validate=validate, folder=folder, data="", priors=priors,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    run_trainer(trainer, folder, is_main=False)
    trainer.load_best()
    return trainer


def queries_of(model: TaggerModel, split: Split) -> torch.Tensor | None:
    return torch.from_numpy(split.vectors) if model.head.num_classes is None else None


def measured(
    data: PreparedDataset, cache: FeatureCache, chosen: list[Trained], validated: dict[float, float]
) -> tuple[dict[str, Any], Resampled]:
    """Return the figures of a head, and its mAP on resamples of each test set.

    Args:
        chosen, validated: from :func:`trained`.
    """
    model, split = chosen[0]
    numbers = sum(weight.numel() for weight in model.head.parameters())
    figures: dict[str, Any] = {
        "parameters": numbers,
        "ms": milliseconds(model, split, cache),
        "validation mAP by learning rate": validated,
    }
    resampled = {}
    for name, rows in test_sets(data).items():
        targets = data.targets(rows)[:, split.columns].astype(np.int64)
        counts = draw_counts(len(rows), RESAMPLES, 0)
        own, drawn = [], []
        for model, split in chosen:
            scores = score_cached(model, queries_of(model, split), cache, rows)
            assert len(scores.rows) == len(rows)  # every photo can be read
            precisions, repeated = precisions_of(scores.logits, targets, counts)
            own.append(float(precisions.mean()))
            drawn.append(repeated.mean(axis=0))
        resampled[name] = centred(100 * np.mean(drawn, axis=0), 100 * float(np.mean(own)))
        edges = interval(resampled[name])
        figures[name] = {
            "mAP": round(100 * float(np.mean(own)), 2),
            "95%": None if edges is None else [round(edge, 2) for edge in edges],
            "seeds": [round(100 * min(own), 2), round(100 * max(own), 2)],
        }  # fmt: skip
    return figures, resampled


def precisions_of(logits: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return average precisions of the classes with a photo ``(k,)``, and on resamples ``(k, R)``."""
    shown = np.flatnonzero(targets.any(axis=0))
    precisions = average_precision(logits[:, shown], targets[:, shown])  # (k,)
    steps = [ranking_steps(logits[:, column], targets[:, column], None, "grouped") for column in shown]
    repeated = np.stack([resampled_average_precision(one, counts, int(counts.max())) for one in steps])  # (k, R)
    return precisions, np.where(np.isfinite(repeated), repeated, precisions[:, None])


@torch.inference_mode()
def milliseconds(model: TaggerModel, split: Split, cache: FeatureCache) -> float:
    """Return the median time of the head for one image."""
    head, tokens = model.eval().head, cache.stack([0]).float()  # (1, L, C)
    asked = queries_of(model, split)
    prepared = head.prepare(asked) if asked is not None and isinstance(head, MLDecoder | GroupedWords) else asked
    times = []
    for _ in range(60):
        start = time.perf_counter()
        head(tokens, prepared)
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times), 2)


def gain(value: float, resampled: np.ndarray) -> dict[str, object]:
    return {"mean": round(value, 2), "95%": [round(edge, 2) for edge in interval(resampled) or []]}


if __name__ == "__main__":
    main()

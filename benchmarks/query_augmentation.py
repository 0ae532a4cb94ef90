"""Zero-shot accuracy with and without each query augmentation, through ``zsl-tagger train``.

    python -m benchmarks.query_augmentation --photos DIR --work WORK

DIR holds ``caltech101/<class>/*.jpg`` and ``imagenet1k/<wnid>_<name>.jpg``. A quarter of all class names is unseen,
another quarter for each seed; their photos are all for test, with 3 in 10 of Caltech's seen photos. A frozen
EfficientNet-Lite0 (its own ImageNet training has seen most of these names, as is usual in zero-shot learning),
packaged word vectors. A tenth of the seen names is held out of training too: they choose the step and the bias of
unseen labels, so that nothing is chosen on test. Every run is kept in WORK and not repeated.

ZSL: test photos of unseen names, ranked among the unseen names. GZSL: all test photos, all names. mAP is the mean over
the names with test photos of scikit-learn's average precision. F1@3 is micro; each photo has one name, so 50 is the
most.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.common import write_result
from data_prep.pipeline import Options
from data_prep.tables import Columns, prepare_table
from zsl_tagger.assets import PACKAGED
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.evaluation.metrics import average_precision, precision_recall_f1_at_k
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.recipes import read_recipe
from zsl_tagger.training.run import TrainRun, train
from zsl_tagger.training.validation import score_cached
from zsl_tagger.words.table import WordTable

SEEDS = (0, 1, 2)
UNSEEN = 0.25
RESAMPLES = 2000

BASE = (
    "epochs=10", "cache_views=2", "batch_size=64", "lr=1e-3", "labels_per_step=256", "holdout_labels=0.1",
    "query_noise=0", "precision=bf16", "ema=0.99",
)  # fmt: skip

VARIANTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "noise": ("query_noise=0.3",),
    "random queries": ("random_queries=1",),
    "query dropout": ("query_dropout=0.5",),
    "label sampling": ("labels_per_step=128",),
    "all": ("query_noise=0.3", "random_queries=1", "query_dropout=0.5", "labels_per_step=128"),
}

Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--try", dest="tried", nargs="*", help="settings to try at seed 0, on validation only")
    parser.add_argument("--seeds", type=int, nargs="*", help="run these only, for several processes; writes no result")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="the same for variants")
    arguments = parser.parse_args()
    if arguments.tried is not None:
        data = prepare_split(arguments.photos, arguments.work, 0)
        print(arguments.tried, validation_of(run_variant(data, arguments.work, tuple(arguments.tried), 0)))
        return
    runs: dict[str, list[tuple[Row, np.ndarray]]] = {name: [] for name in VARIANTS}
    for seed in arguments.seeds or SEEDS:
        data = prepare_split(arguments.photos, arguments.work, seed)
        for name in arguments.only:
            folder = run_variant(data, arguments.work, VARIANTS[name], seed)
            runs[name].append(test_figures(data, folder, arguments.work, seed))
            print(name, seed, runs[name][-1][0], flush=True)
    if arguments.seeds:
        return
    figures = {name: summary(rows, runs["none"]) for name, rows in runs.items()}
    data = prepare_split(arguments.photos, arguments.work, SEEDS[0])
    write_result(
        "query_augmentation",
        {
            "seeds": len(SEEDS),
            "base": list(BASE),
            "settings": {name: list(settings) for name, settings in VARIANTS.items()},
            "photos": {split: int((data.splits == split).sum()) for split in ("train", "val", "test")},
            "labels": {"seen": int(data.seen.sum()), "unseen": int((~data.seen).sum())},
            "variants": figures,
        },
    )


def prepare_split(photos: Path, work: Path, seed: int) -> PreparedDataset:
    """The data set of a seed: which names are unseen, and which photos are for what."""
    folder = work / f"data{seed}"
    if not (folder / "dataset.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        labels = photo_labels(photos)
        unseen = draw_unseen(sorted(set(labels.values())), seed)
        table = work / f"photos{seed}.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "tags", "split"))
            writer.writerows((path, name, split_of(path, name in unseen)) for path, name in labels.items())
        options = Options("packaged", "error", skip_images=True)
        prepare_table(table, folder, options, Columns(split="split"), photos, unseen=",".join(sorted(unseen)))
    return load_dataset(folder)


def photo_labels(photos: Path) -> dict[str, str]:
    """Photo -> its class name, as the packaged words spell it; names they do not know are left out."""
    table = WordTable.load(PACKAGED)
    names = {path: path.stem.partition("_")[2] for path in (photos / "imagenet1k").glob("*.jpg")}
    names |= {path: path.parent.name for path in (photos / "caltech101").glob("*/*.jpg")}
    found = {path: table.resolve(name.replace("_", " ")) for path, name in sorted(names.items())}
    return {path.relative_to(photos).as_posix(): word.key for path, word in found.items() if word}


def draw_unseen(names: list[str], seed: int) -> set[str]:
    """A quarter of the names; those that begin with another name ("flamingo", "flamingo head") stay together."""
    known = set(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        words = name.split()
        first = next((" ".join(words[:n]) for n in range(1, len(words)) if " ".join(words[:n]) in known), name)
        groups.setdefault(first, []).append(name)
    unseen: set[str] = set()
    for first in np.random.default_rng(seed).permutation(sorted(groups)):
        if len(unseen) < UNSEEN * len(names):
            unseen |= set(groups[first])
    return unseen


def split_of(path: str, unseen: bool) -> str:
    if unseen:
        return "test"
    part = zlib.crc32(path.encode()) % 10
    if path.startswith("imagenet1k/"):
        return "train"
    return "test" if part < 3 else "val" if part == 3 else "train"


def run_variant(data: PreparedDataset, work: Path, settings: tuple[str, ...], seed: int) -> Path:
    """The model folder of a variant, trained unless it is there."""
    config = read_recipe("my-photos").changed([*BASE, *settings, f"seed={seed}"])
    key = zlib.crc32(json.dumps(config.as_dict()).encode())
    folder = work / f"model-{seed}-{key:08x}"
    began = (folder / "run" / "checkpoint.pt").is_file()
    if not (folder / "config.json").is_file():
        train(TrainRun(data.folder, folder, config, cache=work / "cache", resume=began))
    return folder


def validation_of(folder: Path) -> dict[str, float]:
    return {name: round(value, 4) for name, value in ModelFolder(folder).config.provenance["validation"].items()}


def test_figures(data: PreparedDataset, folder: Path, work: Path, seed: int) -> tuple[Row, np.ndarray]:
    """Figures on test in percent, and the average precision of each unseen name."""
    model = load_model(folder)
    rows = data.rows("test")
    plain = TrainConfig(freeze=True, cache_views=1, seed=seed)
    cache = FeatureCache(work / "cache", Path(str(data.image_root)), data.paths, rows, plain)
    cache.fill(model, Accelerator(cpu=True), lambda line: None)  # noqa: ARG005
    scores = score_cached(model, torch.from_numpy(data.word_vectors), cache, rows)
    logits, targets = scores.logits, data.targets(scores.rows).astype(np.int64)
    shows_unseen, unseen = targets[:, ~data.seen].any(axis=1), ~data.seen
    precisions = average_precision(logits[shows_unseen][:, unseen], targets[shows_unseen][:, unseen])
    bias = ModelFolder(folder).config.unseen_bias
    every = average_precision(logits, targets)
    figures = {
        "ZSL mAP": float(np.nanmean(precisions)),
        "ZSL F1@3": precision_recall_f1_at_k(logits[shows_unseen][:, unseen], targets[shows_unseen][:, unseen], 3)[2],
        "GZSL mAP": float(np.nanmean(every)),
        "GZSL mAP of seen": float(np.nanmean(every[data.seen])),
        "GZSL F1@3": precision_recall_f1_at_k(logits, targets, 3)[2],
        "GZSL F1@3 with the bias": precision_recall_f1_at_k(logits + bias * unseen, targets, 3)[2],
    }
    return {name: 100 * value for name, value in figures.items()}, precisions


def summary(runs: list[tuple[Row, np.ndarray]], base: list[tuple[Row, np.ndarray]]) -> dict[str, object]:
    """Means over the seeds with their least and largest, and the gain in ZSL mAP over no augmentation.

    The gain's 95 % interval is a paired bootstrap over (seed, unseen name).
    """
    result: dict[str, object] = {}
    for name in runs[0][0]:
        values = [figures[name] for figures, _ in runs]
        result[name] = {
            "mean": round(float(np.mean(values)), 2), "low": round(min(values), 2), "high": round(max(values), 2),
        }  # fmt: skip
    gains = np.concatenate([ours - theirs for (_, ours), (_, theirs) in zip(runs, base, strict=True)])
    gains = 100 * gains[np.isfinite(gains)]
    random = np.random.default_rng(0)
    means = [gains[random.integers(0, len(gains), len(gains))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    interval = [round(float(low), 2), round(float(high), 2)]
    result["gain in ZSL mAP"] = {"mean": round(float(gains.mean()), 2), "95%": interval}
    return result


if __name__ == "__main__":
    main()

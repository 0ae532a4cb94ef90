"""Measure the zero-shot accuracy of our method and its peers on the same frozen features, vectors and splits.

    python -m benchmarks.zero_shot --photos DIR --wordnet DIR --work WORK

Photos: Caltech-101 (``caltech101/<class>/*.jpg``) and one for each ImageNet class (``imagenet1k/<wnid>_<name>.jpg``),
and 2x2 mosaics of them, which have several labels. Backbone: EfficientNet-Lite0 at 256 px, frozen; its own ImageNet
training has seen most of these names, as is usual in zero-shot learning. Its classifier is not used. Word vectors: the
packaged ones.

For each of five seeds a quarter of the names is unseen, another quarter each. Names of one WordNet synset, singular and
plural, one name within another ("flamingo", "flamingo head") and names with a cosine above 0.85 stay on one side. Of
the seen names a tenth is held out of training: it chooses each method's settings (six tries, on seed 0), with mosaics
of its own; nothing is chosen on test. README.md lists what else was tried on validation: more for ours than for the
others.

Test: photos of unseen names, three in ten of Caltech's trained names' photos, and 1,000 mosaics made in pixels, each
with an unseen name, their names drawn evenly. ZSL: images with an unseen name, ranked among the unseen names. GZSL: the
mosaics, trained and unseen names. mAP: mean over the names with positives of scikit-learn's average precision
(protocol "strict"). F1@3 is micro; "names centred" is F1@3 after each name's mean score on 256 training images is taken
off its scores, for every method alike: otherwise names near to everything fill the first places.

Training: names are drawn evenly. Methods on mean tokens see 24,000 images, photos at both sizes or photos and mosaics,
which is one of their settings; decoders see photos and fresh mosaics, half and half, for 300 steps. Training mosaics
are made of features (a mosaic's tokens are its parts' tokens, borders aside).

coco100: 100 COCO photos, 80 names, mAP over names with 3 positives; some of these names are seen in training, so this
is not a zero-shot figure. Intervals: bootstrap over (seed, name) for mAP and for the gains, which are paired.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import write_result
from benchmarks.tagging_accuracy import LEAST_POSITIVES, read_coco
from benchmarks.zero_shot.ours import decoder, local_cosine, training_batch
from benchmarks.zero_shot.peers import Scorer, Settings, conse, eszsl, fast0tag, ridge
from benchmarks.zero_shot.photos import SIZE, TEST_MOSAICS, Photos, Split
from zsl_tagger.assets import PACKAGED
from zsl_tagger.evaluation.metrics import average_precision, mean_average_precision, precision_recall_f1_at_k
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.system.threads import keep_freed_memory
from zsl_tagger.words.table import WordTable

SEEDS = (0, 1, 2, 3, 4)
KNOWN = 256  # training images that give each name's usual score
RESAMPLES = 2000

Run = dict[str, list[float]]  # figures of a seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet 3.0 dict folder")
    parser.add_argument("--work", type=Path, required=True, help="features, and the runs that are done")
    parser.add_argument("--part", choices=METHODS, nargs="*", help="run these only, for several processes; no result")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    photos = Photos(arguments.photos, arguments.wordnet, arguments.work)
    names = arguments.part or list(METHODS)
    tuning = {name: tune(name, photos, arguments.work) for name in names}
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for split in (Split(photos, seed) for seed in SEEDS):
        for name in names:
            runs[name].append(run(name, chosen(tuning[name]), split, arguments.work))
    if arguments.part:
        return
    best = max(names, key=lambda name: max(value for _, value in tuning[name]))
    write_result(
        "zero_shot",
        {
            "seeds": len(SEEDS),
            "photos": len(photos.paths),
            "names": len(photos.names),
            "best on validation": best,
            "methods": {name: summary(name, runs) for name in names},
            "gain of query augmentation": gain(runs["ours"], runs["ours without query augmentation"]),
            "tuning": {
                name: [{"settings": settings, "validation ZSL mAP": round(100 * value, 2)} for settings, value in tried]
                for name, tried in tuning.items()
            },
        },
    )


OURS: Settings = {"gamma_neg": 2.0, "clip": 0.0, "scale": 20.0, "focal_gradient": True}

#: {method: (function, the six settings to try)}.
METHODS: dict[str, tuple[Callable[[Split, Settings], Scorer], list[Settings]]] = {
    "ConSE": (
        conse,
        [{"mosaics": m, "weight_decay": w, "top": t} for m, w, t in (
            (1, 0.3, 100), (1, 1.0, 100), (1, 2.0, 100), (1, 1.0, 50), (1, 1.0, 200), (0, 1.0, 100),
        )],
    ),
    "ridge (DeViSE)": (ridge, [{"mosaics": m, "decay": d} for m in (0, 1) for d in (3.0, 10.0, 30.0)]),
    "ESZSL": (
        eszsl,
        [{"mosaics": m, "gamma": g, "lambda": s} for m, g, s in (
            (0, 10.0, 30.0), (0, 30.0, 30.0), (0, 100.0, 30.0), (0, 30.0, 10.0), (0, 30.0, 100.0), (1, 10.0, 30.0),
        )],
    ),
    "Fast0Tag": (
        fast0tag,
        [{"mosaics": m, "hidden": h, "lr": lr} for m, h, lr in (
            (1, 512, 1e-4), (1, 512, 3e-4), (1, 512, 1e-3), (1, 1024, 3e-4), (1, 0, 3e-4), (0, 512, 3e-4),
        )],
    ),
    "ML-Decoder, released recipe": (
        decoder, [{"lr": lr, "gamma_neg": g} for g in (4.0, 2.0) for lr in (1e-3, 2e-3, 4e-3)],
    ),
    "ML-Decoder, focal weight differentiated": (
        decoder,
        [{"lr": lr, "gamma_neg": g, "focal_gradient": True} for g in (4.0, 2.0) for lr in (1e-3, 2e-3, 4e-3)],
    ),
    "ML-Decoder, grouped word queries": (
        decoder,
        [{"lr": lr, "gamma_neg": 2.0, "groups": g, "focal_gradient": True} for g in (8, 16, 32) for lr in (2e-3, 4e-3)],
    ),
    "local cosine of the ridge alone": (
        local_cosine,
        [{"weight_decay": 0.0, "decay": d, "sharpness": t} for d in (10.0, 20.0, 40.0) for t in (30.0, 60.0)],
    ),
    "local cosine alone": (
        local_cosine,
        [{}, {"decay": 10.0}, {"decay": 40.0}, {"weight_decay": 0.5}, {"weight_decay": 2.0}, {"sharpness": 30.0}],
    ),
    "ours without query augmentation": (
        decoder,
        [OURS | {"lr": lr, "scale": s} for lr, s in (
            (3e-5, 20.0), (1e-4, 20.0), (3e-4, 20.0), (1e-3, 20.0), (1e-4, 10.0), (1e-4, 40.0),
        )],
    ),
    "ours": (
        decoder,
        [OURS | {"lr": lr, "noise": n} for lr, n in (
            (1e-4, 1.0), (1e-4, 2.0), (1e-4, 4.0), (3e-4, 2.0), (3e-4, 4.0), (3e-4, 8.0),
        )],
    ),
}  # fmt: skip


def tune(name: str, photos: Photos, work: Path) -> list[tuple[Settings, float]]:
    """Return every setting of a method with its ZSL mAP on the held-out names of seed 0."""
    method, tried = METHODS[name]
    split, results = Split(photos, SEEDS[0]), []
    for settings in tried:
        path = work / f"tuned-{key(name, settings)}.json"
        if not path.exists():
            began = time.perf_counter()
            tokens, targets = split.validation
            shown = targets[:, split.held].any(axis=1)
            scores = method(split, settings)(tokens[shown], split.vectors(split.held))
            value = mean_average_precision(scores, targets[shown][:, split.held])
            path.write_text(json.dumps(value))
            print(f"{name} {settings}: {100 * value:.2f} ({time.perf_counter() - began:.0f} s)", flush=True)
        results.append((settings, float(json.loads(path.read_text()))))
    return results


def chosen(tried: list[tuple[Settings, float]]) -> Settings:
    return max(tried, key=lambda one: one[1])[0]


def key(name: str, settings: Settings) -> str:
    return f"{zlib.crc32(json.dumps([name, settings]).encode()):08x}"


def run(name: str, settings: Settings, split: Split, work: Path) -> Run:
    """Return test figures of one seed, and each unseen name's average precision."""
    path = work / f"run-{split.seed}-{key(name, settings)}.json"
    if not path.exists():
        scorer = METHODS[name][0](split, settings)
        tokens, targets = split.test
        asked, shown = split.trained | split.unseen, targets[:, split.unseen].any(axis=1)
        zsl, truth = scorer(tokens[shown], split.vectors(split.unseen)), targets[shown][:, split.unseen]
        mosaics = slice(-TEST_MOSAICS, None)
        scores, gzsl_truth = scorer(tokens[mosaics], split.vectors(asked)), targets[mosaics][:, asked]
        known = training_batch(split, KNOWN, 64, np.random.default_rng([split.seed, 5]))[0]
        usual = scorer(known, split.vectors(asked)).mean(axis=0)  # (asked,)
        figures = {
            "ZSL precisions": average_precision(zsl, truth).tolist(),
            "ZSL mAP": [mean_average_precision(zsl, truth)],
            "ZSL F1@3": [f1_at_3(zsl, truth)],
            "ZSL F1@3, names centred": [f1_at_3(zsl - usual[split.unseen[asked]], truth)],
            "GZSL mAP": [mean_average_precision(scores, gzsl_truth)],
            "GZSL F1@3": [f1_at_3(scores, gzsl_truth)],
            "GZSL F1@3, names centred": [f1_at_3(scores - usual, gzsl_truth)],
            "coco100 mAP": [coco_map(scorer, split.photos)],
        }
        path.write_text(json.dumps(figures))
        print(f"{name}, seed {split.seed}: ZSL mAP {100 * figures['ZSL mAP'][0]:.2f}", flush=True)
    return json.loads(path.read_text())


def f1_at_3(scores: np.ndarray, targets: np.ndarray) -> float:
    return precision_recall_f1_at_k(scores, targets, 3)[2]


def coco_map(scorer: Scorer, photos: Photos) -> float:
    paths, targets, names = read_coco(photos.root / "coco100")
    tokens = photos.tokens("coco", lambda row: load_array(paths[row], Preprocessing(SIZE)), len(paths))
    enough = targets.sum(axis=0) >= LEAST_POSITIVES
    scores = scorer(tokens, WordTable.load(PACKAGED).vectors(names))
    return mean_average_precision(scores[:, enough], targets[:, enough])


def summary(name: str, runs: dict[str, list[Run]]) -> dict[str, object]:
    """Return means over seeds in percent, ZSL mAP with its interval, and our paired gain over this method."""
    own = runs[name]
    figures: dict[str, object] = {
        metric: round(100 * float(np.mean([one[metric][0] for one in own])), 2)
        for metric in own[0]
        if metric != "ZSL precisions"
    }
    precisions = [np.array(one["ZSL precisions"], float) for one in own]
    figures["ZSL mAP_95%"] = spread(precisions)
    figures["ZSL mAP by seed"] = [round(100 * one["ZSL mAP"][0], 2) for one in own]
    if name != "ours":
        figures["gain of ours"], figures["gain of ours_95%"] = gain(runs["ours"], own)
    return figures


def gain(ours: list[Run], other: list[Run]) -> tuple[float, list[float]]:
    """Return the difference of ZSL mAP in percent, mean over seeds, and its interval, paired by seed and name."""
    gains = [
        np.array(a["ZSL precisions"], float) - np.array(b["ZSL precisions"], float)
        for a, b in zip(ours, other, strict=True)
    ]
    return round(100 * float(np.mean([np.nanmean(one) for one in gains])), 2), spread(gains)


def spread(by_seed: list[np.ndarray]) -> list[float]:
    """Return the 95 % interval of the mean over seeds, resampling seeds and the names within each."""
    random, means = np.random.default_rng(0), []
    known = [one[np.isfinite(one)] for one in by_seed]
    for _ in range(RESAMPLES):
        drawn = [known[k] for k in random.integers(0, len(known), len(known))]
        means.append(np.mean([one[random.integers(0, len(one), len(one))].mean() for one in drawn]))
    return [round(100 * float(edge), 2) for edge in np.percentile(means, (2.5, 97.5))]


if __name__ == "__main__":
    main()

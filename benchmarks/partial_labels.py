"""Compare losses for partial labels with 10, 50 and 100 % of the labels known.

    python -m benchmarks.partial_labels --photos DIR --work WORK [--seeds 0 --steps 5]

Photos, features, learning rates and test sets are as in ``benchmarks.heads`` (WORK may be the same), 18 COCO classes.
The head is ML-Decoder with learned queries: they learn more than word queries in these few steps. Of the training and
the validation photos each pair of photo and class is known with the chance of its row, the same pairs for every loss
and seed (the scheme RPS of Ben-Baruch et al. 2022); the test photos keep all their labels. ``selective`` takes its
priors from the run with ``ignore`` on the same labels and seed. Validation mAP, over known pairs, chooses the step
and, on the first seed, the learning rate.

mAP is the mean over the classes with a test photo, then over seeds, with a bootstrap over test photos; gains over
``negative`` are paired. With all labels known the losses are identical.

All of it should take at most half an hour on two idle cores; ``--seeds`` and ``--steps`` are for a trial, which writes
no result.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import write_result
from benchmarks.heads import (
    BASE,
    RATES,
    SEEDS,
    Resampled,
    Trained,
    filled_cache,
    gain,
    measured,
    parsed_arguments,
    prepared,
    queries_of,
    seeds,
    settings_for,
    test_sets,
    trained,
)
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.training.data import split_for_training
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.partial_labels import known_share
from zsl_tagger.training.validation import score_cached

SHARES = (0.1, 0.5)
HEAD = ("head=closed",)
NEGATIVE, SELECTIVE = "negative", "selective"
#: ``selective`` follows ``ignore``, whose model gives it the priors. 18 classes: one likely label per photo is skipped.
LOSSES: dict[str, tuple[str, ...]] = {
    "ignore": ("unknown_labels=ignore",),
    NEGATIVE: ("unknown_labels=negative",),
    SELECTIVE: ("unknown_labels=selective", "likelihood_top=1", "prior_threshold=0.5"),
}


def main() -> None:
    arguments = parsed_arguments(__doc__)
    data = prepared(arguments.photos, arguments.work)
    cache = filled_cache(data, arguments.work)
    full = measured(data, cache, *trained(data, cache, HEAD, arguments))
    rows: dict[str, Any] = {"100 %": without_speed({"all known": full})}
    print(rows, flush=True)
    for share in SHARES:
        partial = with_unknown(data, share)
        known = known_share(partial, split_for_training(partial, settings_for((), 0, RATES[0])))
        found = compared(partial, cache, arguments)
        rows[f"{share:.0%}".replace("%", " %")] = {"known": round(known, 3), **without_speed(found)}
        print(share, without_speed(found), flush=True)
    if not arguments.seeds and not arguments.steps:
        photos = {split: int((data.splits == split).sum()) for split in ("train", "val")}
        photos |= {name: len(images) for name, images in test_sets(data).items()}
        settings = {name: list(own) for name, own in LOSSES.items()}
        about = {"seeds": len(SEEDS), "base": list(BASE), "rates": list(RATES), "settings": settings, "photos": photos}
        write_result("partial_labels", {**about, "classes": list(data.labels), "known": rows})


def with_unknown(data: PreparedDataset, share: float) -> PreparedDataset:
    """Return the data with a share of the pairs of photo and class known, of train and val; test keeps all."""
    targets = data.targets(np.arange(len(data.paths)))
    known = np.random.default_rng([int(1000 * share), 7]).random(targets.shape) < share
    known[data.rows("test")] = True
    return replace(
        data,
        label_indices=[np.flatnonzero(row) for row in targets & known],
        negative_indices=[np.flatnonzero(row) for row in ~targets & known],
    )


def compared(
    data: PreparedDataset, cache: FeatureCache, arguments: argparse.Namespace
) -> dict[str, tuple[dict[str, Any], Resampled]]:
    """Return the figures of each loss on the same partial labels, and their mAP on resamples of each test set."""
    found: dict[str, tuple[dict[str, Any], Resampled]] = {}
    priors: dict[int, np.ndarray] = {}
    for name, settings in LOSSES.items():
        models, validated = trained(data, cache, (*HEAD, *settings), arguments, priors if name == SELECTIVE else None)
        if name == "ignore":
            priors = {seed: priors_of(one, cache) for seed, one in zip(seeds(arguments), models, strict=True)}
        found[name] = measured(data, cache, models, validated)
    for name, (figures, resampled) in found.items():
        if name != NEGATIVE:
            other, drawn = found[NEGATIVE]
            figures["gain over negative, mAP"] = {
                tested: gain(figures[tested]["mAP"] - other[tested]["mAP"], own - drawn[tested])
                for tested, own in resampled.items()
            }
    return found


def priors_of(chosen: Trained, cache: FeatureCache) -> np.ndarray:
    """Return the mean probability of each class over the validation photos, as ``train`` writes it."""
    model, split = chosen
    scores = score_cached(model, queries_of(model, split), cache, split.val)
    return np.asarray(sigmoid(scores.logits).mean(axis=0))


def without_speed(found: dict[str, tuple[dict[str, Any], Resampled]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each loss, without the figures that all share."""
    return {
        name: {key: value for key, value in figures.items() if key not in ("parameters", "ms")}
        for name, (figures, _) in found.items()
    }


if __name__ == "__main__":
    main()

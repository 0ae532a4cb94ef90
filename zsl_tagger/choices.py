"""Allowed values of options that are a choice.

The command line reads these for its help and completion, so this module imports nothing heavy.
``tests/test_options.py`` compares them with the tables of the modules that implement the choices.
"""

from __future__ import annotations

from typing import Literal

CocoTask = Literal["multi-label", "zsl-48-17", "zsl-65-15"]
Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["local", "ray"]
FoldersTask = Literal["single-label", "multi-label"]
Format = Literal["table", "json", "jsonl", "csv", "parquet", "sqlite"]
Interpolation = Literal["bicubic", "bilinear"]
LabelGroup = Literal["all", "seen", "unseen"]
LvisTask = Literal["multi-label", "zsl-rare"]
MirflickrLabels = Literal["potential", "relevant", "both"]
Missing = Literal["error", "drop", "random"]
NusWideProtocol = Literal["mld", "lesa"]
Pool = Literal["global", "tokens", "local-global"]
Precision = Literal["fp32", "fp16", "int8"]
Protocol = Literal["strict", "mld", "lesa", "biam", "lesa-openimages", "biam-openimages"]
Recipe = Literal[
    "my-photos",
    "nus-wide-zsl",
    "nus-wide-zsl-augmented",
    "coco-zsl",
    "coco-multilabel",
    "coco-multilabel-xl",
    "clip-zsl",
    "clip-local-global",
    "imagenet-a2",
    "cifar100",
    "stanford-cars",
]
ScoreKind = Literal["logits", "probabilities"]
SearchFormat = Literal["table", "json", "jsonl"]
Sidecar = Literal["xmp", "txt", "json"]
SuggestFormat = Literal["table", "json"]
Split = Literal["train", "val", "test"]

"""Show the settings of a run: what each means, and which differ from the recipe."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from typing import Any

from zsl_tagger.reports.text import WIDTH, wrapped
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.recipes import RECIPES, read_recipe

NAME_WIDTH = 30

#: The meaning of settings whose comment in config.py, shown behind it in brackets, says no more than a unit or nothing.
MEANINGS = {
    "init": "what the weights start from",
    "head": "ML-Decoder for words (zero-shot) or for a closed set; or another head for a closed set",
    "bias_init": "first bias of the decoder",
    "min_epoch_steps": "fewest steps of an epoch",
    "smoothing": "label smoothing",
    "rand_augment": "RandAugment",
    "ffn_dim": "width of the decoder's feed-forward network",
    "heads": "attention heads of the decoder",
    "dropout": "dropout in the decoder, share",
    "epochs": "passes over the training images",
    "lr": "largest learning rate",
    "weight_decay": "decay of the weights",
    "schedule": "course of the learning rate",
    "precision": "number format of the computation",
    "channels_last": "memory layout of images that is fast on GPUs",
    "compile": "compile the network first",
    "seed": "of all random draws",
    "loss": "asymmetric loss, binary or softmax cross entropy",
    "gamma_neg": "exponent of the focal weight of negatives",
    "gamma_pos": "exponent of the focal weight of positives",
    "clip": "asl: subtracted from the probability of negatives",
    "reduction": "how the losses of a step are joined",
    "random_query_target": "target of random queries, share",
    "flip": "horizontal flip",
    "mixup": "mixing of two images",
    "cutmix": "pasting a part of another image",
    "validate_every": "interval of validation",
    "checkpoint_every": "interval of checkpoints",
}

_SECTION = re.compile(r"    # --- (?P<title>.+)")
_SETTING = re.compile(r"    (?P<name>\w+): [^#]+?(?:  # (?P<comment>.+))?")


def show(settings: TrainConfig) -> list[str]:
    """Return the settings as ``--set`` takes them, with their meanings; those with a * differ from the recipe."""
    has_recipe = settings.recipe in RECIPES
    usual = read_recipe(settings.recipe) if has_recipe else TrainConfig(recipe=settings.recipe)
    source = f"recipe {settings.recipe}" if has_recipe else "defaults"
    lines = wrapped(f"* differs from the {source}, whose value is named")
    sections, comments = _source()
    for name, value in settings.as_dict().items():
        if name in sections:
            lines += ["", sections[name]]
        text, before = meaning(name, comments), getattr(usual, name)
        if value != before:
            text = f"{source.split()[0]}: {_text(before)}. {text}"
        lines += _entry("*" if value != before else " ", f"{name}={_text(value)}", text)
    return lines


def meaning(name: str, comments: dict[str, str] | None = None) -> str:
    """Return what a setting means; "" where neither the table nor a comment says.

    Args:
        comments: those of the settings in config.py; None: they are read.
    """
    comment = (_source()[1] if comments is None else comments).get(name, "")
    if name not in MEANINGS:
        return comment
    return f"{MEANINGS[name]} ({comment})" if comment else MEANINGS[name]


def _source() -> tuple[dict[str, str], dict[str, str]]:
    """Return titles of sections by their first setting, and the comments of settings, as config.py has them."""
    sections, comments, title = {}, {}, ""
    for line in inspect.getsource(TrainConfig).split("\n"):
        if section := _SECTION.fullmatch(line):
            title = section["title"]
        elif setting := _SETTING.fullmatch(line):
            if title:
                sections[setting["name"]], title = title, ""
            comments[setting["name"]] = setting["comment"] or ""
    return sections, comments


def _entry(mark: str, setting: str, text: str) -> list[str]:
    """Return a setting with its meaning beside it, or below it where it is long."""
    left, column = f"{mark} {setting}", NAME_WIDTH + 2
    beside = textwrap.wrap(text, WIDTH - column) or [""]
    if len(left) >= column:
        return [left, *(" " * column + line for line in beside)]
    return [f"{left:{column}}{beside[0]}".rstrip(), *(" " * column + line for line in beside[1:])]


def _text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)

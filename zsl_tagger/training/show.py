"""Show the settings of a run with their meanings, and mark those that differ from the recipe."""

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

#: Meanings of settings whose comment in config.py is missing or too short; the comment follows in brackets.
MEANINGS = {
    "init": "initial weights",
    "resize": "how images become square: squash the whole image or crop its centre",
    "head": "ML-Decoder with word queries (zero-shot) or for a closed set, or another head",
    "min_epoch_steps": "minimum number of steps per epoch",
    "smoothing": "label smoothing",
    "rand_augment": "RandAugment",
    "ffn_dim": "width of the decoder's feed-forward network",
    "heads": "attention heads of the decoder",
    "dropout": "dropout in the decoder, share",
    "epochs": "passes over the training images",
    "lr": "peak learning rate",
    "weight_decay": "weight decay",
    "schedule": "learning-rate schedule",
    "precision": "floating-point precision",
    "channels_last": "memory layout of images that is fast on GPUs",
    "compile": "compile the network first",
    "seed": "seed of all random numbers",
    "loss": "asymmetric loss, binary or softmax cross entropy",
    "gamma_neg": "exponent of the focal weight of negatives",
    "gamma_pos": "exponent of the focal weight of positives",
    "clip": "asl: value subtracted from the probabilities of negatives",
    "reduction": "reduction of the loss of a step",
    "unknown_labels": "ignore unknown labels, or treat them as absent in one of four ways",
    "random_query_target": "target of random queries, share",
    "flip": "horizontal flip",
    "mixup": "mixup of two images",
    "cutmix": "cutmix of two images",
    "validate_every": "interval of validation",
    "checkpoint_every": "interval of checkpoints",
}

_SECTION = re.compile(r"    # --- (?P<title>.+)")
_SETTING = re.compile(r"    (?P<name>\w+): [^#]+?(?:  # (?P<comment>.+))?")


def show(settings: TrainConfig) -> list[str]:
    """Return lines with the settings as ``--set`` takes them and their meanings; a * marks changes to the recipe."""
    has_recipe = settings.recipe in RECIPES
    original = read_recipe(settings.recipe) if has_recipe else TrainConfig(recipe=settings.recipe)
    source = f"recipe {settings.recipe}" if has_recipe else "defaults"
    lines = wrapped(f"* differs from the {source}, whose value is shown")
    sections, comments = _source()
    for name, value in settings.as_dict().items():
        if name in sections:
            lines += ["", sections[name]]
        text, before = meaning(name, comments), getattr(original, name)
        if value != before:
            text = f"{source.split()[0]}: {_text(before)}. {text}"
        lines += _entry("*" if value != before else " ", f"{name}={_text(value)}", text)
    return lines


def meaning(name: str, comments: dict[str, str] | None = None) -> str:
    """Return the meaning of a setting, from :data:`MEANINGS` and its comment; "" if it has neither.

    Args:
        comments: comments of the settings in config.py; None: read them.
    """
    comment = (_source()[1] if comments is None else comments).get(name, "")
    if name not in MEANINGS:
        return comment
    return f"{MEANINGS[name]} ({comment})" if comment else MEANINGS[name]


def _source() -> tuple[dict[str, str], dict[str, str]]:
    """Return the section titles in config.py, by the first setting of each section, and the comments of settings."""
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
    """Return the lines of a setting, with its meaning next to it, or below if the setting is too long."""
    left, column = f"{mark} {setting}", NAME_WIDTH + 2
    wrapped_text = textwrap.wrap(text, WIDTH - column) or [""]
    if len(left) >= column:
        return [left, *(" " * column + line for line in wrapped_text)]
    return [f"{left:{column}}{wrapped_text[0]}".rstrip(), *(" " * column + line for line in wrapped_text[1:])]


def _text(value: Any) -> str:
    """Format a value as ``--set`` takes it."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)

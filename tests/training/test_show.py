"""Test ``train --show``: settings with their meanings in 80 columns, with changes to the recipe marked."""

from __future__ import annotations

import dataclasses

import pytest

from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.recipes import RECIPES, read_recipe
from zsl_tagger.training.show import MEANINGS, meaning, show

NAMES = [field.name for field in dataclasses.fields(TrainConfig)]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_meaning(name: str) -> None:
    """From a comment in config.py of more than a word or two, or from the table."""
    assert len(meaning(name)) > 12, f"give {name} a comment in config.py that says what it means"


def test_the_table_has_no_other_names() -> None:
    assert set(MEANINGS) <= set(NAMES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_settings_of_a_recipe_are_not_marked(recipe: str) -> None:
    lines = show(read_recipe(recipe))
    assert [line for line in lines[1:] if line.startswith("*")] == []
    assert [line.split("=")[0].strip() for line in lines if line.startswith("  ") and "=" in line[:32]] == NAMES


def test_changes_are_marked_and_show_the_recipes_value() -> None:
    settings = read_recipe("cifar100").changed(["lr=1e-3", "clip_grad=1", "flip=0.25"])
    usual = read_recipe("cifar100")
    text = show(settings)
    assert text[0] == "* differs from the recipe cifar100, whose value is shown"
    marked = {line[2:].split("=")[0]: line for line in text[1:] if line.startswith("*")}
    assert list(marked) == ["lr", "clip_grad", "flip"]
    assert marked["lr"].split(maxsplit=2)[1:] == ["lr=0.001", f"recipe: {usual.lr}. peak learning rate"]
    assert "clip_grad=1.0 " in marked["clip_grad"]
    assert " recipe: none. maximum norm of the gradient" in marked["clip_grad"]


def test_settings_without_a_recipe_are_compared_with_the_defaults() -> None:
    text = show(TrainConfig(epochs=3))
    assert text[0] == "* differs from the defaults, whose value is shown"
    assert [line.split("=")[0] for line in text[1:] if line.startswith("*")] == ["* epochs"]
    assert "defaults: 40. passes over the training images" in "\n".join(text)


def test_sections_are_those_of_the_file() -> None:
    text = show(TrainConfig())
    assert [line for line in text[1:] if line and not line.startswith(" ")] == [
        "the network", "what is trained", "the loss",
        "partial labels: handling of unknown labels (asl, bce)", "the queries",
        "the images", "the run",
    ]  # fmt: skip


def test_lines_fit_a_terminal_and_printed_settings_can_be_set() -> None:
    changed = [
        "rand_augment=rand-m9-mstd0.5-inc1",
        "backbone=convnext_xxlarge.clip_laion2b_soup_ft_in1k",
        "lr=3e-5",
    ]
    settings = read_recipe("my-photos").changed(changed)
    text = show(settings)
    assert max(map(len, text)) <= 80
    printed = [line[2:].split(" ")[0] for line in text[1:] if line[:2] in ("  ", "* ") and "=" in line[2:32]]
    assert TrainConfig().changed(printed) == settings

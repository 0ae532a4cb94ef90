"""Published recipes: one file each, with its paper, command, run time and score in the docstring.

The training of the packaged model is in ``zsl_tagger/packaged/``.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import get_args

from zsl_tagger import choices
from zsl_tagger.errors import UserError
from zsl_tagger.training.config import TrainConfig

RECIPES: tuple[str, ...] = get_args(choices.Recipe)


def read_recipe(name: str) -> TrainConfig:
    """Return the settings of a recipe.

    Raises:
        UserError: there is no such recipe; the message suggests similar names.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"there is no recipe {name!r}; {hint}The recipes are: {', '.join(RECIPES)}")
    config: TrainConfig = import_module(f"zsl_tagger.training.recipes.{name.replace('-', '_')}").CONFIG
    return config

"""The one exception family that a command turns into a message instead of a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any


class UserError(ValueError):
    """Something the user can put right. The message says what was expected, what came and what to do."""


def some(names: Sequence[str], shown: int = 5) -> str:
    """``'a', 'b' and 3 more``: the first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """``"seed: 0, asked is 3; size: None, asked is 4"``: where two sets of settings differ."""
    changed = [key for key in {**held, **asked} if held.get(key) != asked.get(key)]
    return "; ".join(f"{key}: {held.get(key)!r}, asked is {asked.get(key)!r}" for key in changed)


def first_line(error: Exception) -> str:
    """What an error of another library says, short; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def require(module: str) -> None:
    """Raise a UserError that says what brings a module, unless it is there."""
    if find_spec(module) is None:
        raise UserError(f'{module} is not installed; it comes with: pip install "zsl-tagger[train]"')

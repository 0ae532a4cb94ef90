"""The one exception family that a command turns into a message instead of a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any


class UserError(ValueError):
    """Something the user can put right. The message says what was expected, what came and what to do."""


class PhotoError(UserError):
    """An error of one photo. It becomes the photo's record, and a run over many photos continues."""


class MissingExtraError(ImportError, UserError):
    """A package that an extra of zsl-tagger brings is not installed; the message has the command that installs it."""


def some(names: Sequence[str], shown: int = 5) -> str:
    """Return ``'a', 'b' and 3 more``: the first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """``"seed: 0, asked is 3; size: None, asked is 4"``: where two sets of settings differ."""
    changed = [key for key in {**held, **asked} if held.get(key) != asked.get(key)]
    return "; ".join(f"{key}: {held.get(key)!r}, asked is {asked.get(key)!r}" for key in changed)


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, or the error's kind where there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def require(module: str, extra: str, needed_by: str = "") -> None:
    """Raise a MissingExtraError unless a module can be found; it is not imported.

    Args:
        module: name of a top-level module.
        extra: the extra of pyproject.toml that brings it.
        needed_by: what cannot be read without it, e.g. "raw photos", where the caller's own words do not say.
    """
    if find_spec(module) is None:
        what = f"{needed_by} need {module}, which is not installed" if needed_by else f"{module} is not installed"
        raise MissingExtraError(f"{what}: {install_command(extra)}", name=module)


def install_command(extra: str) -> str:
    """Return how to install an extra. The package is on no index, so only a clone can."""
    return f'in a clone of zsl-tagger, run pip install ".[{extra}]"'

"""Exceptions that a command reports as a message instead of a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any


class UserError(ValueError):
    """An error that the user can fix. The message says what was expected, what was received and what to do."""


class PhotoError(UserError):
    """An error in a single photo: it is recorded for that photo, and a run over many photos continues."""


class MissingExtraError(ImportError, UserError):
    """A package from an extra of zsl-tagger is not installed; the message gives the command that installs it."""


def some(names: Sequence[str], shown: int = 5) -> str:
    """Return ``'a', 'b' and 3 more``: the first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def difference(held: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return how two sets of settings differ: ``"seed: 0, requested 3; size: None, requested 4"``."""
    changed = [key for key in {**held, **requested} if held.get(key) != requested.get(key)]
    return "; ".join(f"{key}: {held.get(key)!r}, requested {requested.get(key)!r}" for key in changed)


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, or the name of its class if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def require(module: str, extra: str, needed_by: str = "") -> None:
    """Raise a MissingExtraError unless a module is installed, without importing it.

    Args:
        module: name of a top-level module.
        extra: the extra of pyproject.toml that installs it.
        needed_by: the plural noun that needs the module, e.g. "raw photos", to name it in the message.
    """
    if find_spec(module) is None:
        what = f"{needed_by} need {module}, which is not installed" if needed_by else f"{module} is not installed"
        raise MissingExtraError(f"{what}: {install_command(extra)}", name=module)


def install_command(extra: str) -> str:
    """Return the command that installs an extra. The package is not on PyPI, so a clone is needed."""
    return f'in a clone of zsl-tagger, run pip install ".[{extra}]"'

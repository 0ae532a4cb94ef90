"""The one exception family that a command turns into a message instead of a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """Something the user can put right. The message says what was expected, what came and what to do."""


def some(names: Sequence[str], shown: int = 5) -> str:
    """``'a', 'b' and 3 more``: the first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def first_line(error: Exception) -> str:
    """What an error of another library says, short; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Shared layout of text reports."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from zsl_tagger.system.untrusted_text import printable

WIDTH = 80  # columns of a terminal


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row of cells, with columns as wide as their widest cell."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Wrap a sentence to indented lines of at most ``WIDTH`` columns, without breaking words or paths."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )

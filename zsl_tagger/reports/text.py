"""What reports on a terminal share."""

from __future__ import annotations

from collections.abc import Sequence

from zsl_tagger.system.untrusted_text import printable


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row of cells, with columns as wide as their widest cell."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]

"""Text files of others."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """UTF-8 text, or Latin-1 as old lists have it."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")

"""Make a small library: photos and their index."""

from __future__ import annotations

from pathlib import Path

from made_data import write_crops

from zsl_tagger import Library


def indexed_crops(folder: Path, examples: Path) -> Path:
    """Make ``photos``, ten parts of each example photo, and their ``index`` in a folder; return the folder."""
    (folder / "photos").mkdir()
    write_crops(folder / "photos", examples)
    with Library.open(folder / "index") as library:
        library.add(folder / "photos")
    return folder

"""Find the photos that the packaged model may be trained on."""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES

FOLDERS = ("imagenet1k", "caltech101", "scenes", "more")


def photos_in(root: Path) -> list[Path]:
    """Return all photos of the collections in ``root``, sorted."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*")]
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)

"""Locate the sidecar of a photo."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from zsl_tagger.images.raw import PHOTO_SUFFIXES

#: Suffixes of files that ``photo.xmp`` may belong to, besides images that can be tagged: other images, videos.
_OTHER_PHOTOS = frozenset(
    {
        *(".exr", ".hdr", ".jp2", ".jxl", ".psb", ".psd", ".tga", ".xcf"),
        *(".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts"),
    }
)


class Places:
    """Naming of sidecars, ``photo.jpg.xmp`` or ``photo.xmp``.

    Args:
        ending: suffix of the sidecars, e.g. ``.xmp``.
        stem: also accept ``photo.xmp``, unless several photos share the stem.
        new_by_stem: name new sidecars that way.
    """

    def __init__(self, ending: str, stem: bool, new_by_stem: bool):
        self._ending, self._stem, self._new_by_stem = ending, stem, new_by_stem
        self._stems: dict[Path, Counter[str]] = {}
        self._avoided: list[Path] = []

    def of(self, photo: Path) -> Path:
        """Return the existing sidecar, preferring ``photo.jpg.xmp`` to ``photo.xmp``, or the name of a new one.

        ``photo.xmp`` is not used if several photos share the stem.
        """
        full, short = self._full(photo), self._short(photo)
        if short is None or os.path.lexists(full):
            return full
        if not self._new_by_stem and not os.path.lexists(short):
            return full
        if self._shared(photo):
            self._avoided.append(photo)
            return full
        return short

    def avoided(self) -> str:
        """Return a message about photos whose ``photo.xmp`` was not used."""
        if not self._avoided:
            return ""
        photo = self._avoided[0]
        more = f" (and {len(self._avoided) - 1:,} more)" if len(self._avoided) > 1 else ""
        short, full = photo.with_suffix(self._ending).name, self._full(photo).name
        return f"; {short} could belong to several photos, so {photo.name} uses {full}{more}"

    def all_of(self, photo: Path) -> list[Path]:
        """Return the existing sidecars, under either name."""
        names = (self._full(photo), self._short(photo))
        return [name for name in dict.fromkeys(names) if name is not None and os.path.lexists(name)]

    def _full(self, photo: Path) -> Path:
        return photo.with_name(photo.name + self._ending)

    def _short(self, photo: Path) -> Path | None:
        """Return ``photo.xmp``; None if that is the photo itself, which ends like a sidecar."""
        return photo.with_suffix(self._ending) if self._stem and photo.suffix.lower() != self._ending else None

    def _shared(self, photo: Path) -> bool:
        if photo.parent not in self._stems:
            self._stems[photo.parent] = Counter(name.stem for name in photo.parent.iterdir() if _is_photo(name))
        others = self._stems[photo.parent][photo.stem] - _is_photo(photo)
        return others > 0


def _is_photo(name: Path) -> bool:
    suffix = name.suffix.lower()
    return suffix in PHOTO_SUFFIXES or suffix in _OTHER_PHOTOS

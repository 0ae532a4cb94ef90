"""Which file is a photo's sidecar."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from zsl_tagger.images.raw import PHOTO_SUFFIXES

#: Files that ``photo.xmp`` may be the sidecar of, beside those that can be tagged: other images, films.
_OTHER_PHOTOS = frozenset(
    {
        *(".exr", ".hdr", ".jp2", ".jxl", ".psb", ".psd", ".tga", ".xcf"),
        *(".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts"),
    }
)


class Places:
    """Names sidecars ``photo.jpg.xmp`` or ``photo.xmp``.

    Args:
        ending: of the sidecars, ``.xmp``.
        stem: ``photo.xmp`` is a name too, which other photos must not share.
        new_by_stem: and that of new sidecars.
    """

    def __init__(self, ending: str, stem: bool, new_by_stem: bool):
        self._ending, self._stem, self._new_by_stem = ending, stem, new_by_stem
        self._stems: dict[Path, Counter[str]] = {}
        self._avoided: list[Path] = []

    def of(self, photo: Path) -> Path:
        """Return the sidecar that is there, ``photo.jpg.xmp`` before ``photo.xmp``; else the name of a new one.

        ``photo.xmp`` is nobody's where several photos share the stem.
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
        """For a person: whose ``photo.xmp`` was not taken."""
        if not self._avoided:
            return ""
        photo = self._avoided[0]
        more = f" (and {len(self._avoided) - 1:,} more)" if len(self._avoided) > 1 else ""
        short, full = photo.with_suffix(self._ending).name, self._full(photo).name
        return f"; {short} could be of several photos, {photo.name} has {full}{more}"

    def all_of(self, photo: Path) -> list[Path]:
        """Those that are there, under either name."""
        names = (self._full(photo), self._short(photo))
        return [name for name in dict.fromkeys(names) if name is not None and os.path.lexists(name)]

    def _full(self, photo: Path) -> Path:
        return photo.with_name(photo.name + self._ending)

    def _short(self, photo: Path) -> Path | None:
        """None where it is no other file: a photo that ends like a sidecar."""
        return photo.with_suffix(self._ending) if self._stem and photo.suffix.lower() != self._ending else None

    def _shared(self, photo: Path) -> bool:
        if photo.parent not in self._stems:
            self._stems[photo.parent] = Counter(name.stem for name in photo.parent.iterdir() if _is_photo(name))
        others = self._stems[photo.parent][photo.stem] - _is_photo(photo)
        return others > 0


def _is_photo(name: Path) -> bool:
    suffix = name.suffix.lower()
    return suffix in PHOTO_SUFFIXES or suffix in _OTHER_PHOTOS

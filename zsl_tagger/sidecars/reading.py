"""Read the keywords of photos from XMP sidecars, and from XMP and IPTC inside the photos.

Keywords written by zsl-tagger are excluded, so that it never learns from its own predictions.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.IptcImagePlugin import getiptcinfo

from zsl_tagger.errors import PhotoError, UserError
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.opening import image_errors, open_photo
from zsl_tagger.records.record import Record
from zsl_tagger.sidecars.keywords import SidecarError, folded, keyword
from zsl_tagger.sidecars.places import Places
from zsl_tagger.sidecars.run import read_sidecar
from zsl_tagger.sidecars.xmp import of_user
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.words.spelling import normalize_label, singular_forms

logger = logging.getLogger(__name__)

_IPTC_KEYWORDS, _IPTC_CHARSET, _UTF8 = (2, 25), (1, 90), b"\x1b%G"
_TIFF_XMP = 700
#: Formats of which Pillow reads IPTC.
_WITH_IPTC = frozenset({"JPEG", "TIFF"})


def keywords_of_photo(photo: Path, places: Places) -> list[str]:
    """Return the keywords of a photo, without duplicates, from all programs.

    Args:
        places: naming of the XMP sidecars.

    Raises:
        SidecarError: a sidecar or the embedded XMP is invalid or cannot be read.
        ImageError: the photo cannot be opened.
    """
    words: list[str] = []
    for sidecar in places.all_of(photo):
        words += _in_sidecar(sidecar)
    with image_errors(), open_photo(photo) as image:
        words += _embedded(image)
    unique: dict[str, str] = {}
    for word in map(keyword, words):
        unique.setdefault(folded(word), word)
    unique.pop("", None)
    return list(unique.values())


def _in_sidecar(path: Path) -> list[str]:
    try:
        content, _ = read_sidecar(path)
        return of_user(content) if content else []
    except SidecarError as error:
        raise SidecarError(f"sidecar {path.name}: {error}") from None


def _embedded(image: Image.Image) -> list[str]:
    """Return the keywords embedded in an opened photo, without decoding its pixels."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or _tag(image, _TIFF_XMP)
    content = found.encode() if isinstance(found, str) else bytes(found or b"").rstrip(b"\0")
    words = of_user(content) if content else []
    return words + (_iptc(image) if isinstance(image, ImageFile) and image.format in _WITH_IPTC else [])


def _tag(image: Image.Image, number: int) -> Any:
    return getattr(image, "tag_v2", {}).get(number)


def _iptc(image: ImageFile) -> list[str]:
    found: Mapping[Any, Any] = {}
    with suppress(Exception):  # Pillow raises nearly anything on broken blocks
        found = getiptcinfo(image) or {}
    is_utf8 = found.get(_IPTC_CHARSET) == _UTF8
    values = found.get(_IPTC_KEYWORDS, [])
    return [_decoded(value, is_utf8) for value in (values if isinstance(values, list) else [values])]


def _decoded(value: bytes, is_utf8: bool) -> str:
    """Decode a keyword of an IPTC block, which is often UTF-8 without saying so."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace") if is_utf8 else value.decode("latin-1")


@dataclass
class KeywordCounts:
    """The photos of each keyword in a library, under the most common spelling of the keyword.

    Attributes:
        paths: paths of the photos that were read.
        with_keywords: number of photos with a keyword.
    """

    paths: list[str] = field(default_factory=list)
    with_keywords: int = 0
    _paths: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _spellings: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def photos(self) -> int:
        """Return the number of photos that were read."""
        return len(self.paths)

    def add(self, path: str, keywords: Iterable[str]) -> None:
        """Add a photo and its keywords."""
        self.paths.append(path)
        spelled = {normalize_label(word): word for word in keywords}
        spelled.pop("", None)
        self.with_keywords += bool(spelled)
        for key, word in spelled.items():
            self._paths[key].append(path)
            self._spellings[key][word] += 1

    def by_keyword(self) -> dict[str, list[str]]:
        """Return the photos of each keyword, most common first; plurals are merged into an existing singular."""
        paths, spellings = {key: list(own) for key, own in self._paths.items()}, dict(self._spellings)
        for key in list(paths):
            one = next((form for form in singular_forms(key) if form in paths and form != key), None)
            if one is not None:
                paths[one] = list(dict.fromkeys([*paths[one], *paths.pop(key)]))
                spellings[one] = spellings[one] + spellings.pop(key)
        order = sorted(paths, key=lambda key: (-len(paths[key]), key))
        return {spellings[key].most_common(1)[0][0]: paths[key] for key in order}


def read_keywords(folders: Sequence[str], workers: int) -> KeywordCounts:
    """Read the keywords of all photos in folders; unreadable photos are logged.

    Raises:
        UserError: there are no photos.
    """
    places, selection = Places(".xmp", stem=True, new_by_stem=False), Selection()

    def read(item: str | Record) -> tuple[str, list[str] | str]:
        if isinstance(item, Record):
            return item.path, item.error or ""
        path = os.path.abspath(item)  # noqa: PTH100 - follows no link
        try:
            return path, keywords_of_photo(Path(path), places)
        except PhotoError as error:
            return path, str(error)

    items = list(find_images(folders, selection=selection))
    counts = KeywordCounts()
    with Progress("reading keywords", len(items), unit="photos") as progress:
        for path, found in progress.over(map_in_order(read, items, workers)):
            if isinstance(found, str):
                logger.warning("%s: %s", path, found)
            else:
                counts.add(path, found)
    if not counts.photos:
        raise UserError(f"no readable photos in {', '.join(map(str, folders))}")
    return counts

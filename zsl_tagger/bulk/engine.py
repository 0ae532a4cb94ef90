"""Turn images into records; shared by both engines and ``--remove``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

from zsl_tagger.errors import PhotoError
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.images.urls import is_url, read_url
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.files import content_of
from zsl_tagger.tagging.label_set import LabelSet

#: Path or URL of an image, or the record of an error that occurred while finding images.
Item = str | Record
#: What the tagger reads: a local path, the content of a URL, or the reason why there is none.
Source = str | bytes | ImageError


class Engine(Protocol):
    """Tag images on threads of this process (``LocalEngine``), or on Ray (``RayEngine``)."""

    def records(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        """Yield what :func:`record_of` returns for each item, in order."""


@dataclass(frozen=True, kw_only=True)
class TagRequest:
    """Rules for the tags of an image to return.

    Attributes:
        threshold: minimum score 0..1; None: each label's own.
        top_k: maximum number of tags; None: all.
        exact: score every label, even if the list is long enough for a shortlist.
    """

    labels: LabelSet
    threshold: float | None = None
    top_k: int | None = None
    exact: bool = False


class Earlier(Protocol):
    """Look up the results of earlier runs."""

    def is_done(self, path: str, sha256: str) -> bool:
        """Return whether this path was tagged with this content."""

    def tags_of(self, sha256: str) -> list[Tag] | None:
        """Return the tags of this content, under any path; None if it is new."""


def record_of(
    item: Item,
    tags: Callable[[str], list[Tag]],
    earlier: Earlier | None = None,
    sha256_of: Callable[[str], str | None] = content_of,
) -> Record | None:
    """Return the record of an image; None if an earlier run already has it.

    Args:
        item: an image; an error record is returned unchanged.
        tags: computes the tags of a path; a PhotoError becomes an error record.
        earlier: results of earlier runs; None: no lookup, and no ``sha256`` in the record.
        sha256_of: returns the SHA-256 of the content of a path; None if it cannot be read.
    """
    if isinstance(item, Record):
        return item
    try:
        sha256 = None if earlier is None else sha256_of(item)
        if earlier is not None and sha256 is not None:
            if earlier.is_done(item, sha256):
                return None
            known = earlier.tags_of(sha256)
            if known is not None:  # it was renamed or copied
                return Record(item, known, sha256=sha256)
        return Record(item, tags(item), sha256=sha256)
    except PhotoError as error:
        return Record(item, [], str(error))


def source_of(path: str) -> Source:
    """Read the content of a URL; return a local path unchanged."""
    try:
        return read_url(path) if is_url(path) else path
    except ImageError as error:
        return error


def sha256_of_source(source: Source) -> str | None:
    """Return the SHA-256 of an image's content; None if it cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return content_of(source) if isinstance(source, str) else None

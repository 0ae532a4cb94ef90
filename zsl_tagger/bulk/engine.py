"""Turn images into records by one rule, which both engines and ``--remove`` share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

from zsl_tagger.errors import PhotoError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.files import content_of
from zsl_tagger.tagging.label_set import LabelSet

#: The path or URL of an image, or the record of an error that finding images met.
Item = str | Record


class Engine(Protocol):
    """Tag images on threads of this process (``LocalEngine``), or on Ray (``RayEngine``)."""

    def records(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        """Yield what :func:`record_of` returns for each item, in order."""


@dataclass(frozen=True, kw_only=True)
class TagRequest:
    """Say which tags of an image are wanted.

    Attributes:
        threshold: 0..1; None: each label's own.
        top_k: at most as many tags; None: all.
        exact: score every label, even of a list that is long enough for a shortlist.
    """

    labels: LabelSet
    threshold: float | None = None
    top_k: int | None = None
    exact: bool = False


class Earlier(Protocol):
    """Look up what earlier runs found."""

    def is_done(self, path: str, sha256: str) -> bool:
        """Return whether this path was tagged when it had this content."""

    def tags_of(self, sha256: str) -> list[Tag] | None:
        """Return the tags of this content, under whatever path; None where it is new."""


def record_of(
    item: Item,
    tags: Callable[[str], list[Tag]],
    earlier: Earlier | None = None,
    sha256_of: Callable[[str], str | None] = content_of,
) -> Record | None:
    """Return the record of an image; None where an earlier run has it.

    Args:
        item: an error of finding images is its own record.
        tags: computes the tags of a path. Its PhotoError makes a record with that error.
        earlier: None where nothing is known, and the record has no ``sha256``.
        sha256_of: returns the SHA-256 of the content of a path; None where it cannot be read.
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

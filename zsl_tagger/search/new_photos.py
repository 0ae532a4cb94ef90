"""Compute what the index stores of a new or changed photo, on threads of this process or on workers of Ray."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from zsl_tagger.errors import first_line
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Record
from zsl_tagger.search.packing import pack_classes, pack_logits, pack_tokens
from zsl_tagger.system.files import sha256_of
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.pooled import pooled_tokens
from zsl_tagger.tagging.tagger import Tagger


class Packed(NamedTuple):
    """Values of a photo's content as the index stores them (:mod:`zsl_tagger.search.packing`)."""

    tokens: bytes
    logits: bytes
    classes: bytes
    pooled: bytes


class NewPhoto(NamedTuple):
    """A new or changed photo.

    Attributes:
        size: of the file, in bytes; ``mtime_ns``: time of its last change, in nanoseconds.
        packed: the values to store; None if the index has this content.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    packed: Packed | None


def new_photo(path: str, tagger: Tagger, labels: LabelSet, is_known: Callable[[str], bool]) -> NewPhoto | Record:
    """Read a photo, and encode it unless its content is known; return an error record if it cannot be read.

    Args:
        is_known: returns whether the index has the content with this SHA-256.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            return Record(path, [], "not a regular file")
        sha256 = sha256_of(Path(path))
    except OSError as error:
        return Record(path, [], error.strerror or str(error))
    try:
        packed = None if is_known(sha256) else _packed(path, tagger, labels)
    except ImageError as error:
        return Record(path, [], str(error))
    return NewPhoto(path, status.st_size, status.st_mtime_ns, sha256, packed)


def _packed(path: str, tagger: Tagger, labels: LabelSet) -> Packed:
    encoded = tagger.encode(path)
    logits = tagger.logits(encoded, labels) + labels.probed(encoded)  # (1, V)
    classes = None if encoded.classes is None else encoded.classes[0]  # (N,)
    return Packed(
        tokens=pack_tokens(encoded.tokens[0]),
        logits=pack_logits(logits[0]),
        classes=pack_classes(classes),
        pooled=pack_logits(pooled_tokens(encoded.tokens)[0]),
    )


@dataclass(frozen=True)
class IndexTask:
    """Compute a new photo on a worker of Ray (:class:`zsl_tagger.tagging.ray_pool.Task`).

    Workers hash the photos: a first pass here would read all of them through this one machine, although most are new
    in a run that needs a cluster. So each machine gets the known hashes, once.

    Attributes:
        known: SHA-256 of the contents of the index in hexadecimal, sorted, bytes ``(n,)``: an array, since the workers
            of a machine share its memory.
    """

    doing: ClassVar[str] = "indexing"
    done: ClassVar[str] = "indexed"

    labels: LabelSet
    known: np.ndarray

    @classmethod
    def of(cls, labels: LabelSet, hashes: Iterable[str]) -> IndexTask:
        """Return the task for an index that has contents with these SHA-256."""
        return cls(labels, np.sort(np.array(list(hashes), "S64")))

    def read(self, item: str) -> str:
        """Return the path unchanged."""
        return item

    def __call__(self, tagger: Tagger, photo: str) -> NewPhoto | Record:
        """Return the new photo at a path, or an error record."""
        try:
            return new_photo(photo, tagger, self.labels, self._is_known)
        except Exception as error:  # one photo must not stop the run of a whole cluster
            return Record(photo, [], f"cannot be indexed: {type(error).__name__}: {first_line(error)}")

    def given_up(self, item: str, message: str) -> Record:
        """Return the record of an error."""
        return Record(item, [], message)

    def _is_known(self, sha256: str) -> bool:
        place = int(np.searchsorted(self.known, sha256.encode()))
        return place < len(self.known) and bool(self.known[place] == sha256.encode())

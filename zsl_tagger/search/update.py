"""Update an index from folders of photos: encode new and changed photos, remove deleted ones.

A photo whose size and time of last change are the same is not opened. For any other, the SHA-256 is computed first; if
the index has that content (the photo was moved, copied or touched), it is not encoded again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from zsl_tagger.choices import Engine
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.records.record import Record
from zsl_tagger.search.blocks import PHOTOS_PER_BLOCK
from zsl_tagger.search.new_photos import IndexTask, NewPhoto, new_photo
from zsl_tagger.search.store import IndexedPhoto, Store
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.signals import StopRequest
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger

logger = logging.getLogger(__name__)

Waiting = TypeVar("Waiting")

#: Number of photos whose size and time a thread compares with the index in one call.
_COMPARED_AT_ONCE = 512


@dataclass
class Counts:
    """Number of photos by outcome of an update."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0


class Updater:
    """Update an index from folders.

    Args:
        prune: also remove photos whose folder is empty or missing.
        selection: files and folders to leave out.
        engine: "local": encode on threads; "ray": on workers of Ray.
        workers: number of Ray's workers; None: one per core of the cluster.
    """

    def __init__(
        self,
        store: Store,
        tagger: Tagger,
        labels: LabelSet,
        prune: bool = False,
        selection: Selection | None = None,
        engine: Engine = "local",
        workers: int | None = None,
    ):
        self._selection = selection or Selection()
        self._store, self._tagger, self._labels, self._prune = store, tagger, labels, prune
        self._engine, self._workers = engine, workers
        self._photos, self._loose = store.photos(), store.loose()
        self._hashes: dict[str, int] | None = None  # read when the first new photo is found
        self.counts = Counts()

    def run(self, paths: Sequence[str], stop: StopRequest | None = None) -> Counts:
        """Index folders, files and globs; each photo is stored as soon as it is encoded."""
        roots = [os.path.abspath(path) if path else path for path in paths]
        items = list(find_images(roots, selection=self._selection))
        with self._store.transaction():
            for root in roots:
                if os.path.isdir(root):
                    self._store.add_root(root)
        progress = Progress("indexing", len(items), unit="photos")
        with progress, closing(self._prepared(self._new_photos(items, progress), stop)) as prepared:
            for one in progress.over(prepared):
                if isinstance(one, Record):
                    self._fail(one)
                else:
                    self._write(one)
        self._add_pooled(stop)
        self._remove_gone(roots, {item for item in items if isinstance(item, str)})
        self._arrange(stop)
        if left_out := self._selection.summary():
            logger.info("%s", left_out)
        return self.counts

    def _add_pooled(self, stop: StopRequest | None) -> None:
        """Add the pooled tokens that an index of version 2 lacks, computed from its tokens."""
        missing = self._store.without_pooled()
        with Progress("pooling", len(missing), unit="photos") as progress:
            for content in progress.over(_stoppable(missing, stop)):
                with self._store.transaction():
                    self._store.add_pooled(content)

    def _arrange(self, stop: StopRequest | None) -> None:
        """Turn rows that an earlier version wrote into blocks, one transaction per block."""
        blocks = range(self._store.loose() // PHOTOS_PER_BLOCK)
        with Progress("arranging scores", len(blocks), unit="blocks") as progress:
            for _ in progress.over(_stoppable(blocks, stop)):
                with self._store.transaction():
                    self._store.arrange()

    def _new_photos(self, items: Sequence[str | Record], progress: Progress) -> Iterator[str | Record]:
        """Yield photos that are new or have changed; count the others as done."""
        parts = (items[start : start + _COMPARED_AT_ONCE] for start in range(0, len(items), _COMPARED_AT_ONCE))
        with closing(map_in_order(self._changed, parts, self._tagger.workers)) as compared:
            for count, changed in compared:
                if count > len(changed):
                    progress.advance(count - len(changed))
                if changed and self._hashes is None:
                    self._hashes = self._store.hashes()
                yield from changed

    def _changed(self, items: Sequence[str | Record]) -> tuple[int, list[str | Record]]:
        """Return the number of items, and the items that are not unchanged photos of the index."""
        return len(items), [item for item in items if isinstance(item, Record) or not self._is_known(item)]

    def _is_known(self, path: str) -> bool:
        known = self._photos.get(path)
        return known is not None and known.is_unchanged(path)

    def _prepared(
        self, items: Iterable[str | Record], stop: StopRequest | None
    ) -> Generator[NewPhoto | Record, None, None]:
        """Yield the new photos and errors of items, in order."""
        waiting = _stoppable(items, stop)
        if self._engine != "ray":
            yield from map_in_order(self._prepare, waiting, self._tagger.workers)
            return
        from zsl_tagger.tagging.ray_pool import map_on_ray

        found = list(waiting)
        task = IndexTask.of(self._labels, self._hashes or ())
        with closing(map_on_ray(task, found, self._tagger.folder.path, self._workers)) as prepared:
            for one in prepared:
                yield one
                if stop is not None:  # the photo is stored now
                    stop.check()

    def _prepare(self, item: str | Record) -> NewPhoto | Record:
        """Read and encode one photo; called on several threads."""
        if isinstance(item, Record):
            return item
        assert self._hashes is not None
        return new_photo(item, self._tagger, self._labels, self._hashes.__contains__)

    def _fail(self, record: Record) -> None:
        self.counts.failed += 1
        logger.warning("%s: %s", record.path, record.error)

    def _write(self, photo: NewPhoto) -> None:
        assert self._hashes is not None
        before = self._photos.get(photo.path)
        with self._store.transaction():
            content = self._hashes.get(photo.sha256)  # also of a copy that was encoded at the same time
            if content is None:
                assert photo.packed is not None
                content = self._store.add_content(photo.sha256, *photo.packed)
                self._loose += 1
            left = [path for path in self._store.paths_of(content) if not os.path.lexists(path)][:1]
            self._store.remove_photos(left)
            self._store.set_photo(photo.path, IndexedPhoto(photo.size, photo.mtime_ns, content))
            if self._loose >= PHOTOS_PER_BLOCK:
                self._store.arrange()
                self._loose = self._store.loose()
        self._hashes[photo.sha256] = content
        for path in left:
            self._photos.pop(path, None)
        if before is None:
            self.counts.moved += bool(left)
            self.counts.added += not left
        else:
            self.counts.changed += before.content != content

    def _remove_gone(self, roots: Sequence[str], found: set[str]) -> None:
        """Remove photos of these folders that were deleted, but not those of a disk that is not mounted."""
        gone, kept = [], 0
        for path in self._photos.keys() - found:
            above = [root for root in roots if _lies_in(path, root)]
            if above and (self._prune or any(_was_deleted(path, root) for root in above)):
                gone.append(path)
            elif above:
                kept += 1
        if kept:
            logger.warning(
                "%s photos are kept in the index although they are missing, because their folder is empty or missing, "
                "e.g. on a disk that is not mounted: pruning removes them",
                f"{kept:,}",
            )
        with self._store.transaction():
            self._store.remove_photos(gone)
            self._store.remove_unused()
            if self._prune:
                self._store.remove_roots(root for root in roots if not os.path.isdir(root))
        self.counts.removed += len(gone)


def _stoppable(items: Iterable[Waiting], stop: StopRequest | None) -> Iterable[Waiting]:
    """Return the items; if a stop can be requested, waiting for the next one is interrupted by it."""
    if stop is None:
        return items
    return stop.iterate(items)


def _lies_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _was_deleted(path: str, root: str) -> bool:
    """Return whether a missing photo was deleted, rather than being on a disk that is not mounted.

    It was deleted if its folder, or the nearest existing folder above it up to ``root``, can be listed and is not
    empty.
    """
    folder = os.path.dirname(path)
    while path != root and not os.path.isdir(folder):
        if os.path.islink(folder) or folder == root:
            return False
        folder = os.path.dirname(folder)
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False

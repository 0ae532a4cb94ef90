"""Index the photos of a library once, and search them for any words.

>>> with Library.open("my-index") as library:
...     library.add("photos")
...     library.search("snow -dog", top=3)
[SearchResult(path='/home/me/photos/a.jpg', score=0.93, passes=True)]
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, get_args

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.choices import Engine
from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import Selection
from zsl_tagger.search.query import parse_query
from zsl_tagger.search.rank import Ranker, Ranking, SearchResult
from zsl_tagger.search.store import INDEX_FILE, IndexMeta, LibraryError, NoIndexError, Store, default_folder
from zsl_tagger.search.update import Counts, Updater
from zsl_tagger.system.files import locked, write_errors
from zsl_tagger.system.signals import StopRequest
from zsl_tagger.system.threads import default_workers
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.reader import Photos
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.search.suggest import Suggestions

logger = logging.getLogger(__name__)

#: Number of random photos to compare a new tag with; more take seconds and help little.
TO_COMPARE = 600

__all__ = ["Library", "Ranking", "SearchResult"]


class Library:
    """An index of photos, opened by :meth:`open`. Not thread-safe; close it, or use it in a ``with`` statement."""

    def __init__(self, folder: Path, tagger: Tagger, meta: IndexMeta, workers: int | None = None):
        self.folder, self._tagger, self._meta = folder, tagger, meta
        self._workers = workers
        self._ranker: tuple[int, Ranker] | None = None  # with the version of the index that it read

    @classmethod
    def open(
        cls, folder: str | Path | None = None, model: str | Path | None = None, workers: int | None = None
    ) -> Library:
        """Open an index; if there is none, the first :meth:`add` creates it.

        Args:
            folder: folder of the index; None for the user's data folder (docs/search.md).
            model: a model folder; None for the model of the index, or the packaged model for a new index.
            workers: number of photos processed in parallel; None for one per core, at most 16 without a cluster.

        Raises:
            UserError: the index is damaged, or from another model or version.
        """
        where = default_folder() if folder is None else Path(folder)
        try:
            with Store(where) as store:
                meta, classes = store.meta, store.classes()
        except NoIndexError:
            meta, classes = None, None
        named = meta.model if model is None and meta is not None else model
        if model is None and named is not None and not Path(named).is_dir():
            raise LibraryError(
                f"the index {where} was made with the model {named}, which no longer exists: give its folder as the "
                "model"
            )
        logger.debug("index %s: %s", where, "new" if meta is None else f"{len(meta.labels):,} labels")
        if classes is None:  # the index has no photos
            tagger = Tagger(named, workers=workers or default_workers())
        else:
            tagger = Tagger.without_networks(named, workers or default_workers(), classes or None)
        files = tagger.folder.files_identity()
        if meta is not None and meta.files == files and len(meta.keys) == len(meta.labels):
            # The same model as when its fingerprint was computed, which takes longer than most searches.
            return cls(where, tagger, meta, workers)
        labels = tagger.default_labels if meta is None else meta.labels
        vocabulary = tagger.plain_label_set(labels)
        fingerprint = _fingerprint(tagger, vocabulary)
        if meta is None:
            is_packaged = named is None or tagger.folder.path == PACKAGED
            meta = IndexMeta(None if is_packaged else str(tagger.folder.path.absolute()), fingerprint, labels)
        else:
            _check_model(where, meta, fingerprint)
        library = cls(where, tagger, replace(meta, keys=vocabulary.keys, files=files), workers)
        library._vocabulary = vocabulary
        return library

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of photos in the index."""
        return self._store.count()

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if "_store" in self.__dict__:
            self._store.close()
            del self._store
        self._ranker = None

    def add(
        self,
        paths: str | Path | Sequence[str | Path] = (),
        *,
        prune: bool = False,
        exclude_path: Sequence[str] = (),
        stop: StopRequest | None = None,
        engine: Engine = "local",
    ) -> Counts:
        """Update the index from folders (recursive), files or globs.

        Unchanged photos are not opened, and deleted ones are removed from the index. Each photo is stored as soon as it
        is encoded.

        Args:
            paths: folders, files or globs; none for all folders added before.
            prune: also remove photos whose folder is empty or missing, e.g. because a disk is not mounted.
            exclude_path: globs of files and folders to leave out; matching photos are removed from the index.
            stop: checked between photos; None to be interrupted anywhere.
            engine: "local", or "ray": encode on many processes or machines with Ray Data (docs/ray.md).

        Raises:
            UserError: the index cannot be written, another run is writing to it, or Ray cannot be started.
            MissingExtraError: Ray is not installed.
        """
        if engine not in get_args(Engine):
            raise UserError(f"expected engine {' or '.join(get_args(Engine))}, got {engine!r}")
        if engine == "ray":
            from zsl_tagger.tagging.ray_pool import require_ray

            require_ray()
        given = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder), Store(self.folder, self._meta) as store:
            _check_model(self.folder, store.meta, self._meta.fingerprint)  # another run may have created it
            if store.meta != self._meta:
                store.update_meta(self._meta)
            roots = given or store.roots()
            if not roots:
                raise LibraryError(f"the index {self.folder} has no folders of photos yet: give one or more")
            own = f"{glob.escape(str(self.folder.absolute()))}/{INDEX_FILE}*"  # may be in a folder of photos
            selection = Selection([*exclude_path, own])
            updater = Updater(store, self._tagger, self._vocabulary, prune, selection, engine, self._workers)
            return updater.run(roots, stop)

    def search(self, query: str, top: int = 20) -> list[SearchResult]:
        """Return the best photos for ``"red bicycle"``, ``"beach, sunset"`` (both) or ``"snow -dog"`` (without a dog).

        Raises:
            UserError: a word is unknown, or there is no index.
        """
        return self.rank([query], top)[0].found

    def rank(self, queries: Sequence[str], top: int = 20, copies: bool = True) -> list[Ranking]:
        """Search for several queries, and count the photos that reach the thresholds of each.

        Args:
            queries: queries as for :meth:`search`.
            top: maximum number of photos per query.
            copies: list all copies of a photo; False: only the first by name.

        Raises:
            UserError: as :meth:`search`.
        """
        if top < 1:
            raise UserError(f"expected top of at least 1, got {top}")
        parsed = [parse_query(query, self._tagger.words.names_with_marks) for query in queries]
        self._tagger.resolve_all(
            [label for query in parsed for label in query.labels]
        )  # one error for all unknown labels
        with self._store.snapshot():
            ranker = self._current_ranker()
            return [ranker.rank(query, self._tagger.label_set(query.labels), top, copies) for query in parsed]

    def suggest(self, top: int = 10, least: int = 3) -> Suggestions:
        """Return photos without any tag, near-duplicates, and words that photos show but that are not tags yet.

        Args:
            top: maximum length of each list.
            least: minimum number of photos that show a word.

        Raises:
            UserError: there is no index, it has no photos, or an earlier version created it.
        """
        from zsl_tagger.search.suggest import Suggester, check_limits  # a search does not need it

        check_limits(top, least)
        with self._store.snapshot():
            return Suggester(self._store, self._tagger, self._current_ranker(), top, least).suggestions()

    @property
    def tagger(self) -> Tagger:
        """Return the tagger with the model of the index."""
        return self._tagger

    def random_photos(self, word: str | None) -> Photos:
        """Return random photos of the index, always the same ones, for ``Tagger.teach(library=...)``.

        Args:
            word: key of the word whose log-odds to return; None: zeros.

        Raises:
            UserError: there is no index, or it is damaged.
        """
        with self._store.snapshot():
            return self._current_ranker().random_photos(word, TO_COMPARE)

    def stored_photos(self, paths: Sequence[str], word: str | None) -> dict[str, tuple[np.ndarray, float]]:
        """Return features and log-odds of photos by path, for ``Tagger.teach(library=...)``.

        Photos that are not in the index, have changed since, or whose stored features are not exact are left out.

        Args:
            paths: absolute paths.
            word: key of the word whose log-odds to return; None: zeros.

        Raises:
            UserError: there is no index, or it is damaged.
        """
        with self._store.snapshot():
            known = {path: self._store.photo(path) for path in paths}
            contents = {path: one.content for path, one in known.items() if one is not None and one.is_unchanged(path)}
            stored = self._current_ranker().stored_photos(contents.values(), word)
        return {path: stored[content] for path, content in contents.items() if content in stored}

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder)

    @cached_property
    def _vocabulary(self) -> LabelSet:
        """Return the labels whose logits are stored; a search for one of them does not need the others."""
        return self._tagger.plain_label_set(self._meta.labels)

    def _current_ranker(self) -> Ranker:
        version = self._store.version()
        if self._ranker is None or self._ranker[0] != version:
            self._ranker = (version, Ranker(self._store, self._tagger, self._meta.keys, lambda: self._vocabulary))
        return self._ranker[1]


def _check_model(folder: Path, meta: IndexMeta, fingerprint: str) -> None:
    if meta.fingerprint != fingerprint:
        raise LibraryError(
            f"the index {folder} was made with another model ({meta.model or 'packaged'}), whose scores are not "
            "comparable: give that model or another folder, or delete this one and index the photos again"
        )


def _fingerprint(tagger: Tagger, vocabulary: LabelSet) -> str:
    """Return a hash of the networks, their preprocessing and the vocabulary's queries."""
    model = tagger.folder.networks_sha256() + tagger.preprocessing.other_than_usual()
    return hashlib.sha256(model.encode() + vocabulary.queries.tobytes()).hexdigest()

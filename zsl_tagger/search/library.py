"""A photo library: look at each photo once, search for any words later.

>>> with Library.open("my-index") as library:
...     library.add("photos")
...     library.search("snow -dog", top=3)
[Found(path='/home/me/photos/a.jpg', score=0.93, passes=True)]
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import Selection
from zsl_tagger.search.query import parse_query
from zsl_tagger.search.rank import Found, Ranker, Ranking
from zsl_tagger.search.store import INDEX_FILE, LibraryError, Made, NoIndexError, Store, default_folder
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

#: Photos that a tag is compared with when it is taught; more take seconds and help little.
TO_COMPARE = 600

__all__ = ["Found", "Library", "Ranking"]


class Library:
    """An index of photos, made by :meth:`open`. It is for one thread at a time; close it, or use it in a ``with``."""

    def __init__(self, folder: Path, tagger: Tagger, made: Made, vocabulary: LabelSet):
        self.folder, self._tagger, self._made, self._vocabulary = folder, tagger, made, vocabulary
        self._ranker: tuple[int, Ranker] | None = None  # with the version of the index that it has read

    @classmethod
    def open(
        cls, folder: str | Path | None = None, model: str | Path | None = None, workers: int | None = None
    ) -> Library:
        """Open an index, or name the place of a new one, which the first :meth:`add` makes.

        Args:
            folder: where it is; None for the user's data folder (docs/search.md).
            model: a model folder; None for the one the index was made with, of a new one the packaged model.
            workers: photos in work at a time; None for one a core, at most 16.

        Raises:
            UserError: the index is damaged, or of another model or version.
        """
        where = default_folder() if folder is None else Path(folder)
        try:
            with Store(where) as store:
                made, classes = store.made, store.classes()
        except NoIndexError:
            made, classes = None, None
        named = made.model if model is None and made is not None else model
        if model is None and named is not None and not Path(named).is_dir():
            raise LibraryError(
                f"the index {where} was made with the model {named}, which is not there: give its folder as the model"
            )
        logger.debug("index %s: %s", where, "a new one" if made is None else f"{len(made.labels):,} labels")
        if classes is None:  # there are no photos yet
            tagger = Tagger(named, workers=workers or default_workers())
        else:
            tagger = Tagger.without_networks(named, workers or default_workers(), classes or None)
        labels = tagger.default_labels if made is None else made.labels
        vocabulary = tagger.plain_label_set(labels)
        fingerprint = _fingerprint(tagger, vocabulary)
        if made is not None:
            _check_model(where, made, fingerprint)
        path = None if named is None or tagger.folder.path == PACKAGED else str(tagger.folder.path.absolute())
        return cls(where, tagger, made or Made(path, fingerprint, labels), vocabulary)

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many photos are in the index."""
        return self._store.count()

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
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
    ) -> Counts:
        """Bring the index up to date with folders (recursive), files or globs.

        Photos that are as they were are not opened; those that are gone leave. Each photo is in the index as soon as
        it was looked at.

        Args:
            paths: none for all folders that were ever added.
            prune: photos leave also where their folder is empty or not there, as of a disk that is not mounted.
            exclude_path: globs of files and folders to leave out; photos of the index that match one leave it.
            stop: looked at between two photos; None to be interrupted anywhere.

        Raises:
            UserError: the index cannot be written, or another run is writing to it.
        """
        asked = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder), Store(self.folder, self._made) as store:
            _check_model(self.folder, store.made, self._made.fingerprint)  # another run may have begun it meanwhile
            roots = asked or store.roots()
            if not roots:
                raise LibraryError(f"the index {self.folder} has no folders of photos yet: say which to begin with")
            own = f"{glob.escape(str(self.folder.absolute()))}/{INDEX_FILE}*"  # may lie among the photos
            selection = Selection([*exclude_path, own])
            return Updater(store, self._tagger, self._vocabulary, prune, selection).run(roots, stop)

    def search(self, query: str, top: int = 20) -> list[Found]:
        """Return the best photos for ``"red bicycle"``, ``"beach, sunset"`` (both) or ``"snow -dog"`` (without).

        Raises:
            UserError: a word is not known, or there is no index.
        """
        return self.rank([query], top)[0].found

    def rank(self, queries: Sequence[str], top: int = 20, copies: bool = True) -> list[Ranking]:
        """:meth:`search` of several queries, each with how many photos reach the thresholds.

        Args:
            copies: list all copies of a photo; False: only the first by name.

        Raises:
            UserError: as :meth:`search`.
        """
        if top < 1:
            raise UserError(f"expected top of at least 1, got {top}")
        parsed = [parse_query(query, self._tagger.words.names_with_marks) for query in queries]
        self._tagger.resolve_all([label for query in parsed for label in query.labels])  # names all unknown ones
        with self._store.snapshot():
            ranker = self._current_ranker()
            return [ranker.rank(query, self._tagger.label_set(query.labels), top, copies) for query in parsed]

    def suggest(self, top: int = 10, least: int = 3) -> Suggestions:
        """Return photos without any tag, near-duplicates, and words that photos show but that are no tags yet.

        Args:
            top: most entries of each list.
            least: photos that must show a word.

        Raises:
            UserError: there is no index, it has no photos, or an earlier version made it.
        """
        from zsl_tagger.search.suggest import Suggester, check_limits  # here, as a search does not need it

        check_limits(top, least)
        with self._store.snapshot():
            return Suggester(self._store, self._tagger, self._current_ranker(), top, least).suggestions()

    @property
    def tagger(self) -> Tagger:
        """Return the tagger whose model the index was made with."""
        return self._tagger

    def photos_of_anything(self, word: str | None) -> Photos:
        """Return some photos of the index, for ``Tagger.teach(library=...)``.

        Args:
            word: key of the word whose log-odds come with them; None: zeros do.

        Raises:
            UserError: there is no index, or it is damaged.
        """
        with self._store.snapshot():
            return self._current_ranker().photos_of_anything(word, TO_COMPARE)

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder)

    def _current_ranker(self) -> Ranker:
        version = self._store.version()
        if self._ranker is None or self._ranker[0] != version:
            self._ranker = (version, Ranker(self._store, self._tagger, self._vocabulary))
        return self._ranker[1]


def _check_model(folder: Path, made: Made, fingerprint: str) -> None:
    if made.fingerprint != fingerprint:
        raise LibraryError(
            f"the index {folder} was made with another model ({made.model or 'packaged'}), whose scores are not "
            "comparable: give that model or another folder, or delete this one and index the photos again"
        )


def _fingerprint(tagger: Tagger, vocabulary: LabelSet) -> str:
    """Return a hash of the networks, how they read pixels, and what is asked for the vocabulary's labels."""
    model = tagger.folder.networks_sha256() + tagger.preprocessing.other_than_usual()
    return hashlib.sha256(model.encode() + vocabulary.queries.tobytes()).hexdigest()

"""Review the photos of an index for a tag: search and mark them, teach the tag, and write it to sidecars.

Requests name photos by the SHA-256 of their content, which is looked up in the index: no path comes from a client.
Photos that were deleted or changed since they were indexed are not shown, not taught and not written to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import load_small
from zsl_tagger.reports.pages import jpeg_bytes
from zsl_tagger.search.library import Library
from zsl_tagger.search.rank import SearchResult
from zsl_tagger.search.store import IndexedPhoto, Store
from zsl_tagger.system.untrusted_text import printable_path
from zsl_tagger.tagging.taught import TaughtTag, checked_name
from zsl_tagger.teach.marks import Marks, key_of
from zsl_tagger.teach.writing import MarkedTag, Preview, Written, preview, undo, write

GONE = "was deleted or changed since it was indexed: run zsl-tagger index again"


class UnknownPhotoError(UserError):
    """The index has no photo with this content."""

    def __init__(self) -> None:
        super().__init__("no photo of the index has this SHA-256: search again, the index may have changed")


class GonePhotoError(UserError):
    """The photo was deleted or changed since it was indexed."""

    def __init__(self) -> None:
        super().__init__(f"the photo {GONE}")


@dataclass(frozen=True)
class ShownPhoto:
    """Describe one photo of a search.

    Attributes:
        photo: SHA-256 of its content, which identifies it in other requests.
        path: printable path.
        score: score of ``search``, 0..1.
        passes: whether it reaches the threshold.
        mark: whether the user marked it yes or no; None for no mark.
        copies: number of files with this content.
    """

    photo: str
    path: str
    score: float
    passes: bool
    mark: bool | None
    copies: int


@dataclass(frozen=True)
class ShownPhotos:
    """Hold the photos of a search.

    Attributes:
        counted: number of photos that reach the threshold, e.g. ``"3 of 9,182 photos"``.
        yes: number of photos of the index marked yes for the tag.
        no: number of photos of the index marked no for the tag.
        taught: whether the tag was taught.
        more: whether there are more photos.
    """

    counted: str
    yes: int
    no: int
    taught: bool
    more: bool
    photos: list[ShownPhoto]


@dataclass(frozen=True)
class MarkCounts:
    """Count the photos of the index that are marked for a tag."""

    yes: int
    no: int

    @classmethod
    def of(cls, marks: Mapping[str, bool]) -> MarkCounts:
        yes = sum(marks.values())
        return cls(yes, len(marks) - yes)


@dataclass(frozen=True)
class Lesson:
    """Describe the result of teaching a tag.

    Attributes:
        name: name of the tag.
        yes: number of examples that show it.
        no: number of examples that do not show it.
        found: number of examples that were found when left out.
        counted: number of photos of the index that would get it, e.g. ``"3 of 9,182 photos"``.
        refined: the known word that the tag refines; None for a new tag.
        left_out: marked photos that were deleted or changed.
    """

    name: str
    yes: int
    no: int
    found: int
    counted: str
    refined: str | None
    left_out: list[str]


class Review:
    """Search the photos of an index, and teach and correct tags. Thread-safe: calls run one at a time.

    Args:
        library: an existing index.
    """

    def __init__(self, library: Library, marks: Marks):
        self._library, self._tagger, self._marks = library, library.tagger, marks
        self._lock = threading.Lock()
        self._taught = self._tagger.taught_changes()

    def tags(self) -> list[str]:
        """Return the tags that were taught or have marks."""
        with self._exclusive():
            names = {key_of(name): name for name in self._marks.names()}
            return sorted({**names, **{tag.key: tag.name for tag in self._tagger.taught.values()}}.values())

    def count(self) -> int:
        """Return the number of photos of the index."""
        with self._exclusive():
            return len(self._library)

    def show(
        self, query: str, tag: str | None = None, top: int = 100, around: bool = False, unmarked: bool = False
    ) -> ShownPhotos:
        """Return photos of a search, best first, with their marks for a tag.

        Args:
            query: query as for :meth:`Library.search`.
            top: maximum number of photos; copies count once.
            around: return the photos nearest to the threshold, above and below it, instead of the best.
            unmarked: leave out marked photos.

        Raises:
            UserError: a word is unknown, or the index was deleted.
        """
        with self._exclusive(), self._store() as store:
            marks = {} if tag is None else self._marks_of(store, tag)
            first = max(0, self._library.rank([query], 1)[0].different_passing - top // 2) if around else 0
            limit = first + top + 1 + (len(marks) if unmarked else 0)
            ranking = self._library.rank([query], limit, copies=False)[0]
            photos = self._photos(store, ranking.found[first:], marks)
            if unmarked:
                photos = [photo for photo in photos if photo.mark is None]
            counts = MarkCounts.of(marks)
            return ShownPhotos(
                counted=ranking.counted(),
                yes=counts.yes,
                no=counts.no,
                taught=tag is not None and key_of(tag) in self._tagger.taught,
                more=len(photos) > top,
                photos=photos[:top],
            )

    def picture(self, photo: str, side: int) -> bytes:
        """Return a photo as a JPEG file of at most ``side`` pixels each way.

        Raises:
            UnknownPhotoError, GonePhotoError, ImageError: the photo is unknown, gone or unreadable.
        """
        with self._store() as store:
            paths = _unchanged(_known(store, photo))
        if not paths:
            raise GonePhotoError
        return jpeg_bytes(load_small(paths[0], side))

    def mark(self, tag: str, yes: Sequence[str], no: Sequence[str], neither: Sequence[str]) -> MarkCounts:
        """Store marks of photos for a tag, all or none, and count its marks.

        Raises:
            UnknownPhotoError: a photo is not in the index.
            UserError: the name of the tag is invalid, or a photo is marked twice.
        """
        given = [*yes, *no, *neither]
        if len(set(given)) < len(given):
            raise UserError("a photo is marked twice: expected each once, as yes, no or neither")
        with self._exclusive(), self._store() as store:
            for photo in given:
                _known(store, photo)
            self._marks.set(tag, {**dict.fromkeys(yes, True), **dict.fromkeys(no, False), **dict.fromkeys(neither)})
            return MarkCounts.of(self._marks_of(store, tag))

    def teach(self, tag: str) -> Lesson:
        """Teach a tag from its marks.

        Raises:
            UserError: there are too few photos, or copies of a photo are marked both yes and no.
        """
        with self._exclusive(), self._store() as store:
            yes, no, forget, gone = self._examples_to_teach(store, tag)
            taught = self._tagger.teach(checked_name(tag), yes, no, library=self._library, forget=forget)
            counted = self._library.rank([taught.name], 1)[0].counted()
        return Lesson(
            name=taught.name,
            yes=taught.positives,
            no=len(taught.examples) - taught.positives,
            found=taught.found,
            counted=counted,
            refined=taught.reader.word,
            left_out=list(map(printable_path, gone)),
        )

    def preview(self, tag: str) -> Preview:
        """Return the changes that :meth:`write` would make, without writing.

        Raises:
            UserError: the name of the tag is invalid.
        """
        with self._exclusive(), self._store() as store:
            return preview(self._marked(store, tag))

    def write(self, tag: str, seen: str) -> Written:
        """Add a tag to the sidecars of photos marked yes, and remove it from those marked no.

        Args:
            seen: ``fingerprint`` of the preview that the user has seen.

        Raises:
            ChangedError: the changes would differ from the preview; nothing was written.
        """
        with self._exclusive(), self._store() as store:
            return write(self._marked(store, tag), seen, self._marks, self._library.folder)

    def undo(self) -> Written:
        """Undo the last :meth:`write` to the sidecars of this index that has not been undone.

        Raises:
            UserError: there is nothing to undo.
        """
        with self._exclusive(), self._store() as store:
            return undo(self._marks, self._library.folder, self._tagger, lambda path: store.sha256_of(path) is not None)

    def undoable(self) -> int:
        """Return the number of sidecars that :meth:`undo` would change."""
        return len(self._marks.written(self._library.folder))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Lock the index and the tagger for this thread, and reload tags that another program has taught."""
        with self._lock:
            if (changes := self._tagger.taught_changes()) != self._taught:
                self._taught = changes
                self._tagger.forget_taught()
            yield

    def _store(self) -> Store:
        return Store(self._library.folder)

    def _photos(self, store: Store, found: Sequence[SearchResult], marks: dict[str, bool]) -> list[ShownPhoto]:
        shown: dict[str, ShownPhoto] = {}
        for one in found:
            photo = store.sha256_of(one.path)
            if photo is None or photo in shown:  # the index has changed since the search
                continue
            copies = len(store.photos_with(photo))
            score, mark = round(one.score, 4), marks.get(photo)
            shown[photo] = ShownPhoto(photo, printable_path(one.path), score, one.passes, mark, copies)
        return list(shown.values())

    def _marks_of(self, store: Store, tag: str) -> dict[str, bool]:
        """Return the marks of photos of the index for a tag: its examples, updated by later marks."""
        taught = self._tagger.taught.get(key_of(tag))
        marks: dict[str, bool | None] = {}
        for example in () if taught is None else taught.examples:
            if (photo := store.sha256_of(example.path)) is not None:
                marks[photo] = example.positive
        since = {photo: mark for photo, mark in self._marks.of(tag).items() if store.photos_with(photo)}
        return {photo: mark for photo, mark in {**marks, **since}.items() if mark is not None}

    def _examples_to_teach(self, store: Store, tag: str) -> tuple[list[str], list[str], list[str], list[str]]:
        """Return new examples, new counterexamples, examples to forget, and missing photos."""
        examples = _examples(self._tagger.taught.get(key_of(tag)))
        new: dict[bool, list[str]] = {True: [], False: []}
        forget: list[str] = []
        gone: list[str] = []
        for photo, mark in self._marks.of(tag).items():
            photos = store.photos_with(photo)
            known = [path for path in photos if path in examples]
            if mark is None:
                forget += known
            elif not any(examples[path] is mark for path in known):
                there = _unchanged(photos)
                new[mark] += there[:1]
                forget += [path for path in known if path not in there[:1]]
                gone += list(photos)[:1] if not there else []
        return new[True], new[False], forget, gone

    def _marked(self, store: Store, tag: str) -> MarkedTag:
        photos: dict[str, bool] = {}
        gone: list[str] = []
        for photo, mark in self._marks_of(store, tag).items():
            known = store.photos_with(photo)
            there = _unchanged(known)
            photos.update(dict.fromkeys(there, mark))
            gone += [path for path in known if path not in there]
        taught = self._tagger.taught.get(key_of(tag))
        name = checked_name(tag) if taught is None else taught.name
        return MarkedTag(name, photos, dict.fromkeys(gone, GONE), self._tagger)


def _known(store: Store, photo: str) -> dict[str, IndexedPhoto]:
    """Return the files with a content, by path.

    Raises:
        UnknownPhotoError: the content is not in the index.
    """
    if not (photos := store.photos_with(photo)):
        raise UnknownPhotoError
    return photos


def _unchanged(photos: dict[str, IndexedPhoto]) -> list[str]:
    """Return the files that have not changed since they were indexed."""
    return [path for path, known in photos.items() if known.is_unchanged(path)]


def _examples(taught: TaughtTag | None) -> dict[str, bool]:
    return {} if taught is None else {example.path: example.positive for example in taught.examples}

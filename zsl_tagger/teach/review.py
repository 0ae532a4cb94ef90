"""Review the photos of an index for a tag: look at them, mark them, teach the tag, write it into sidecars.

Photos go by the SHA-256 of their content, which is looked up in the index: no path comes from outside. A photo that is
gone, or is not as it was when it was indexed, is neither shown nor taught nor written to.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import load_small
from zsl_tagger.reports.pages import jpeg_bytes
from zsl_tagger.search.library import Library
from zsl_tagger.search.rank import Found
from zsl_tagger.search.store import Known, Store
from zsl_tagger.system.untrusted_text import printable_path
from zsl_tagger.tagging.taught import TaughtTag, checked_name
from zsl_tagger.teach.marks import Marks, key_of
from zsl_tagger.teach.writing import MarkedTag, Preview, Written, preview, undo, write

GONE = "is gone, or was changed, since it was indexed: run zsl-tagger index again"


class UnknownPhotoError(UserError):
    """Say that no photo of the index has this content."""

    def __init__(self) -> None:
        super().__init__("no photo of the index goes by this: search again, the index has changed since")


class GonePhotoError(UserError):
    """Say that a photo of the index is not there any more, or is another one."""

    def __init__(self) -> None:
        super().__init__(f"the photo {GONE}")


@dataclass(frozen=True)
class ShownPhoto:
    """Hold one photo of a search.

    Attributes:
        photo: SHA-256 of its content, by which it goes in marks and pictures.
        path: for a person to read.
        score: 0..1, as of ``search``.
        passes: it reaches the threshold.
        mark: yes or no of a person; None for neither.
        copies: files with this content.
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
        counted: ``"3 of 9,182 photos"``: how many reach the threshold.
        yes: marks of the tag among all photos of the index.
        no: the same.
        taught: the tag was taught.
        more: there are further photos.
    """

    counted: str
    yes: int
    no: int
    taught: bool
    more: bool
    photos: list[ShownPhoto]


@dataclass(frozen=True)
class MarkCounts:
    """Say how many photos of the index are marked for a tag."""

    yes: int
    no: int

    @classmethod
    def of(cls, marks: Mapping[str, bool]) -> MarkCounts:
        yes = sum(marks.values())
        return cls(yes, len(marks) - yes)


@dataclass(frozen=True)
class Lesson:
    """Say how sure a tag is.

    Attributes:
        name: of the tag.
        yes: examples that show it.
        no: examples that do not.
        found: how many of the former were found when they were left out.
        counted: ``"3 of 9,182 photos"`` of the index would get it.
        refined: a known word that it takes; None for none.
        left_out: marked photos that are gone.
    """

    name: str
    yes: int
    no: int
    found: int
    counted: str
    refined: str | None
    left_out: list[str]


class Review:
    """Look at the photos of an index and correct a tag; any thread may ask, one at a time is served.

    Args:
        library: an index that is there.
    """

    def __init__(self, library: Library, marks: Marks):
        self._library, self._tagger, self._marks = library, library.tagger, marks
        self._lock = threading.Lock()
        self._taught = self._tagger.taught_changes()

    def tags(self) -> list[str]:
        """Return the tags that were taught or have marks."""
        with self._alone():
            names = {key_of(name): name for name in self._marks.names()}
            return sorted({**names, **{tag.key: tag.name for tag in self._tagger.taught.values()}}.values())

    def count(self) -> int:
        """Return how many photos the index has."""
        with self._alone():
            return len(self._library)

    def show(
        self, query: str, tag: str | None = None, top: int = 100, around: bool = False, unmarked: bool = False
    ) -> ShownPhotos:
        """Return photos of a search, best first, with their marks for a tag.

        Args:
            query: as for :meth:`Library.search`.
            top: photos at most; copies count once.
            around: those nearest to the threshold, on both sides of it, and not the best.
            unmarked: leave out those that are marked.

        Raises:
            UserError: a word is not known, or the index is not there any more.
        """
        with self._alone(), self._store() as store:
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
            UnknownPhotoError, GonePhotoError, ImageError: there is none.
        """
        with self._store() as store:
            paths = _as_indexed(_known(store, photo))
        if not paths:
            raise GonePhotoError
        return jpeg_bytes(load_small(paths[0], side))

    def mark(self, tag: str, yes: Sequence[str], no: Sequence[str], neither: Sequence[str]) -> MarkCounts:
        """Keep marks of photos for a tag, all or none, and return how many it has.

        Raises:
            UnknownPhotoError: one of them is not in the index.
            UserError: the name cannot be one of a tag, or a photo is marked twice.
        """
        given = [*yes, *no, *neither]
        if len(set(given)) < len(given):
            raise UserError("a photo is marked twice: expected each once, as yes, no or neither")
        with self._alone(), self._store() as store:
            for photo in given:
                _known(store, photo)
            self._marks.set(tag, {**dict.fromkeys(yes, True), **dict.fromkeys(no, False), **dict.fromkeys(neither)})
            return MarkCounts.of(self._marks_of(store, tag))

    def teach(self, tag: str) -> Lesson:
        """Teach a tag from its marks: its query and its threshold follow them.

        Raises:
            UserError: there are too few photos, or the same one is marked yes and no.
        """
        with self._alone(), self._store() as store:
            yes, no, forget, gone = self._to_teach(store, tag)
            library = self._library.photos_of_anything
            taught = self._tagger.teach(checked_name(tag), yes, no, library=library, forget=forget)
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
        """Return what :meth:`write` would change; nothing is written.

        Raises:
            UserError: the name cannot be one of a tag.
        """
        with self._alone(), self._store() as store:
            return preview(self._marked(store, tag))

    def write(self, tag: str, seen: str) -> Written:
        """Write a tag into the sidecars of photos marked yes, and take it out of those marked no.

        Args:
            seen: ``fingerprint`` of the preview.

        Raises:
            ChangedError: what would be written is not what the preview showed; nothing was written.
        """
        with self._alone(), self._store() as store:
            return write(self._marked(store, tag), seen, self._marks, self._library.folder)

    def undo(self) -> Written:
        """Take back what the last :meth:`write` did to the sidecars of this index.

        Raises:
            UserError: there is nothing to undo.
        """
        with self._alone(), self._store() as store:
            return undo(self._marks, self._library.folder, self._tagger, lambda path: store.sha256_of(path) is not None)

    def undoable(self) -> int:
        """Return how many sidecars :meth:`undo` would change."""
        return len(self._marks.written(self._library.folder))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Use the index and the tagger on one thread at a time, with tags as other programs have taught them since."""
        with self._lock:
            if (changes := self._tagger.taught_changes()) != self._taught:
                self._taught = changes
                self._tagger.forget_taught()
            yield

    def _store(self) -> Store:
        return Store(self._library.folder)

    def _photos(self, store: Store, found: Sequence[Found], marks: dict[str, bool]) -> list[ShownPhoto]:
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
        """Return what photos of the index are marked for a tag: its examples, and what was marked since."""
        taught = self._tagger.taught.get(key_of(tag))
        marks: dict[str, bool | None] = {}
        for example in () if taught is None else taught.examples:
            if (photo := store.sha256_of(example.path)) is not None:
                marks[photo] = example.positive
        since = {photo: mark for photo, mark in self._marks.of(tag).items() if store.photos_with(photo)}
        return {photo: mark for photo, mark in {**marks, **since}.items() if mark is not None}

    def _to_teach(self, store: Store, tag: str) -> tuple[list[str], list[str], list[str], list[str]]:
        """Return new examples, new counterexamples, examples to forget, and marked photos that are gone."""
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
                there = _as_indexed(photos)
                new[mark] += there[:1]
                forget += [path for path in known if path not in there[:1]]
                gone += list(photos)[:1] if not there else []
        return new[True], new[False], forget, gone

    def _marked(self, store: Store, tag: str) -> MarkedTag:
        photos: dict[str, bool] = {}
        gone: list[str] = []
        for photo, mark in self._marks_of(store, tag).items():
            known = store.photos_with(photo)
            there = _as_indexed(known)
            photos.update(dict.fromkeys(there, mark))
            gone += [path for path in known if path not in there]
        taught = self._tagger.taught.get(key_of(tag))
        name = checked_name(tag) if taught is None else taught.name
        return MarkedTag(name, photos, dict.fromkeys(gone, GONE), self._tagger)


def _known(store: Store, photo: str) -> dict[str, Known]:
    """Return the files of a photo.

    Raises:
        UnknownPhotoError: it is not in the index.
    """
    if not (photos := store.photos_with(photo)):
        raise UnknownPhotoError
    return photos


def _as_indexed(photos: dict[str, Known]) -> list[str]:
    """Return the files that are as they were when they were indexed."""
    return [path for path, known in photos.items() if _is_as_indexed(path, known)]


def _is_as_indexed(path: str, known: Known) -> bool:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)


def _examples(taught: TaughtTag | None) -> dict[str, bool]:
    return {} if taught is None else {example.path: example.positive for example in taught.examples}

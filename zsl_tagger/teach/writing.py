"""Write a tag into the XMP sidecars of marked photos: a preview, then just that, and a way back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.sidecars.keywords import Parents, SidecarError
from zsl_tagger.sidecars.run import Change, Sidecars
from zsl_tagger.system.untrusted_text import printable_path
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.teach.marks import Marks, WrittenSidecar


class ChangedError(UserError):
    """Say that sidecars or marks changed after the preview."""

    def __init__(self) -> None:
        super().__init__("the marks or the sidecars have changed since the preview, nothing was written: look again")


@dataclass(frozen=True)
class MarkedTag:
    """Hold a tag and the photos that were marked for it.

    Attributes:
        name: the keyword.
        photos: path -> it shows the tag, or it does not.
        problems: path -> why the photo is left out.
    """

    name: str
    photos: Mapping[str, bool]
    problems: Mapping[str, str]
    tagger: Tagger


@dataclass(frozen=True)
class SidecarChange:
    """Say what becomes of one sidecar.

    Attributes:
        path: of the sidecar, for a person to read.
        became: new, changed or deleted.
        gained: keywords that it gets.
        lost: keywords that it loses.
    """

    path: str
    became: str
    gained: list[str]
    lost: list[str]


@dataclass(frozen=True)
class Preview:
    """Say what writing would do.

    Attributes:
        fingerprint: of all changes, to the byte.
        changes: of sidecars.
        unchanged: sidecars that stay as they are.
        problems: photo -> why it is left out.
    """

    fingerprint: str
    changes: list[SidecarChange]
    unchanged: int
    problems: dict[str, str]


@dataclass(frozen=True)
class Written:
    """Say what was written.

    Attributes:
        changes: of sidecars.
        problems: photo -> why its sidecar is as it was.
        undoable: sidecars that undoing would change.
    """

    changes: list[SidecarChange]
    problems: dict[str, str]
    undoable: int


def preview(marked: MarkedTag) -> Preview:
    """Return what :func:`write` would do; nothing is written."""
    changes, problems = _carried_out(marked, dry_run=True)
    shown = _shown(changes.values())
    return Preview(_fingerprint(changes), shown, len(changes) - len(shown), problems)


def write(marked: MarkedTag, seen: str, marks: Marks, library: Path) -> Written:
    """Write a tag into sidecars, after what is to be undone is kept.

    Args:
        seen: fingerprint of the preview.
        library: folder of the index that has the photos.

    Raises:
        ChangedError: it would do something else; nothing was written.
    """
    planned, _ = _carried_out(marked, dry_run=True)
    if _fingerprint(planned) != seen:
        raise ChangedError
    real = {photo: change for photo, change in planned.items() if change.outcome != "unchanged"}
    if real:
        marks.add_written(
            library, [WrittenSidecar(photo, tuple(one.gained), tuple(one.lost)) for photo, one in real.items()]
        )
    changes, problems = _carried_out(marked, dry_run=False)
    return Written(_shown(changes.values()), problems, len(marks.written(library)))


def undo(marks: Marks, library: Path, tagger: Tagger, is_known: Callable[[str], bool]) -> Written:
    """Take back what the last :func:`write` did, and nothing else; what cannot be taken back now is kept for later.

    Args:
        is_known: says whether a photo is in the index.

    Raises:
        UserError: there is nothing to undo.
    """
    written = marks.written(library)
    if not written:
        raise UserError("there is nothing to undo: no sidecars of this index were written since the last undo")
    sidecars = Sidecars("xmp", parents=_parents(tagger, [word for one in written for word in one.lost]))
    changes: list[Change] = []
    problems: dict[str, str] = {}
    left: list[WrittenSidecar] = []
    for one in written:
        try:
            if not is_known(one.photo):
                raise SidecarError("no longer in the index: take it back with zsl-tagger tag --sidecar xmp --remove")
            changes.append(sidecars.correct(one.photo, one.lost, one.gained))
        except SidecarError as error:
            problems[printable_path(one.photo)] = str(error)
            left.append(one)
    marks.keep_unwritten(library, left)
    return Written(_shown(changes), problems, len(marks.written(library)))


def _carried_out(marked: MarkedTag, dry_run: bool) -> tuple[dict[str, Change], dict[str, str]]:
    """Return the changes by photo, and the problems."""
    sidecars = Sidecars("xmp", dry_run=dry_run, parents=_parents(marked.tagger, [marked.name]))
    problems = {printable_path(photo): why for photo, why in marked.problems.items()}
    changes: dict[str, Change] = {}
    for photo, shows_it in sorted(marked.photos.items()):
        added, dropped = ([marked.name], []) if shows_it else ([], [marked.name])
        try:
            changes[photo] = sidecars.correct(photo, added, dropped)
        except SidecarError as error:
            problems[printable_path(photo)] = str(error)
    return changes, problems


def _parents(tagger: Tagger, words: Iterable[str]) -> Parents:
    """Return the labels above each word, as ``tag --sidecar`` writes them."""
    vocabulary = tagger.vocabulary
    place = {key: number for number, key in enumerate(vocabulary.keys)}
    numbers = {word: place.get(tagger.key(word)) for word in words}
    return {word: vocabulary.parents(number) for word, number in numbers.items() if number is not None}


def _shown(changes: Iterable[Change]) -> list[SidecarChange]:
    return [
        SidecarChange(printable_path(str(one.path)), one.outcome, one.gained, one.lost)
        for one in changes
        if one.outcome != "unchanged"
    ]


def _fingerprint(changes: Mapping[str, Change]) -> str:
    made = hashlib.sha256()
    for change in changes.values():
        for part in (os.fsencode(change.path), change.before, change.after):
            made.update(b"-" if part is None else str(len(part)).encode() + b":" + part)
    return made.hexdigest()

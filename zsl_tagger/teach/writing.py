"""Preview, write and undo changes to the XMP sidecars of marked photos."""

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
    """Sidecars or marks have changed since the preview."""

    def __init__(self) -> None:
        super().__init__("the marks or the sidecars have changed since the preview, nothing was written: preview again")


@dataclass(frozen=True)
class MarkedTag:
    """Hold a tag and the photos marked for it.

    Attributes:
        name: the keyword.
        photos: whether each photo shows the tag, by path.
        problems: why photos are left out, by path.
    """

    name: str
    photos: Mapping[str, bool]
    problems: Mapping[str, str]
    tagger: Tagger


@dataclass(frozen=True)
class SidecarChange:
    """Describe the change of one sidecar.

    Attributes:
        path: printable path of the sidecar.
        became: new, changed or deleted.
        gained: keywords added.
        lost: keywords removed.
    """

    path: str
    became: str
    gained: list[str]
    lost: list[str]


@dataclass(frozen=True)
class Preview:
    """Describe the changes that :func:`write` would make.

    Attributes:
        fingerprint: hash of the content of all sidecars before and after.
        changes: changes of sidecars.
        unchanged: number of sidecars without a change.
        problems: why photos are left out, by path.
    """

    fingerprint: str
    changes: list[SidecarChange]
    unchanged: int
    problems: dict[str, str]


@dataclass(frozen=True)
class Written:
    """Describe the changes made.

    Attributes:
        changes: changes of sidecars.
        problems: why the sidecars of photos were not changed, by path.
        undoable: number of sidecars that the next undo would change.
    """

    changes: list[SidecarChange]
    problems: dict[str, str]
    undoable: int


def preview(marked: MarkedTag) -> Preview:
    """Return the changes that :func:`write` would make, without writing."""
    changes, problems = _apply(marked, dry_run=True)
    shown = _described(changes.values())
    return Preview(_fingerprint(changes), shown, len(changes) - len(shown), problems)


def write(marked: MarkedTag, seen: str, marks: Marks, library: Path) -> Written:
    """Write a tag to sidecars; the changes are stored first, so that they can be undone.

    Args:
        seen: fingerprint of the preview that the user has seen.
        library: folder of the index.

    Raises:
        ChangedError: the changes would differ from the preview; nothing was written.
    """
    planned, _ = _apply(marked, dry_run=True)
    if _fingerprint(planned) != seen:
        raise ChangedError
    real = {photo: change for photo, change in planned.items() if change.outcome != "unchanged"}
    if real:
        marks.add_written(
            library, [WrittenSidecar(photo, tuple(one.gained), tuple(one.lost)) for photo, one in real.items()]
        )
    changes, problems = _apply(marked, dry_run=False)
    return Written(_described(changes.values()), problems, len(marks.written(library)))


def undo(marks: Marks, library: Path, tagger: Tagger, is_known: Callable[[str], bool]) -> Written:
    """Undo the last :func:`write`; changes that cannot be undone now can be tried again later.

    Args:
        is_known: returns whether a photo is in the index.

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
                raise SidecarError("no longer in the index: undo it with zsl-tagger tag --sidecar xmp --remove")
            changes.append(sidecars.correct(one.photo, one.lost, one.gained))
        except SidecarError as error:
            problems[printable_path(one.photo)] = str(error)
            left.append(one)
    marks.keep_unwritten(library, left)
    return Written(_described(changes), problems, len(marks.written(library)))


def _apply(marked: MarkedTag, dry_run: bool) -> tuple[dict[str, Change], dict[str, str]]:
    """Apply the marks to sidecars, unless this is a dry run; return the changes and the problems by photo."""
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
    """Return the parents of each word in the label hierarchy, as ``tag --sidecar`` writes them."""
    vocabulary = tagger.vocabulary
    place = {key: number for number, key in enumerate(vocabulary.keys)}
    numbers = {word: place.get(tagger.key(word)) for word in words}
    return {word: vocabulary.parents(number) for word, number in numbers.items() if number is not None}


def _described(changes: Iterable[Change]) -> list[SidecarChange]:
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

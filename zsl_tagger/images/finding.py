"""What the user names on the command line -> image files, folders walked recursively."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from zsl_tagger.errors import install_command
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES
from zsl_tagger.images.raw import PHOTO_SUFFIXES, RAW_SUFFIXES, reads_raw
from zsl_tagger.records.record import Record

Identity = tuple[int, int]  # device and inode: the same folder under whatever path

#: Folders that systems and archives make beside a person's own: thumbnails, recycle bins, resource forks. Any case.
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
)
_KNOWN_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
MOST_SUFFIXES = 12  # that a summary names


@dataclass(frozen=True)
class Selection:
    """Which files and folders are left out of a search for images, and how many files were.

    Args:
        exclude: globs; what is called so, or whose path ends so ("raw", "2019/raw", "*_small.jpg"), is left out.
        entered: names of system folders that are entered all the same, in lower case.

    Attributes:
        left_out: suffixes of files of folders that are no images.
    """

    exclude: Sequence[str] = ()
    entered: frozenset[str] = frozenset()
    left_out: Counter[str] = field(default_factory=Counter)

    def leaves_out(self, path: str) -> bool:
        """Return whether a path of a folder is that of a system folder, or excluded; not whether a folder above is."""
        name = os.path.basename(path)
        if name.lower() in SYSTEM_FOLDERS and name.lower() not in self.entered:
            return True
        patterns = [parts for parts, fits in self._patterns if fits is None or fits(os.path.normcase(name))]
        if not patterns:  # as of nearly all files
            return False
        names = _parts(path)
        return any(_fits(names[start:], pattern) for pattern in patterns for start in range(len(names)))

    @cached_property
    def _patterns(self) -> list[tuple[list[str], Callable[[str], object] | None]]:
        """Return the parts of each glob, and what tells whether a name fits the last one; None where any may."""
        patterns = [_parts(os.path.normpath(pattern)) for pattern in self.exclude]
        return [
            (parts, None if parts[-1] == "**" else re.compile(fnmatch.translate(os.path.normcase(parts[-1]))).match)
            for parts in patterns
        ]

    def takes(self, path: str, raw: bool = True) -> bool:
        """Return whether a file of a folder is an image by its suffix; count what is neither that nor a sidecar.

        Args:
            raw: raw photos are images too, where they can be read.
        """
        suffix = os.path.splitext(path)[1].lower()
        if suffix in IMAGE_SUFFIXES or (raw and suffix in RAW_SUFFIXES and reads_raw()):
            return True
        self.left_out[suffix] += not _is_sidecar(path.lower())
        return False

    def summary(self) -> str:
        """Return one line on the files that were left out, "" where there were none."""
        raw = Counter({suffix: count for suffix, count in self.left_out.items() if suffix in RAW_SUFFIXES})
        others = self.left_out - raw
        lines = []
        if count := others.total():
            lines.append(f"{count:,} file{'s' if count > 1 else ''} left out, not photos: {_suffixes(others)}")
        if count := raw.total():
            reason = "they are not read from URLs" if reads_raw() else install_command("raw")
            lines.append(f"{count:,} raw photo{'s' if count > 1 else ''} left out ({_suffixes(raw)}): {reason}")
        return "; ".join(lines)


def _suffixes(counts: Counter[str]) -> str:
    """Return the most frequent suffixes in alphabetical order, for a person."""
    known = [suffix for suffix, _ in counts.most_common() if _KNOWN_SUFFIX.fullmatch(suffix)][:MOST_SUFFIXES]
    return ", ".join(sorted(known) + ["others"] * (len(counts) > len(known)))


def _is_sidecar(path: str) -> bool:
    """Return whether a file is one that belongs to a photo: photo.xmp, photo.jpg.txt, photo.jpg.tags.json."""
    stem, suffix = os.path.splitext(path)
    named = os.path.splitext(stem.removesuffix(".tags"))[1] in PHOTO_SUFFIXES
    return suffix == ".xmp" or (suffix in (".txt", ".json") and named)


def find_images(
    arguments: Iterable[str],
    elsewhere: Callable[[str], Iterable[str | Record] | None] | None = None,
    selection: Selection | None = None,
) -> Iterator[str | Record]:
    """Paths of images in a stable order, and an error record for what cannot be followed.

    A file named explicitly is always taken; in a folder, files are chosen by suffix, and hidden ones (thumbnail
    caches, "._" companions) and system folders (recycle bins) are left out. Links to folders are followed, but each
    folder is walked once.

    Args:
        elsewhere: what an argument that is no local path stands for; None for one that is.
        selection: what else is left out of folders and patterns. It counts the files that are no images.
    """
    selection = selection or Selection()
    visited: set[Identity] = set()
    for argument in arguments:
        if not argument:
            yield Record(argument, [], "empty path")
        elif elsewhere is not None and (found := elsewhere(argument)) is not None:
            yield from found
        elif os.path.isdir(argument):
            yield from _walk(argument, selection, visited)
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _matching(argument, selection, visited)
        else:
            yield argument


def _walk(folder: str, selection: Selection, visited: set[Identity]) -> Iterator[str | Record]:
    """Images of a folder and of those in it, by suffix."""
    for item in _files(folder, selection, visited):
        if isinstance(item, Record) or selection.takes(item):
            yield item


def _matching(pattern: str, selection: Selection, visited: set[Identity]) -> Iterator[str | Record]:
    """Every file that a pattern matches, and the images of a folder that it matches."""
    parts = _parts(pattern)
    selection = replace(selection, entered=frozenset(map(str.lower, parts)))
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    match = None
    for match in _below(pattern, selection) if "**" in parts else sorted(glob.glob(pattern)):
        if isinstance(match, Record):
            yield match
        elif "**" not in parts and _is_left_out(_parts(match), fixed, selection):
            continue
        elif os.path.isdir(match):
            yield from _walk(match, selection, visited)
        else:
            yield match
    if match is None:
        yield Record(pattern, [], "no file matches this pattern")


def _is_left_out(names: list[str], fixed: int, selection: Selection) -> bool:
    """Return whether a path or a folder above it is left out; its first ``fixed`` names are not asked about."""
    return any(selection.leaves_out(os.sep.join(names[:end])) for end in range(fixed + 1, len(names) + 1))


def _parts(pattern: str) -> list[str]:
    return pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)


def _below(pattern: str, selection: Selection) -> Iterator[str | Record]:
    """Files that a pattern with ``**``, any number of folders, matches. Each folder is entered once.

    (:func:`glob.glob` would follow a link to a parent folder again and again.)
    """
    parts = _parts(pattern)
    at = parts.index("**")
    head, tail = os.sep.join([*parts[:at], ""]), parts[at:]
    hidden = any(part.startswith(".") for part in tail)
    visited: set[Identity] = set()
    for top in sorted(glob.glob(head)) if head else [""]:
        for item in _files(top, selection, visited, hidden=hidden):
            if isinstance(item, Record) or _fits(item[len(top) :].split(os.sep), tail):
                yield item


def _fits(names: list[str], parts: list[str]) -> bool:
    """Whether the names of a path fit the parts of a pattern; a hidden name needs a part with the dot."""
    if not names or not parts:
        return not names and all(part == "**" for part in parts)
    if names[0].startswith(".") and not parts[0].startswith("."):
        return parts[0] == "**" and _fits(names, parts[1:])
    if parts[0] == "**":
        return _fits(names, parts[1:]) or _fits(names[1:], parts)
    return fnmatch.fnmatch(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _files(
    folder: str,
    selection: Selection,
    visited: set[Identity],
    ancestors: tuple[Identity, ...] = (),
    hidden: bool = False,
) -> Iterator[str | Record]:
    """Files of a folder ("": this one) and of those in it, by name, but of no folder that was visited."""
    try:
        status = os.stat(folder or os.curdir)
        entries = sorted(os.scandir(folder or os.curdir), key=lambda entry: entry.name)
    except OSError as error:
        yield Record(folder, [], f"cannot open this folder: {error.strerror}")
        return
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        yield Record(folder, [], "folder loop: it links back to a folder that it lies in")
    if identity in visited:
        return
    visited.add(identity)
    for entry in entries:
        if entry.name.startswith(".") and not hidden:
            continue
        path = os.path.join(folder, entry.name)
        if selection.leaves_out(path):
            continue
        if _is_folder(entry):
            yield from _files(path, selection, visited, (*ancestors, identity), hidden)
        else:
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # mostly known from the listing of its folder: no further call for each file
    except OSError:  # a link to itself
        return False

"""Find image files in the paths, folders and patterns given on the command line."""

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

Identity = tuple[int, int]  # device and inode, which identify a folder under any path

#: Folders created by systems and archives: thumbnails, recycle bins, resource forks. Compared in lower case.
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
)
_KNOWN_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
MOST_SUFFIXES = 12  # listed in a summary


@dataclass(frozen=True)
class Selection:
    """Rules for skipping files and folders while looking for images, and counts of the skipped files.

    Args:
        exclude: globs that match a name or the end of a path ("raw", "2019/raw", "*_small.jpg").
        entered: lower-case names of system folders that are entered nevertheless.

    Attributes:
        left_out: suffixes of skipped files that are not images.
    """

    exclude: Sequence[str] = ()
    entered: frozenset[str] = frozenset()
    left_out: Counter[str] = field(default_factory=Counter)

    def leaves_out(self, path: str) -> bool:
        """Return whether a path is excluded or a system folder; its parent folders are not checked."""
        name = os.path.basename(path)
        if name.lower() in SYSTEM_FOLDERS and name.lower() not in self.entered:
            return True
        patterns = [parts for parts, fits in self._patterns if fits is None or fits(os.path.normcase(name))]
        if not patterns:  # the usual case
            return False
        names = _parts(path)
        return any(_fits(names[start:], pattern) for pattern in patterns for start in range(len(names)))

    @cached_property
    def _patterns(self) -> list[tuple[list[str], Callable[[str], object] | None]]:
        """Return the parts of each glob, and a function that matches its last part; None if any name matches."""
        patterns = [_parts(os.path.normpath(pattern)) for pattern in self.exclude]
        return [
            (parts, None if parts[-1] == "**" else re.compile(fnmatch.translate(os.path.normcase(parts[-1]))).match)
            for parts in patterns
        ]

    def takes(self, path: str, raw: bool = True) -> bool:
        """Return whether a file has an image suffix; count it if it is neither an image nor a sidecar.

        Args:
            raw: accept raw photos, if they can be read.
        """
        suffix = os.path.splitext(path)[1].lower()
        if suffix in IMAGE_SUFFIXES or (raw and suffix in RAW_SUFFIXES and reads_raw()):
            return True
        self.left_out[suffix] += not _is_sidecar(path.lower())
        return False

    def summary(self) -> str:
        """Return one line about the skipped files, or "" if there were none."""
        raw = Counter({suffix: count for suffix, count in self.left_out.items() if suffix in RAW_SUFFIXES})
        others = self.left_out - raw
        lines = []
        if count := others.total():
            lines.append(f"{count:,} file{'s' if count > 1 else ''} skipped, not photos: {_suffixes(others)}")
        if count := raw.total():
            reason = "they are not read from URLs" if reads_raw() else install_command("raw")
            lines.append(f"{count:,} raw photo{'s' if count > 1 else ''} skipped ({_suffixes(raw)}): {reason}")
        return "; ".join(lines)


def _suffixes(counts: Counter[str]) -> str:
    """Return the most frequent suffixes in alphabetical order, as text."""
    known = [suffix for suffix, _ in counts.most_common() if _KNOWN_SUFFIX.fullmatch(suffix)][:MOST_SUFFIXES]
    return ", ".join(sorted(known) + ["others"] * (len(counts) > len(known)))


def _is_sidecar(path: str) -> bool:
    """Return whether a file is a photo's sidecar: photo.xmp, photo.jpg.txt or photo.jpg.tags.json."""
    stem, suffix = os.path.splitext(path)
    named = os.path.splitext(stem.removesuffix(".tags"))[1] in PHOTO_SUFFIXES
    return suffix == ".xmp" or (suffix in (".txt", ".json") and named)


def find_images(
    arguments: Iterable[str],
    elsewhere: Callable[[str], Iterable[str | Record] | None] | None = None,
    selection: Selection | None = None,
) -> Iterator[str | Record]:
    """Yield the paths of images in a stable order, and an error record for each argument that cannot be read.

    A file named explicitly is always used. In folders, files are selected by suffix; hidden files (thumbnail caches,
    "._" companions) and system folders (recycle bins) are skipped. Links to folders are followed, but each folder is
    visited once.

    Args:
        elsewhere: returns the images of an argument that is not a local path, None for a local path.
        selection: further rules for folders and patterns; it counts the files that are not images.
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
    """Yield the images of a folder and its subfolders, by suffix."""
    for item in _files(folder, selection, visited):
        if isinstance(item, Record) or selection.takes(item):
            yield item


def _matching(pattern: str, selection: Selection, visited: set[Identity]) -> Iterator[str | Record]:
    """Yield every file that a pattern matches, and the images of every folder that it matches."""
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
    """Return whether a path or one of its parents is excluded; the first ``fixed`` names are not checked."""
    return any(selection.leaves_out(os.sep.join(names[:end])) for end in range(fixed + 1, len(names) + 1))


def _parts(pattern: str) -> list[str]:
    return pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)


def _below(pattern: str, selection: Selection) -> Iterator[str | Record]:
    """Yield the files that a pattern with ``**`` (any number of folders) matches, entering each folder once.

    (:func:`glob.glob` would follow a link to a parent folder over and over.)
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
    """Return whether the names of a path match the parts of a pattern; hidden names need a part with the dot."""
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
    """Yield the files of a folder ("": the current one) and its unvisited subfolders, sorted by name."""
    try:
        status = os.stat(folder or os.curdir)
        entries = sorted(os.scandir(folder or os.curdir), key=lambda entry: entry.name)
    except OSError as error:
        yield Record(folder, [], f"cannot open this folder: {error.strerror}")
        return
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        yield Record(folder, [], "folder loop: it links back to a folder that contains it")
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
        return entry.is_dir()  # usually known from listing the folder, without a system call per file
    except OSError:  # a link to itself
        return False

"""What the user names on the command line -> image files, folders walked recursively."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterable, Iterator

from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES
from zsl_tagger.records.record import Record

Identity = tuple[int, int]  # device and inode: the same folder under whatever path


def find_images(
    arguments: Iterable[str], elsewhere: Callable[[str], Iterable[str | Record] | None] | None = None
) -> Iterator[str | Record]:
    """Paths of images in a stable order, and an error record for what cannot be followed.

    A file named explicitly is always taken; in a folder, files are chosen by suffix, and hidden ones (thumbnail
    caches, "._" companions) are left out. Links to folders are followed, but each folder is walked once.

    Args:
        elsewhere: what an argument that is no local path stands for; None for one that is.
    """
    visited: set[Identity] = set()
    for argument in arguments:
        if not argument:
            yield Record(argument, [], "empty path")
        elif elsewhere is not None and (found := elsewhere(argument)) is not None:
            yield from found
        elif os.path.isdir(argument):
            yield from _walk(argument, visited)
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _matching(argument, visited)
        else:
            yield argument


def _walk(folder: str, visited: set[Identity]) -> Iterator[str | Record]:
    """Images of a folder and of those in it, by suffix."""
    for item in _files(folder, visited):
        if isinstance(item, Record) or os.path.splitext(item)[1].lower() in IMAGE_SUFFIXES:
            yield item


def _matching(pattern: str, visited: set[Identity]) -> Iterator[str | Record]:
    """Every file that a pattern matches, and the images of a folder that it matches."""
    match = None
    for match in _below(pattern) if "**" in _parts(pattern) else sorted(glob.glob(pattern)):
        if isinstance(match, Record) or not os.path.isdir(match):
            yield match
        else:
            yield from _walk(match, visited)
    if match is None:
        yield Record(pattern, [], "no file matches this pattern")


def _parts(pattern: str) -> list[str]:
    return pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)


def _below(pattern: str) -> Iterator[str | Record]:
    """Files that a pattern with ``**``, any number of folders, matches. Each folder is entered once.

    (:func:`glob.glob` would follow a link to a parent folder again and again.)
    """
    parts = _parts(pattern)
    at = parts.index("**")
    head, tail = os.sep.join([*parts[:at], ""]), parts[at:]
    hidden = any(part.startswith(".") for part in tail)
    visited: set[Identity] = set()
    for top in sorted(glob.glob(head)) if head else [""]:
        for item in _files(top, visited, hidden=hidden):
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
    folder: str, visited: set[Identity], ancestors: tuple[Identity, ...] = (), hidden: bool = False
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
        if _is_folder(entry):
            yield from _files(path, visited, (*ancestors, identity), hidden)
        else:
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # mostly known from the listing of its folder: no further call for each file
    except OSError:  # a link to itself
        return False

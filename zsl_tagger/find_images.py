"""What the user names on the command line -> image files, folders walked recursively."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from zsl_tagger.preprocessing import IMAGE_SUFFIXES
from zsl_tagger.tag import Record


def find_images(
    arguments: Iterable[str], elsewhere: Callable[[str], Iterable[str | Record] | None] | None = None
) -> Iterator[str | Record]:
    """Paths of images in a stable order, and an error record for what cannot be followed.

    A file named explicitly is always taken; in a folder, files are chosen by suffix, and hidden ones (thumbnail
    caches, "._" companions) are left out. Links to folders are followed, but each folder is walked once.

    Args:
        elsewhere: what an argument that is no local path stands for; None for one that is.
    """
    visited: set[tuple[int, int]] = set()
    for argument in arguments:
        if not argument:
            yield Record(argument, [], "empty path")
        elif elsewhere is not None and (found := elsewhere(argument)) is not None:
            yield from found
        elif os.path.isdir(argument):
            yield from _walk(argument, visited, ancestors=())
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                yield Record(argument, [], "no file matches this pattern")
            for match in matches:
                if not os.path.isdir(match):
                    yield match
                elif "**" not in argument:  # which matches the folder's files as well
                    yield from _walk(match, visited, ancestors=())
        else:
            yield argument


def _walk(folder: str, visited: set[tuple[int, int]], ancestors: tuple[tuple[int, int], ...]) -> Iterator[str | Record]:
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
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
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):
            yield from _walk(entry.path, visited, (*ancestors, identity))
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            yield entry.path

"""Find and read images at URLs that fsspec opens (``s3://``, ``gs://``, ``https://``, ``zip://...::archive.zip``).

Credentials and settings are those of fsspec: environment variables, or files in ``~/.config/fsspec``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES, ImageError, open_errors
from zsl_tagger.records.record import Record

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a single letter is a Windows drive


def is_url(argument: str) -> bool:
    """Return whether an argument is a URL rather than a path."""
    return _URL.match(argument) is not None


def find_urls(url: str, selection: Selection | None = None) -> Iterator[str | Record]:
    """Yield URLs of images in a stable order, selected like files in :func:`zsl_tagger.images.finding.find_images`.

    A ``file://`` URL means the local path; ``http(s)://`` always means a single photo.

    Args:
        selection: as for local folders; with URLs it applies to folders only, not to patterns.

    Raises:
        UserError: unknown file system, or its package is not installed.
    """
    try:
        files, name = _opened(url)
        if _is_local(files):
            yield from find_images([name], selection=selection)
        elif url.startswith(("http://", "https://")):
            yield url
        else:
            yield from _found(files, name, url, selection or Selection())
    except UserError:
        raise
    except Exception as error:  # each file system raises its own exceptions
        yield Record(url, [], f"cannot be listed: {first_line(error)}")


def _found(files: Any, name: str, url: str, selection: Selection) -> Iterator[str | Record]:
    if has_magic(name):
        matches = sorted(files.glob(name))
        if not matches:
            yield Record(url, [], "no file matches this pattern")
        for match in matches:
            if not files.isdir(match):
                yield _url_of(files, match, url)
            elif "**" not in name:  # "**" matches the folder's files as well
                yield from _in_folder(files, match, url, selection)
    elif PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES and files.isdir(name):
        yield from _in_folder(files, name, url, selection)
    else:  # do not query image URLs: lists may have millions
        yield url


def _in_folder(files: Any, folder: str, url: str, selection: Selection) -> Iterator[str]:
    for found in sorted(files.find(folder)):
        below = PurePosixPath(found.removeprefix(folder).lstrip("/"))
        paths = [str(PurePosixPath(folder, path)) for path in (below, *below.parents[:-1])]
        if any(part.startswith(".") for part in below.parts) or any(map(selection.leaves_out, paths)):
            continue
        if selection.takes(found, raw=False):  # read as bytes, without the file name
            yield _url_of(files, found, url)


def _url_of(files: Any, name: str, url: str) -> str:
    """Return the URL of a file found by ``url``, with the archive after ``::``."""
    _, chained, rest = url.partition("::")
    return files.unstrip_protocol(name) + chained + rest


def read_url(url: str) -> bytes | str:
    """Return the bytes of a file, or the local path of a ``file://`` URL.

    Raises:
        ImageError: it is missing or cannot be read.
    """
    try:
        with open_errors():
            files, name = _opened(url)
            return name if _is_local(files) else files.cat_file(name)
    except ImageError:
        raise
    except Exception as error:  # each file system raises its own exceptions
        raise ImageError(f"cannot be read: {first_line(error)}") from None


def _opened(url: str) -> tuple[Any, str]:
    """Return the fsspec file system and the name in it."""
    try:
        return url_to_fs(url)
    except ImportError as error:  # fsspec names the package
        raise UserError(f"cannot open {get_protocol(url)}:// URLs: {first_line(error)}") from None
    except ValueError as error:
        raise UserError(f"cannot open {url}: {first_line(error)}") from None


def _is_local(files: Any) -> bool:
    return "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol)

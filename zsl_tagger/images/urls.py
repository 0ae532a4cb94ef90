"""Find and read images at URLs that fsspec opens (``s3://``, ``gs://``, ``https://``, ``zip://...::archive.zip``).

Credentials and settings are those of fsspec: environment variables, or files in ``~/.config/fsspec``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from zsl_tagger.errors import UserError, first_line, require
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES, ImageError, ImageSource, open_errors
from zsl_tagger.records.record import Record

#: A photo at a URL is held in memory as a whole, and its server is not trusted: larger and slower ones are errors.
MAX_BYTES = 100_000_000
MAX_SECONDS = 60  # of a web server, from the request to the last byte

_WEB = ("http://", "https://")
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
    require("fsspec", "urls", "URLs")
    try:
        files, name = _opened(url)
        if _is_local(files):
            yield from find_images([name], selection=selection)
        elif url.startswith(_WEB):
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


def fetched(image: ImageSource) -> ImageSource:
    """Return the content of a URL; anything else is returned unchanged.

    Raises:
        ImageError: see :func:`read_url`.
        MissingExtraError: fsspec is not installed.
    """
    return read_url(image) if isinstance(image, str) and is_url(image) else image


def read_url(url: str) -> bytes | str:
    """Return the bytes of a file, or the local path of a ``file://`` URL.

    Raises:
        ImageError: it is missing, cannot be read, or exceeds ``MAX_BYTES`` or ``MAX_SECONDS``.
        MissingExtraError: fsspec is not installed.
    """
    require("fsspec", "urls", "URLs")
    import asyncio  # fsspec loads it anyway; tagging files does not need it

    try:
        with open_errors():
            files, name = _opened(url)
            if _is_local(files):
                return name
            with files.open(name, "rb", **_streaming(url)) as file:
                return _limited(file)
    except ImageError:
        raise
    except UserError as error:
        raise ImageError(str(error)) from None
    except (TimeoutError, asyncio.TimeoutError):  # two classes in Python 3.10
        raise ImageError(f"not received within {MAX_SECONDS} s") from None
    except Exception as error:  # each file system raises its own exceptions
        raise ImageError(f"cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return why a file cannot be read; the messages of web clients are mostly the URL."""
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        return first_line(error)
    return f"HTTP status {status}" if status else "too many redirects"


def _streaming(url: str) -> dict[str, Any]:
    """Return the arguments with which a web page is read as it arrives, in one request with a time limit."""
    if not url.startswith(_WEB):
        return {}
    from aiohttp import ClientTimeout

    # With a size, fsspec does not send another request for it; with blocks of 0 bytes, it does not use the size.
    return {"block_size": 0, "size": 1, "timeout": ClientTimeout(total=MAX_SECONDS)}


def _limited(file: Any) -> bytes:
    """Return the content of an open file.

    Raises:
        ImageError: it is too large.
    """
    too_large = ImageError(f"too large: more than {MAX_BYTES // 1_000_000} MB")
    if (getattr(file, "size", None) or 0) > MAX_BYTES:
        raise too_large
    content = bytearray()
    while part := file.read(MAX_BYTES + 1 - len(content)):  # a stream returns what has arrived
        content += part
        if len(content) > MAX_BYTES:
            raise too_large
    return bytes(content)


def _opened(url: str) -> tuple[Any, str]:
    """Return the fsspec file system and the name in it."""
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    try:
        return url_to_fs(url)
    except ImportError as error:  # fsspec names the package
        raise UserError(f"cannot open {get_protocol(url)}:// URLs: {first_line(error)}") from None
    except ValueError as error:
        raise UserError(f"cannot open {url}: {first_line(error)}") from None


def _is_local(files: Any) -> bool:
    return "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol)

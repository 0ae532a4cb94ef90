"""Parse multipart requests into photos and fields in memory; nothing is written to disk, no name is used as a path."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from zsl_tagger.errors import first_line
from zsl_tagger.serve.limits import MB, Limits

_FIELDS, _FIELD_BYTES = 16, 200_000


@dataclass(frozen=True)
class Photo:
    """Hold an uploaded photo."""

    name: str  # as sent by the client; used only in the response
    content: bytes


async def read_form(
    request: Request, limits: Limits, take: Callable[[int], None]
) -> tuple[list[Photo], dict[str, str]]:
    """Return the photos of the field ``files``, any number up to the limit, and the other fields.

    Args:
        take: called with the size of each chunk of the body before it is stored; may raise.

    Raises:
        HTTPException: 400, 408, 413, 415 or 422.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, f"expected multipart/form-data, got {kind or 'no content type'}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.request_bytes:
        raise _too_large(limits)
    parser = _InMemory(request.headers, _limited(request, limits, take), limits)
    try:
        form = await asyncio.wait_for(parser.parse(), limits.upload_seconds)
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form cannot be parsed: {first_line(error)}") from None
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the request did not arrive in {limits.upload_seconds:.0f} s") from None
    photos: list[Photo] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, str) and name != "files" and name not in fields:
            fields[name] = value
        elif isinstance(value, str):
            raise HTTPException(
                422, "expected files in the field files" if name == "files" else f"{name} is given more than once"
            )
        elif name == "files":
            photos.append(_photo(value))
        else:
            raise HTTPException(422, f"expected photos in the field files, not {name}")
    return photos, fields


async def _limited(request: Request, limits: Limits, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks, and enforce the limits whatever its declared length is."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.request_bytes:
            raise _too_large(limits)
        take(len(chunk))
        yield chunk


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _photo(upload: UploadFile) -> Photo:
    with upload.file as file:
        return Photo(upload.filename or "", file.read())


def expect_photos(photos: list[Photo], least: int, most: int) -> None:
    """Validate the number of photos.

    Raises:
        HTTPException: 422 if it is out of range.
    """
    if not least <= len(photos) <= most:
        expected = f"{least} to {most} photos as files" if most else "no files"
        raise HTTPException(422, f"expected {expected}, got {len(photos)}")


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"too large: at most {limits.photo_bytes // MB} MB per photo, {limits.request_bytes // MB} MB per request"
    )


class _InMemory(MultiPartParser):
    """Parse a form in memory.

    Starlette's parser writes files of more than 1 MB to disk, does not limit the size of files and accepts truncated
    forms.
    """

    spool_max_size = sys.maxsize

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: Limits):
        super().__init__(headers, stream, max_files=limits.photos + 1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
        self._limits = limits
        self._is_complete = False

    async def parse(self) -> FormData:
        """Parse the form.

        Raises:
            MultiPartException: it is invalid, or truncated, so that photos would be missing from it.
        """
        form = await super().parse()
        if not self._is_complete:
            await form.close()
            raise MultiPartException("expected the final boundary, but the form is truncated")
        return form

    def on_end(self) -> None:
        self._is_complete = True

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._part_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        if self._part_bytes > self._limits.photo_bytes:
            raise _too_large(self._limits)
        super().on_part_data(data, start, end)

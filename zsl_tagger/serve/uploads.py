"""A multipart request -> photos and fields, in memory: nothing is written to a disk, no name is used as a path."""

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

    name: str  # as the client says: for the answer only
    content: bytes


async def read_form(
    request: Request, limits: Limits, take: Callable[[int], None]
) -> tuple[list[Photo], dict[str, str]]:
    """Return the photos of the field ``files``, any number up to the limit, and the other fields.

    Args:
        take: is told of each piece of the body before it is kept, and may raise.

    Raises:
        HTTPException: 400, 408, 413, 415 or 422.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, f"expected multipart/form-data, got {kind or 'no content type'}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.request_bytes:
        raise _too_large(limits)
    parser = _InMemory(request.headers, _counted(request, limits, take), limits)
    try:
        form = await asyncio.wait_for(parser.parse(), limits.upload_seconds)
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"this is no form that can be read: {first_line(error)}") from None
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the request did not arrive in {limits.upload_seconds:.0f} s") from None
    photos: list[Photo] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, str) and name != "files" and name not in fields:
            fields[name] = value
        elif isinstance(value, str):
            raise HTTPException(422, "files are no files" if name == "files" else f"{name} is given more than once")
        elif name == "files":
            photos.append(_photo(value))
        else:
            raise HTTPException(422, f"photos go by the name files, not {name}")
    return photos, fields


async def _counted(request: Request, limits: Limits, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, whatever length it claims to have."""
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > limits.request_bytes:
            raise _too_large(limits)
        take(len(piece))
        yield piece


async def hung_up(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _photo(upload: UploadFile) -> Photo:
    with upload.file as file:
        return Photo(upload.filename or "", file.read())


def expect_photos(photos: list[Photo], least: int, most: int) -> None:
    """Raise 422 where their number is another."""
    if not least <= len(photos) <= most:
        expected = f"{least} to {most} photos as files" if most else "no files"
        raise HTTPException(422, f"expected {expected}, got {len(photos)}")


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"too large: at most {limits.photo_bytes // MB} MB a photo, {limits.request_bytes // MB} MB a request"
    )


class _InMemory(MultiPartParser):
    """Starlette's parser, which writes files of more than 1 MB to the disk, limits no file and takes a cut form."""

    spool_max_size = sys.maxsize

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: Limits):
        super().__init__(headers, stream, max_files=limits.photos + 1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
        self._limits = limits
        self._whole = False

    async def parse(self) -> FormData:
        """Read the form.

        Raises:
            MultiPartException: it is broken, or cut: photos that were sent would be missing from it.
        """
        form = await super().parse()
        if not self._whole:
            await form.close()
            raise MultiPartException("expected its last boundary at the end, it is cut off before")
        return form

    def on_end(self) -> None:
        self._whole = True

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._part_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        if self._part_bytes > self._limits.photo_bytes:
            raise _too_large(self._limits)
        super().on_part_data(data, start, end)

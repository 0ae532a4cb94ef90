"""Define what is fuzzed: each target takes any bytes, and raises only what is no error that a user can mend."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from PIL import Image
from sidecar_samples import SAMPLES

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_upload
from zsl_tagger.records.record import Tag
from zsl_tagger.search.query import parse_query
from zsl_tagger.serve.limits import Limits
from zsl_tagger.serve.tagging import read_labels
from zsl_tagger.serve.uploads import read_form
from zsl_tagger.sidecars.run import KINDS

TAGS = [Tag("dog", 0.9), Tag("sea & sky", 0.8)]
SMALL = Preprocessing(16)
LIMITS = Limits(photo_bytes=10_000, photos=3)


class Target(NamedTuple):
    run: Callable[[bytes], Any]
    seeds: Callable[[], Iterator[bytes]]


def sidecars(content: bytes) -> None:
    """Merge twice, take back: the first byte chooses the kind. What is written is understood, and stays as it is."""
    kind = list(KINDS.values())[content[0] % len(KINDS)] if content else KINDS["xmp"]
    try:
        once = kind.merged(content[1:], TAGS)
    except UserError:
        return
    assert once is not None
    assert kind.merged(once, TAGS) is once
    kind.owned_keywords(once)
    kind.merged(once, [])


def images(content: bytes) -> None:
    with contextlib.suppress(UserError):
        pixels = load_upload(content, SMALL, max_pixels=100_000)
        assert pixels.shape == (16, 16, 3)


def multipart(content: bytes) -> None:
    """The first line is what follows "boundary=", the rest is the body, which comes in pieces."""
    boundary, _, body = content.partition(b"\n")
    headers = [(b"content-type", b"multipart/form-data; boundary=" + boundary)]
    pieces = [body[start : start + 50] for start in range(0, len(body), 50)]
    try:
        photos, fields = _LOOP.run_until_complete(read_form(_request(headers, pieces), LIMITS, lambda _: None))
    except HTTPException as error:
        assert 400 <= error.status_code < 500  # noqa: PT017
        return
    assert sum(len(photo.content) for photo in photos) + sum(map(len, fields.values())) <= len(body)


_LOOP = asyncio.new_event_loop()


def _request(headers: list[tuple[bytes, bytes]], pieces: list[bytes]) -> Request:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left = iter([*messages, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(left)

    return Request({"type": "http", "method": "POST", "path": "/v1/tag", "headers": headers}, receive)


def queries(content: bytes) -> None:
    """A search, and the labels of a request."""
    text = content.decode("utf-8", "surrogateescape")
    with contextlib.suppress(UserError):
        assert parse_query(text).labels
    with contextlib.suppress(UserError):
        read_labels(text)


def _sidecar_seeds() -> Iterator[bytes]:
    for number, kind in enumerate(KINDS.values()):
        yield bytes([number]) + (kind.merged(None, TAGS) or b"")
        yield bytes([number])
    yield from (b"\0" + sample.encode() for sample in SAMPLES.values())
    yield b"\0" + SAMPLES["exiftool"].encode("utf-16")
    yield b'\2{"a": [1, {"b": null}], "c": "\\u00e9"}'


def _image_seeds() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        for mode in ("RGB", "L", "P") if kind != "JPEG" else ("RGB", "L", "CMYK"):
            with contextlib.suppress(OSError):  # a mode that the format has not
                file = io.BytesIO()
                colours.convert(mode).save(file, kind)
                yield file.getvalue()
    for values in (np.uint16, np.float32, np.int32):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 200, (8, 8)).astype(values)).save(file, "TIFF")
        yield file.getvalue()
    yield struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"mif1")


def _multipart_seeds() -> Iterator[bytes]:
    part = b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    photo = part % (b"files", b'; filename="a.jpg"\r\nContent-Type: image/jpeg', b"\xff\xd8\xff" * 20)
    yield b"B\n" + photo + part % (b"labels", b"", b"dog,cat") + b"--B--\r\n"
    yield b"B\n" + photo
    yield b"B\n"


def _query_seeds() -> Iterator[bytes]:
    yield from (b"red bicycle", b"beach, sunset", b"dog or cat, beach", b"snow -dog", b"snow -hot-dog", b"", b"a,b,,a")


TARGETS = {
    "sidecars": Target(sidecars, _sidecar_seeds),
    "images": Target(images, _image_seeds),
    "multipart": Target(multipart, _multipart_seeds),
    "queries": Target(queries, _query_seeds),
}

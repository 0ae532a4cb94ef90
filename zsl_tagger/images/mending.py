"""Repair files that Pillow rejects but browsers show: truncated JPEGs and PNGs with large text chunks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_tagger.images.opening import ImageError, scans_of

#: Share of its pixels that a JPEG may lack; browsers show them grey, and the photo is still recognisable.
MOST_MISSING = 0.1
#: A progressive JPEG has every pixel after a few of its usual ten scans; the rest add fine detail.
ENOUGH_SCANS = 5

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


def mended(source: Path | bytes, error: Exception, decode: Callable[[io.BytesIO], Image.Image]) -> io.BytesIO | None:
    """Return a readable version of a rejected file; None if it cannot be repaired.

    Args:
        error: why it was rejected.
        decode: reads an image file, to see how much of it is present.
    """
    cut = isinstance(error, OSError) and "truncated" in str(error)
    if isinstance(error, ImageError) or not (cut or isinstance(error, ValueError)):
        return None
    content = source if isinstance(source, bytes) else source.read_bytes()
    if cut and content.startswith(_JPEG) and _is_nearly_whole(content, decode):
        return io.BytesIO(content + _JPEG_END)
    if not cut and content.startswith(_PNG):
        return io.BytesIO(_without_texts(content))
    return None


def _is_nearly_whole(content: bytes, decode: Callable[[io.BytesIO], Image.Image]) -> bool:
    """Return whether little of a JPEG is missing: most pixels do not depend on the data appended to it."""
    scans = scans_of(io.BytesIO(content))
    if scans > 1:
        return scans >= ENOUGH_SCANS
    # Noise without the byte 255, which would start a marker.
    noise = np.random.default_rng(0).integers(0, 255, len(content), dtype=np.uint8).tobytes()
    shown = np.asarray(decode(io.BytesIO(content + _JPEG_END)))
    other = np.asarray(decode(io.BytesIO(content.rstrip(b"\xff") + noise + _JPEG_END)))
    differs = shown != other
    return float((differs.any(-1) if differs.ndim == 3 else differs).mean()) <= MOST_MISSING


def _without_texts(content: bytes) -> bytes:
    """Return a PNG without its text chunks."""
    kept, place = [content[: len(_PNG)]], len(_PNG)
    while place + 8 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")  # length, kind, data, checksum
        if content[place + 4 : place + 8] not in _PNG_TEXTS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)

"""Make small raw photos (DNG) that LibRaw reads, with a preview of any picture."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

Entry = tuple[int, int, Sequence[int] | bytes]  # tag, type, values

_CODES = {1: "B", 3: "H", 4: "I", 10: "i"}
_TEXT, _SIGNED_FRACTION = 2, 10


def dng(preview: Image.Image, orientation: int = 1, compressed: bool = True) -> bytes:
    """Return a DNG: its first page is the preview, its sub-page the sensor's data, which are black."""
    width, height = preview.size
    pixels = preview.tobytes()
    if compressed:
        file = io.BytesIO()
        preview.save(file, "JPEG", quality=95)
        pixels = file.getvalue()
    pixels += b"\0" * (len(pixels) % 2)
    sensor = np.zeros((height, width), "<u2").tobytes()
    first = 8 + len(pixels) + len(sensor)

    def page(sub_page: int) -> bytes:
        entries: list[Entry] = [
            (254, 4, [1]), (256, 4, [width]), (257, 4, [height]), (258, 3, [8, 8, 8]),
            (259, 3, [7 if compressed else 1]), (262, 3, [6 if compressed else 2]),
            (271, _TEXT, b"Made"), (272, _TEXT, b"Camera"), (273, 4, [8]),
            (274, 3, [orientation]), (277, 3, [3]), (278, 4, [height]), (279, 4, [len(pixels)]), (330, 4, [sub_page]),
            (50706, 1, [1, 4, 0, 0]), (50708, _TEXT, b"Made Camera"),
            (50721, _SIGNED_FRACTION, [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]), (50778, 3, [21]),
        ]  # fmt: skip
        return _directory(entries, first)

    sub_page = first + len(page(0))
    mosaic: list[Entry] = [
        (254, 4, [0]), (256, 4, [width]), (257, 4, [height]), (258, 3, [16]), (259, 3, [1]), (262, 3, [32803]),
        (273, 4, [8 + len(pixels)]), (277, 3, [1]), (278, 4, [height]), (279, 4, [len(sensor)]), (33421, 3, [2, 2]),
        (33422, 1, [0, 1, 1, 2]),
    ]  # fmt: skip
    return struct.pack("<2sHI", b"II", 42, first) + pixels + sensor + page(sub_page) + _directory(mosaic, sub_page)


def _directory(entries: Sequence[Entry], offset: int) -> bytes:
    """Return a TIFF directory that lies at an offset, with its longer values behind it."""
    rows, behind = b"", b""
    for tag, kind, values in entries:
        if isinstance(values, bytes):
            data, count = values + b"\0", len(values) + 1
        else:
            data = struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
            count = len(values) // (2 if kind == _SIGNED_FRACTION else 1)
        if len(data) > 4:
            place = struct.pack("<I", offset + 2 + 12 * len(entries) + 4 + len(behind))
            behind += data + b"\0" * (len(data) % 2)
            data = place
        rows += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + rows + struct.pack("<I", 0) + behind

"""Image files that Pillow does not write: TIFF pages of any kind, JPEG with many scans, ICC profiles."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

Page = tuple[dict[int, list[int]], bytes]


def tiff_page(shape: tuple[int, ...], bits: int, data: list[bytes], **tags: int) -> Page:
    """Return a page of (height, width, samples); ``data`` has a strip for each plane."""
    height, width, samples = shape
    names = {"photometric": 262, "planes": 284, "kind": 254, "compression": 259, "format": 339}
    more = {names[name]: [value] for name, value in tags.items()}
    sizes = {279: [len(part) for part in data], 273: [len(part) for part in data]}  # 273 becomes the offsets
    fixed = {256: [width], 257: [height], 258: [bits] * samples, 277: [samples], 278: [height]}
    return {259: [1], 262: [2 if samples >= 3 else 1], **fixed, **sizes, **more}, b"".join(data)


def tiff(*pages: Page, order: str = "<") -> bytes:
    """Return a TIFF file; all tags are LONG."""
    content = b"II*\0" if order == "<" else b"MM\0*"
    link, content = len(content), content + bytes(4)
    for tags, data in pages:
        start, content = len(content), content + data + bytes(len(data) % 2)
        offsets = start + np.concatenate([[0], np.cumsum(tags[279])])[:-1]
        entries, more = b"", b""
        place = len(content)
        beyond = place + 2 + 12 * len(tags) + 4
        for tag, values in sorted({**tags, 273: [int(offset) for offset in offsets]}.items()):
            packed = struct.pack(f"{order}{len(values)}L", *values)
            if len(values) > 1:
                more, packed = more + packed, struct.pack(f"{order}L", beyond + len(more))
            entries += struct.pack(f"{order}HHL", tag, 4, len(values)) + packed
        content = content[:link] + struct.pack(f"{order}L", place) + content[link + 4 :]
        link = beyond - 4
        content += struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + more
    return content


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """Return a small progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


#: Columns: red, green and blue in XYZ under D50.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])


def icc_profile(space: bytes, gamma: float, primaries: np.ndarray = SRGB) -> bytes:
    """Return a small ICC profile (version 2.4) of colours with a gamma: ``b"RGB "`` or ``b"GRAY"``."""

    def numbers(values: object) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3l", *np.rint(np.asarray(values) * 65536).astype(int))

    curve = b"curv\0\0\0\0" + struct.pack(">LH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">L", 2) + b"x\0" + bytes(78 + 4)}
    tags[b"wtpt"] = numbers([0.9642, 1.0, 0.8249])
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for index, name in enumerate(b"rgb"):
            tags[bytes([name]) + b"XYZ"], tags[bytes([name]) + b"TRC"] = numbers(primaries[:, index]), curve
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name_, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name_ + struct.pack(">LL", place + len(data), len(content))
        data += content
    header = bytes(4) + b"lcms" + b"\x02\x40\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3l", 63190, 65536, 54061) + bytes(48)
    content = header + struct.pack(">L", len(tags)) + table + data
    return struct.pack(">L", len(content)) + content[4:]

"""Detect ONNX files that load weights from another file, which an untrusted model could point to any file of the user.

The onnx package is not part of the base install, so the few relevant fields are parsed here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

#: Fields of each onnx.proto message that contain messages with tensors: field number -> message type.
_INNER = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}


def has_external_data(path: Path) -> bool:
    """Return whether an ONNX file stores a tensor in another file; errors in it are left to ONNX Runtime."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"location") < 0:  # the key of the file name; nearly always sufficient
            return False
    messages = [("model", memoryview(path.read_bytes()))]
    try:
        while messages:
            kind, message = messages.pop()
            for number, inner in _submessages(message):
                if found := _INNER[kind].get(number):
                    if found == "external":
                        return True
                    messages.append((found, inner))
    except (IndexError, ValueError):
        pass
    return False


def _submessages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and content of each length-delimited field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            _, at = _varint(message, at)
        elif key & 7 == 2:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        else:
            at += {1: 8, 5: 4}.get(key & 7) or _refuse()


def _refuse() -> int:
    raise ValueError("expected a protobuf message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("expected a 64-bit number")

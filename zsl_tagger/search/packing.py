"""Pack tokens, class probabilities and logits of a photo for the index, with 8 bits per value.

Tokens are the output of a ReLU: about three in four are 0, often in the same channels. One byte per value with a scale
per token, compressed channel by channel with zlib, takes 14 KB for 12 x 12 x 256 values and changes no score by more
than 0.005 (docs/search.md has the figures and the alternatives).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

_STEPS = 255
_CLASS_LOW, _CLASS_HIGH = -10.0, 6.0
_CLASS_SCALE = _STEPS / (_CLASS_HIGH - _CLASS_LOW)
_PROBABILITIES = (1 / (1 + np.exp(-_CLASS_LOW - np.arange(256, dtype=np.float32) / _CLASS_SCALE))).astype(np.float32)
_PROBABILITIES[0] = 0
_SHAPE, _RANGE = np.dtype("<u4"), np.dtype("<f4")


def pack_tokens(tokens: np.ndarray) -> bytes:
    """Pack tokens, float32 ``(L, D)``."""
    low, step = _low_and_step(tokens)  # (L,), (L,)
    levels = _levels(tokens, low, step)  # (L, D)
    return np.array(tokens.shape, _SHAPE).tobytes() + zlib.compress(low.tobytes() + step.tobytes() + levels.T.tobytes())


def unpack_tokens(packed: bytes) -> np.ndarray:
    """Unpack the result of :func:`pack_tokens` to float32 ``(L, D)``.

    Raises:
        ValueError: the bytes are damaged.
    """
    places, width = (int(side) for side in np.frombuffer(packed, _SHAPE, 2))
    try:
        content = zlib.decompress(packed[2 * _SHAPE.itemsize :])
    except zlib.error as error:
        raise ValueError(str(error)) from None
    low, step = np.frombuffer(content, _RANGE, 2 * places).reshape(2, places, 1)
    levels = np.frombuffer(content, np.uint8, offset=low.nbytes + step.nbytes).reshape(width, places)
    return levels.T * step + low  # (L, D)


def pack_logits(logits: np.ndarray) -> bytes:
    """Pack logits, float32 ``(V,)``, to a fixed number of bytes."""
    low, step = _low_and_step(logits[None])  # (1,), (1,)
    return low.tobytes() + step.tobytes() + _levels(logits[None], low, step).tobytes()


def unpack_logits(packed: Sequence[bytes], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack results of :func:`pack_logits` to levels uint8 ``(N, V)``, and steps and lows float32 ``(N,)``.

    A logit is ``level * step + low``.

    Raises:
        ValueError: the bytes are damaged.
    """
    rows = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), 2 * _RANGE.itemsize + count)
    step, low = unpack_ranges([np.ascontiguousarray(rows[:, : 2 * _RANGE.itemsize]).tobytes()])
    return rows[:, 2 * _RANGE.itemsize :], step, low


def unpack_ranges(packed: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and lows, float32 ``(N,)``, from the first 8 bytes of N results of :func:`pack_logits`.

    Raises:
        ValueError: the bytes are damaged.
    """
    low, step = np.array(np.frombuffer(b"".join(packed), _RANGE).reshape(-1, 2).T)  # (N,), (N,)
    return step, low


def pack_classes(probabilities: np.ndarray | None) -> bytes:
    """Pack class probabilities, float32 ``(C,)``, to C bytes; None (no class evidence) to none.

    They are stored as log-odds from -10 to 6 in steps of 16/255; 0 means a probability of 0.
    """
    if probabilities is None:
        return b""
    p = np.clip(probabilities, 1e-6, 1 - 1e-6)
    log_odds = np.log(p / (1 - p))
    return np.clip(np.rint((log_odds - _CLASS_LOW) * _CLASS_SCALE), 0, _STEPS).astype(np.uint8).tobytes()


def unpack_classes(packed: np.ndarray) -> np.ndarray:
    """Unpack bytes of :func:`pack_classes`, uint8 of any shape, to probabilities, float32."""
    return _PROBABILITIES[packed]


def is_saturated(packed: np.ndarray) -> np.ndarray:
    """Return which photos have a class beyond the range of the stored log-odds, bool ``(N,)``.

    Args:
        packed: bytes of :func:`pack_classes`, uint8 ``(N, C)``.
    """
    saturated: np.ndarray = (packed == _STEPS).any(axis=1)
    return saturated


def _low_and_step(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum of each row of ``(n, m)``, and the size of a level, never 0, each ``(n,)``."""
    low = rows.min(axis=1).astype(_RANGE)
    step = ((rows.max(axis=1) - low) / _STEPS).astype(_RANGE)
    return low, np.where(step > 0, step, np.float32(1))


def _levels(rows: np.ndarray, low: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((rows - low[:, None]) / step[:, None]), 0, _STEPS).astype(np.uint8)

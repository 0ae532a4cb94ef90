"""Find groups of photos that are nearly the same, by the cosine of their pooled tokens.

Not every pair is compared. Each of several passes sorts the photos by a hash, the signs of random projections, in which
near-duplicates agree in most bits and so come to lie close together, and compares each photo with its neighbours.
"""

from __future__ import annotations

import numpy as np

#: Cosine from which two photos are near-duplicates. Of 6,162 real photos 29 pairs reach it, about 25 of them one
#: picture that was cut, coloured or saved differently; of the next 12 pairs, one was (docs/search.md).
SIMILAR = 0.98
PASSES, BITS = 16, 24
BLOCK, STEP = 64, 48  # neighbours compared at a time, and how far the next ones begin

_PHOTOS_AT_ONCE = 4096  # that are float32 at a time, to bound memory


class _Rows:
    """Pooled tokens of N photos, 8 bits a value; of length 1 when they are taken out."""

    def __init__(self, levels: np.ndarray, step: np.ndarray, low: np.ndarray):
        self._levels, self._step, self._low = levels, step, low

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def width(self) -> int:
        """Return the number of values of a photo."""
        return int(self._levels.shape[1])

    def take(self, photos: np.ndarray | slice) -> np.ndarray:
        """Return float32 ``(m, width)`` of some photos."""
        rows = self._levels[photos] * self._step[photos, None] + self._low[photos, None]
        unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return unit


def near_duplicates(pooled: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, float]]:
    """Return groups of at least two photos, ascending numbers, each with the lowest cosine that joined it.

    Args:
        pooled: as :meth:`Store.pooled` returns them: levels uint8 ``(N, F)``, steps and lows ``(N,)``.
    """
    rows = _Rows(*pooled)
    pairs: dict[tuple[int, int], float] = {}
    random = np.random.default_rng(0)
    mean = rows.take(slice(0, _PHOTOS_AT_ONCE)).mean(axis=0) if len(rows) else np.zeros(0)
    for _ in range(PASSES):
        planes = random.standard_normal((rows.width, BITS)).astype(np.float32)
        order = np.argsort(_hashes(rows, planes, mean), kind="stable")
        for start in range(0, max(1, len(order) - BLOCK + STEP), STEP):
            _compare(rows, order[start : start + BLOCK], pairs)
    return _joined(pairs)


def _hashes(rows: _Rows, planes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return int64 ``(N,)``: on which sides of the planes each photo lies, seen from the mean."""
    bits = 1 << np.arange(BITS)
    parts = [
        ((rows.take(slice(at, at + _PHOTOS_AT_ONCE)) - mean) @ planes > 0) @ bits  # (m, BITS) -> (m,)
        for at in range(0, len(rows), _PHOTOS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _compare(rows: _Rows, photos: np.ndarray, pairs: dict[tuple[int, int], float]) -> None:
    """Add the pairs of some photos that are near-duplicates."""
    unit = rows.take(photos)
    cosines = unit @ unit.T  # (m, m)
    for one, other in np.argwhere(np.triu(cosines >= SIMILAR, 1)):
        first, second = sorted((int(photos[one]), int(photos[other])))
        pairs[first, second] = float(cosines[one, other])


def _joined(pairs: dict[tuple[int, int], float]) -> list[tuple[np.ndarray, float]]:
    """Return the groups that pairs form, best pairs first, so that a group's cosine is the lowest one it needed."""
    group_of: dict[int, list[int]] = {}
    lowest: dict[int, float] = {}  # by the identity of a group
    for (one, other), cosine in sorted(pairs.items(), key=lambda item: -item[1]):
        a, b = group_of.setdefault(one, [one]), group_of.setdefault(other, [other])
        if a is b:
            continue
        a.extend(b)
        lowest[id(a)] = cosine
        for photo in b:
            group_of[photo] = a
    groups = {id(group): group for group in group_of.values()}
    return [(np.array(sorted(group)), lowest[key]) for key, group in groups.items()]

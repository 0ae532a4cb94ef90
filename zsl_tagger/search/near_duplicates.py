"""Find groups of photos that are nearly the same, by the cosine of their pooled tokens.

Not every pair is compared. Each of several passes sorts the photos by a hash, the signs of random projections, and
compares each photo with its neighbours: near-duplicates agree in most bits, so they are close together in the order.
"""

from __future__ import annotations

import numpy as np

#: Minimum cosine of near-duplicates. 29 pairs of 6,162 real photos reach it; about 25 of them are the same picture with
#: another crop, colour or compression. Of the next 12 pairs, one is (docs/search.md).
SIMILAR = 0.98
PASSES, BITS = 16, 24
BLOCK, STEP = 64, 48  # number of neighbours compared with each other, and distance to the next block

_PHOTOS_AT_ONCE = 4096  # photos converted to float32 at a time, to limit memory
_PAIRS_AT_ONCE = 1 << 20  # pairs collected before they are merged
_PAIRS_PER_SEARCH = 1024  # pairs searched at a time for one that joins two groups


class _Rows:
    """Pooled tokens of N photos in 8 bits per value, returned with length 1."""

    def __init__(self, levels: np.ndarray, step: np.ndarray, low: np.ndarray):
        self._levels, self._step, self._low = levels, step, low

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def width(self) -> int:
        """Return the number of values per photo."""
        return int(self._levels.shape[1])

    def take(self, photos: np.ndarray | slice) -> np.ndarray:
        """Return the values of photos, float32 ``(m, width)``."""
        rows = self._levels[photos] * self._step[photos, None] + self._low[photos, None]
        unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return unit


def near_duplicates(pooled: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, float]]:
    """Return groups of at least two photos, in ascending order, each with the lowest cosine that joined it.

    Args:
        pooled: result of :meth:`Store.pooled`: levels uint8 ``(N, F)``, steps and lows ``(N,)``.
    """
    rows = _Rows(*pooled)
    pairs = _Pairs(len(rows))
    random = np.random.default_rng(0)
    mean = rows.take(slice(0, _PHOTOS_AT_ONCE)).mean(axis=0) if len(rows) else np.zeros(0)
    for _ in range(PASSES):
        planes = random.standard_normal((rows.width, BITS)).astype(np.float32)
        order = np.argsort(_hashes(rows, planes, mean), kind="stable")
        for start in range(0, max(1, len(order) - BLOCK + STEP), STEP):
            pairs.add(*_similar(rows, order[start : start + BLOCK]))
    return _joined(*pairs.best_first())


class _Pairs:
    """Distinct pairs of N photos with their cosines."""

    def __init__(self, count: int):
        self._count = count
        self._codes, self._cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, first: np.ndarray, second: np.ndarray, cosines: np.ndarray) -> None:
        """Add pairs ``(n,)`` of photos; the cosine of an existing pair is replaced."""
        self._new.append((np.minimum(first, second) * self._count + np.maximum(first, second), cosines))
        self._waiting += len(first)
        if self._waiting > max(_PAIRS_AT_ONCE, len(self._codes)):
            self._merge()

    def _merge(self) -> None:
        codes, cosines = (np.concatenate(parts) for parts in zip((self._codes, self._cosines), *self._new, strict=True))
        order = np.argsort(codes, kind="stable")  # the newest cosine of a pair comes last
        last = np.flatnonzero(np.diff(codes[order], append=-1))
        self._codes, self._cosines = codes[order][last], cosines[order][last]
        self._new, self._waiting = [], 0

    def best_first(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return first photos, second photos (int64) and cosines of all pairs, ``(n,)`` each, by falling cosine."""
        self._merge()
        order = np.argsort(-self._cosines, kind="stable")
        first, second = np.divmod(self._codes[order], max(1, self._count))
        return first, second, self._cosines[order]


def _hashes(rows: _Rows, planes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return a hash per photo, int64 ``(N,)``: on which sides of planes through the mean it is."""
    bits = 1 << np.arange(BITS)
    parts = [
        ((rows.take(slice(at, at + _PHOTOS_AT_ONCE)) - mean) @ planes > 0) @ bits  # (m, BITS) -> (m,)
        for at in range(0, len(rows), _PHOTOS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _similar(rows: _Rows, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of near-duplicates among some photos, and their cosines."""
    unit = rows.take(photos)
    cosines = unit @ unit.T  # (m, m)
    one, other = np.nonzero(cosines >= SIMILAR)
    once = one < other
    one, other = one[once], other[once]
    return photos[one], photos[other], cosines[one, other]


def _joined(first: np.ndarray, second: np.ndarray, cosines: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Return the groups that pairs ``(n,)`` form, each with its lowest cosine; the best pairs must come first."""
    photos = np.flatnonzero(np.bincount(np.concatenate([first, second])))
    one, other = np.searchsorted(photos, first), np.searchsorted(photos, second)
    group = np.arange(len(photos))  # of each photo
    members: dict[int, list[int]] = {number: [number] for number in range(len(photos))}
    lowest: dict[int, float] = {}
    at = 0
    while at < len(one):
        some = slice(at, at + _PAIRS_PER_SEARCH)
        apart = np.flatnonzero(group[one[some]] != group[other[some]])
        if not len(apart):  # typical in a large group
            at = some.stop
            continue
        at += int(apart[0])
        into, out = int(group[one[at]]), int(group[other[at]])
        if len(members[into]) < len(members[out]):
            into, out = out, into
        group[members[out]] = into
        members[into] += members.pop(out)
        lowest[into] = float(cosines[at])
        lowest.pop(out, None)
        at += 1
    return [
        (np.sort(photos[members[number]]), lowest[number]) for number in sorted(lowest, key=lambda n: min(members[n]))
    ]

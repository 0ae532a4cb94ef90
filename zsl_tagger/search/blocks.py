"""Read the stored scores of many photos by label, without loading all of them into memory.

Scores are first written as one row per content (table ``scores``), so that each photo is one small transaction. As soon
as there are ``PHOTOS_PER_BLOCK`` such rows, they are turned into a block, whose rows hold ``COLUMNS_PER_ROW`` columns
each. A column is a label of the vocabulary or, after those, a class of the backbone. One label is 128 KB to read per
block, and computations over all labels read one block after another.

A *part* is a block, or up to ``PHOTOS_PER_BLOCK`` rows that are not in a block yet. An index from an earlier version
has rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from zsl_tagger.search.packing import unpack_logits

PHOTOS_PER_BLOCK = 4096
COLUMNS_PER_ROW = 32

Row = tuple[int, bytes, bytes]  # of the table scores: content, packed logits, packed classes


@dataclass(frozen=True)
class Part:
    """Contents whose scores are stored together.

    Attributes:
        block: number of the block; None for rows.
        contents: int64 ``(n,)``, ascending; -1 in a block for removed contents.
        step, low: float32 ``(n,)``: a logit is ``level * step + low``.
    """

    block: int | None
    contents: np.ndarray
    step: np.ndarray
    low: np.ndarray


class Source(Protocol):
    """The methods of a store that are used here."""

    def parts(self) -> list[Part]: ...
    def photos_by_content(self) -> tuple[np.ndarray, np.ndarray]: ...
    def block_rows(self, block: int, first: int, last: int) -> Iterable[bytes]: ...
    def loose_rows(self, first: int, last: int) -> list[Row]: ...
    def damaged(self, error: Exception) -> Exception: ...


class StoredScores:
    """The scores of the N contents that have a photo, ordered by content id.

    Args:
        labels: number of labels of the vocabulary, V.

    Attributes:
        contents: int64 ``(N,)``, ascending.
        copies: number of photos with each content, int64 ``(N,)``.
        step, low: float32 ``(N,)``: a logit is ``level * step + low``.
        parts: positions of the photos of each part, in 0..N - 1, int64 ``(m,)``.
    """

    def __init__(self, source: Source, labels: int):
        self.labels, self._source, self._parts = labels, source, source.parts()
        shown, copies = source.photos_by_content()
        contents = _joined([part.contents for part in self._parts], np.int64)
        kept = _positions(contents, shown)
        self.contents = contents[kept]
        self.copies = copies if len(kept) == len(shown) else copies[np.searchsorted(shown, self.contents)]
        self.step = _joined([part.step for part in self._parts], np.float32)[kept]
        self.low = _joined([part.low for part in self._parts], np.float32)[kept]
        sizes = [len(part.contents) for part in self._parts]
        self._part_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[kept]  # (N,)
        self._row_of = _joined([np.arange(size, dtype=np.int32) for size in sizes], np.int32)[kept]  # (N,)
        ends = np.cumsum(np.bincount(self._part_of, minlength=len(sizes)))
        self.parts = np.split(np.argsort(self._part_of, kind="stable"), ends[:-1]) if sizes else []

    def columns(self, numbers: Sequence[int] | np.ndarray, photos: np.ndarray) -> np.ndarray:
        """Return the levels of columns of photos, uint8 ``(n, m)``.

        Args:
            numbers: columns ``(n,)``: labels are 0..V - 1, classes from V on.
            photos: positions ``(m,)``.
        """
        wanted, parts = np.asarray(numbers, np.int64), self._part_of[photos]
        levels = np.empty((len(wanted), len(photos)), np.uint8)
        touched = np.flatnonzero(np.bincount(parts))  # np.unique loads numpy.ma, 15 ms
        for number in touched:
            here = np.flatnonzero(parts == number)
            for places, values in self._read(int(number), wanted, photos[here]):
                levels[places if len(touched) == 1 else np.ix_(places, here)] = values
        return levels

    def tiles(self, part: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the levels of all labels for the m photos of a part, as a slice of g labels and uint8 ``(g, m)``."""
        for places, values in self._read(part, np.arange(self.labels), self.parts[part]):
            yield slice(int(places[0]), int(places[-1]) + 1), values

    def _read(self, part: int, numbers: np.ndarray, photos: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in ``numbers``, and the levels uint8 ``(g, m)`` of these columns of photos of one part."""
        if not len(photos) or not len(numbers):
            return
        try:
            rows = self._row_of[photos]
            whole = np.array_equal(rows, np.arange(len(self._parts[part].contents)))
            for places, values in self._columns_of(self._parts[part], numbers):
                yield places, values if whole else values[:, rows]
        except (ValueError, IndexError) as error:
            raise self._source.damaged(error) from None

    def _columns_of(self, part: Part, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in ``numbers``, and the levels uint8 ``(g, n)`` of these columns of a whole part."""
        if part.block is None:
            rows = self._source.loose_rows(int(part.contents[0]), int(part.contents[-1]))
            yield np.arange(len(numbers)), columns_of(rows, self.labels, numbers)
            return
        counts = np.bincount(numbers // COLUMNS_PER_ROW)
        groups = np.flatnonzero(counts)
        order = np.argsort(numbers // COLUMNS_PER_ROW, kind="stable")
        ends = np.append(0, np.cumsum(counts[groups]))
        starts = np.flatnonzero(np.diff(groups, prepend=-2) > 1)  # of runs of consecutive groups
        stored = chain.from_iterable(
            self._source.block_rows(part.block, int(groups[start]), int(groups[end - 1]))
            for start, end in zip(starts, np.append(starts[1:], len(groups)), strict=True)
        )
        for at, row in zip(range(len(groups)), stored, strict=True):
            places = order[ends[at] : ends[at + 1]]
            values = np.frombuffer(row, np.uint8).reshape(-1, len(part.contents))  # (COLUMNS_PER_ROW or less, n)
            of_row = numbers[places] % COLUMNS_PER_ROW
            yield places, values if np.array_equal(of_row, np.arange(len(values))) else values[of_row]


def columns_of(rows: Sequence[Row], labels: int, numbers: np.ndarray) -> np.ndarray:
    """Return columns, uint8 ``(g, n)``, of n rows of the table scores.

    Args:
        labels: number of labels of the vocabulary, V.
        numbers: numbers of the columns, int64 ``(g,)``.

    Raises:
        ValueError: the rows are damaged.
        IndexError: they have fewer columns.
    """
    _, logits, classes = zip(*rows, strict=True)
    columns = np.empty((len(numbers), len(rows)), np.uint8)
    of_labels = np.flatnonzero(numbers < labels)
    if len(of_labels):
        columns[of_labels] = unpack_logits(logits, labels)[0][:, numbers[of_labels]].T
    of_classes = np.flatnonzero(numbers >= labels)
    if len(of_classes):
        packed = np.frombuffer(b"".join(classes), np.uint8).reshape(len(rows), len(classes[0]))  # (n, C)
        columns[of_classes] = packed[:, numbers[of_classes] - labels].T
    return columns


def rows_of(columns: np.ndarray) -> Iterator[bytes]:
    """Yield the rows of a block, ``COLUMNS_PER_ROW`` columns each, from columns uint8 ``(V + C, n)``."""
    for start in range(0, len(columns), COLUMNS_PER_ROW):
        yield columns[start : start + COLUMNS_PER_ROW].tobytes()


def _positions(contents: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the positions in ``contents`` of those that are shown, in ascending order of the contents."""
    if np.array_equal(contents, shown):  # nearly always
        return np.arange(len(contents))
    kept = np.flatnonzero(np.isin(contents, shown))
    return kept[np.argsort(contents[kept], kind="stable")]


def _joined(arrays: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *arrays])

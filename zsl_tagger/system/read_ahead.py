"""Read an iterable in a thread ahead of its consumer, so that the number of items is known early."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Maximum number of items read ahead, e.g. about 20 MB of paths.
MOST_WAITING = 100_000
_SECONDS = 0.2  # between checks whether the items are still wanted


class ReadAhead(Generic[Item]):
    """Read the items of an iterable in a thread and yield them in order.

    An exception of the iterable is raised in place of its next item. On leaving the ``with`` block the thread stops
    soon, but is not joined, since the folder it reads may be on a disk that does not respond.

    Args:
        items: iterated over once, in the thread.
        most: maximum number of items read ahead.

    Attributes:
        total: number of items; None until the last one has been read.
    """

    def __init__(self, items: Iterable[Item], most: int = MOST_WAITING):
        self.total: int | None = None
        self._items = items
        self._waiting: Queue[Item | _End] = Queue(most)
        self._closed = threading.Event()

    def __enter__(self) -> Iterator[Item]:
        threading.Thread(target=self._read, daemon=True).start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _read(self) -> None:
        count = 0
        error: BaseException | None = None
        try:
            for item in self._items:
                count += 1
                if not self._put(item):
                    return
            self.total = count
        except BaseException as raised:
            error = raised
        self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        """Queue an item; return False if the ``with`` block ended first."""
        while not self._closed.is_set():
            try:
                self._waiting.put(item, timeout=_SECONDS)
                return True
            except Full:
                continue
        return False

    def _taken(self) -> Iterator[Item]:
        while not isinstance(item := self._waiting.get(), _End):
            yield item
        item.finish()


class _End:
    """Marker for the end of the items, normal or by an exception."""

    def __init__(self, error: BaseException | None):
        self._error = error

    def finish(self) -> None:
        if self._error is not None:
            raise self._error

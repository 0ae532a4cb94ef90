"""Iterate in a thread ahead of whoever uses the items, so that their number is known early."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Items that may wait to be used, e.g. some 20 MB of paths.
MOST_WAITING = 100_000
_SECONDS = 0.2  # between two looks whether anybody still wants the items


class ReadAhead(Generic[Item]):
    """Read the items of an iterable in a thread, and yield them in order.

    An error of the iterable is raised where its next item would have come. On leaving the ``with``, the thread stops
    soon; nobody waits for it, since the folder that it reads may be on a disk that does not answer.

    Args:
        items: iterated over in the thread, once.
        most: how many items may wait; then the thread waits.

    Attributes:
        total: how many items there are; None until the last one was read.
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
        """Return whether there was room before the end of the ``with``."""
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
    """Mark the end of the items, in order or by an error."""

    def __init__(self, error: BaseException | None):
        self._error = error

    def finish(self) -> None:
        if self._error is not None:
            raise self._error

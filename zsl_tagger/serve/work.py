"""The queue: jobs on worker threads, first come first served, and a clear no where too many wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


class QueueFullError(Exception):
    """There is no room now; later there will be."""


class LateError(Exception):
    """It was not done in time."""


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class WorkQueue:
    """Runs jobs on threads.

    Args:
        workers: jobs in work at a time.
        waiting: jobs that may wait for a worker.
    """

    def __init__(self, workers: int, waiting: int):
        self.workers, self._room = workers, workers + waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tagging")
        self._lock = threading.Lock()
        self._held = 0  # waiting and in work

    @property
    def waiting(self) -> int:
        return max(0, self._held - self.workers)

    def check_room(self, jobs: int = 1) -> None:
        """Raise QueueFullError where so many jobs find no place; an idle queue takes any number."""
        if self._held and self._held + jobs > self._room:
            raise QueueFullError

    async def run(
        self, jobs: Sequence[Callable[[], Result]], gone: Callable[[], Coroutine[Any, Any, None]], seconds: float
    ) -> list[Result]:
        """The results of some jobs, in their order; or the first error, and those not begun are dropped.

        Args:
            gone: returns when nobody waits for the results any more.

        Raises:
            QueueFullError: nothing was begun.
            ClientGoneError, LateError: what was not begun yet never will be.
        """
        self.check_room(len(jobs))
        results = asyncio.gather(*[asyncio.wrap_future(self._submit(job)) for job in jobs])
        watcher = asyncio.ensure_future(gone())
        try:
            either: set[asyncio.Future[Any]] = {results, watcher}
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results in done:
                return results.result()
            raise ClientGoneError if watcher in done else LateError
        finally:
            watcher.cancel()
            results.cancel()  # and so the jobs

    def _submit(self, job: Callable[[], Result]) -> Future[Result]:
        with self._lock:
            self._held += 1
        future = self._pool.submit(job)
        future.add_done_callback(self._let_go)
        return future

    def _let_go(self, _: Future[Result]) -> None:
        with self._lock:
            self._held -= 1


class Budget:
    """An amount that is lent and given back, such as bytes of memory. For one thread."""

    def __init__(self, total: int):
        self.total = self.free = total

    @contextmanager
    def loan(self) -> Iterator[Callable[[int], None]]:
        """A function that takes so much more, or raises Full; all is given back at the end."""
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            if amount > self.free:
                raise QueueFullError
            self.free -= amount
            taken += amount

        try:
            yield take
        finally:
            self.free += taken

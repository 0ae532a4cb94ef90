"""The queue: jobs on worker threads, first come first served, and a clear no where too many wait.

A thread cannot be stopped. One that is late is given up: another takes its place, and it ends after its job, if ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
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
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0  # waiting and in work
        self._given_up = 0  # threads that are in work all the same
        self._in_work: dict[Future[Any], _Worker] = {}
        for _ in range(workers):
            _Worker(self).start()

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
        """Return the results of jobs in their order; raise the first error, and drop the jobs that have not begun.

        Args:
            gone: returns when nobody waits for the results any more.

        Raises:
            QueueFullError: nothing was begun.
            ClientGoneError, LateError: what was not begun yet never will be.
        """
        self.check_room(len(jobs))
        futures = [self._submit(job) for job in jobs]
        results = asyncio.gather(*map(asyncio.wrap_future, futures))
        results.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio complains
        watcher = asyncio.ensure_future(gone())
        try:
            either: set[asyncio.Future[Any]] = {results, watcher}
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results in done:
                return results.result()
            self._give_up(futures, seconds)
            raise ClientGoneError if watcher in done else LateError
        finally:
            watcher.cancel()
            results.cancel()  # and so the jobs

    def _submit(self, job: Callable[[], Result]) -> Future[Result]:
        with self._lock:
            self._held += 1
        future: Future[Result] = Future()
        future.add_done_callback(self._let_go)
        self._jobs.put((job, future))
        return future

    def _let_go(self, _: Future[Result]) -> None:
        with self._lock:
            self._held -= 1

    def _give_up(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        """Replace the workers that have had one of these jobs in work for so long, or when they will have.

        At a time as many are given up as there are workers: they still take memory and processor time.
        """
        for future in futures:
            with self._lock:
                worker = self._in_work.get(future)
                if worker is None or worker.given_up or self._given_up >= self.workers:
                    continue
                left = worker.began + seconds - time.monotonic()
                if left > 0:
                    asyncio.get_running_loop().call_later(left, self._give_up, [future], seconds)
                    continue
                worker.given_up = True
                self._given_up += 1
                self._held -= 1
            _Worker(self).start()


class _Worker(threading.Thread):
    """Does jobs until it is given up. A daemon, so that the process ends whatever it is doing."""

    def __init__(self, queue: WorkQueue):
        super().__init__(name="tagging", daemon=True)
        self._queue, self.given_up, self.began = queue, False, 0.0

    def run(self) -> None:
        while not self.given_up:
            job, future = self._queue._jobs.get()
            if future.set_running_or_notify_cancel():
                self._do(job, future)

    def _do(self, job: Callable[[], Any], future: Future[Any]) -> None:
        queue = self._queue
        self.began = time.monotonic()
        queue._in_work[future] = self
        try:
            result, error = job(), None
        except BaseException as raised:  # of the request, which raises it
            result, error = None, raised
        with queue._lock:
            del queue._in_work[future]
            if self.given_up:
                queue._given_up -= 1
                queue._held += 1  # the callback of the future takes it away again
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Budget:
    """An amount that is lent and given back, such as bytes of memory. For one thread."""

    def __init__(self, total: int):
        self.total = self.free = total

    @contextmanager
    def loan(self) -> Iterator[Callable[[int], None]]:
        """Return a function that takes more room, or raises Full; all is given back at the end."""
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

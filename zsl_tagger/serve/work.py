"""Run jobs on worker threads, first come, first served, and refuse jobs if too many are waiting.

A thread cannot be stopped. One that exceeds its time limit is abandoned: a new thread replaces it, and it ends after
its job, if ever.
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
    """There is no room at present."""


class LateError(Exception):
    """The jobs were not completed in time."""


class ClientGoneError(Exception):
    """The client has disconnected."""


class WorkQueue:
    """Run jobs on threads.

    Args:
        workers: number of jobs that run in parallel.
        waiting: maximum number of jobs that wait for a worker.
    """

    def __init__(self, workers: int, waiting: int):
        self.workers, self._room = workers, workers + waiting
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0  # waiting and running
        self._abandoned = 0  # number of abandoned threads that are still running
        self._running: dict[Future[Any], _Worker] = {}
        for _ in range(workers):
            _Worker(self).start()

    @property
    def waiting(self) -> int:
        return max(0, self._unfinished - self.workers)

    def check_room(self, jobs: int = 1) -> None:
        """Check that there is room for a number of jobs; an idle queue accepts any number.

        Raises:
            QueueFullError: there is not.
        """
        if self._unfinished and self._unfinished + jobs > self._room:
            raise QueueFullError

    async def run(
        self, jobs: Sequence[Callable[[], Result]], gone: Callable[[], Coroutine[Any, Any, None]], seconds: float
    ) -> list[Result]:
        """Return the results of jobs in order. After the first error, which is raised, no more jobs are started.

        Args:
            gone: returns when the client has disconnected.
            seconds: time limit.

        Raises:
            QueueFullError: there is no room; no job was started.
            ClientGoneError, LateError: no more jobs are started.
        """
        self.check_room(len(jobs))
        futures = [self._submit(job) for job in jobs]
        results = asyncio.gather(*map(asyncio.wrap_future, futures))
        results.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio logs a warning
        watcher = asyncio.ensure_future(gone())
        try:
            either: set[asyncio.Future[Any]] = {results, watcher}
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results in done:
                return results.result()
            self._abandon(futures, seconds)
            raise ClientGoneError if watcher in done else LateError
        finally:
            watcher.cancel()
            results.cancel()  # cancels the jobs

    def _submit(self, job: Callable[[], Result]) -> Future[Result]:
        with self._lock:
            self._unfinished += 1
        future: Future[Result] = Future()
        future.add_done_callback(self._release)
        self._jobs.put((job, future))
        return future

    def _release(self, _: Future[Result]) -> None:
        with self._lock:
            self._unfinished -= 1

    def _abandon(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        """Replace the workers that have run one of these jobs for ``seconds``, now or when they reach that time.

        There are at most as many abandoned threads as workers, because they still use memory and processor time.
        """
        for future in futures:
            with self._lock:
                worker = self._running.get(future)
                if worker is None or worker.abandoned or self._abandoned >= self.workers:
                    continue
                left = worker.started + seconds - time.monotonic()
                if left > 0:
                    asyncio.get_running_loop().call_later(left, self._abandon, [future], seconds)
                    continue
                worker.abandoned = True
                self._abandoned += 1
                self._unfinished -= 1
            _Worker(self).start()


class _Worker(threading.Thread):
    """Run jobs until abandoned. A daemon thread, so that it does not keep the process from ending."""

    def __init__(self, queue: WorkQueue):
        super().__init__(name="tagging", daemon=True)
        self._queue, self.abandoned, self.started = queue, False, 0.0

    def run(self) -> None:
        while not self.abandoned:
            job, future = self._queue._jobs.get()
            if future.set_running_or_notify_cancel():
                self._do(job, future)

    def _do(self, job: Callable[[], Any], future: Future[Any]) -> None:
        queue = self._queue
        self.started = time.monotonic()
        queue._running[future] = self
        try:
            result, error = job(), None
        except BaseException as raised:  # the request raises it
            result, error = None, raised
        with queue._lock:
            del queue._running[future]
            if self.abandoned:
                queue._abandoned -= 1
                queue._unfinished += 1  # the callback of the future subtracts it again
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Budget:
    """Lend and take back an amount, such as bytes of memory. Not thread-safe."""

    def __init__(self, total: int):
        self.total = self.free = total

    @contextmanager
    def loan(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes an amount or raises QueueFullError; all is returned at the end."""
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

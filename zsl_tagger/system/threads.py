"""Work on threads: how many, and in order. Decoding, resizing and networks let go of Python's lock, so threads help."""

from __future__ import annotations

import ctypes
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from zsl_tagger.system.cgroups import cpu_quota

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items a worker may be ahead of the one whose result is due


#: Default workers, at most. Each holds a photo or two in memory; with more cores, each worker's network has several.
MOST_WORKERS = 16


def available_cores() -> int:
    """Return how many processor cores this process may use, by its affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def default_workers() -> int:
    """Return how many images are in work at a time where the user does not say: one a core, within a bound."""
    return min(available_cores(), MOST_WORKERS)


def keep_freed_memory() -> None:
    """Let this process keep what it frees (glibc only): networks on a processor free and ask for the same at each step.

    Measured on two cores: features of EfficientNet-Lite0 at 94 instead of 50 photos/s.
    """
    _mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most it takes
    _mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_large_memory_back() -> None:
    """Let the system have what this process frees in large pieces (glibc only, which else keeps them for good).

    Measured on a server: 680 MB after photos of 49 million pixels on two threads, 290 MB with this.
    """
    _mallopt(_M_MMAP_THRESHOLD, 1 << 23)  # Pillow takes 16 MB at a time


def _mallopt(parameter: int, value: int) -> None:
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """``map`` on threads, with a bounded number of items in work; results in order."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers * AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

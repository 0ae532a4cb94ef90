"""Map work over threads in order. Decoding, resizing and networks release the GIL, so threads help."""

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

AHEAD = 2  # items per worker that may be in progress ahead of the next result


#: Maximum of the default number of workers. Each holds one or two photos in memory; with more cores, each worker's
#: network uses several.
MOST_WORKERS = 16


def available_cores() -> int:
    """Return the number of CPU cores this process may use, given its affinity and container quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def default_workers() -> int:
    """Return the default number of images processed in parallel: one per core, up to a limit."""
    return min(available_cores(), MOST_WORKERS)


def keep_freed_memory() -> None:
    """Keep freed memory in this process (glibc only): networks on the CPU free and allocate the same memory each step.

    Measured on two cores: features of EfficientNet-Lite0 at 94 instead of 50 photos/s.
    """
    _mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the maximum that glibc accepts
    _mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_large_memory_back() -> None:
    """Return large freed blocks to the system (glibc only, which otherwise keeps them).

    Measured on a server: 680 MB after photos of 49 million pixels on two threads, 290 MB with this.
    """
    _mallopt(_M_MMAP_THRESHOLD, 1 << 23)  # Pillow allocates 16 MB at a time


def _mallopt(parameter: int, value: int) -> None:
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Map ``work`` over items on threads and yield the results in order; the number of items in progress is bounded."""
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

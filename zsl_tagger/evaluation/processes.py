"""Score images in one or several processes, with identical results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from zsl_tagger.choices import Device
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.system.threads import default_workers, map_in_order
from zsl_tagger.tagging.tagger import Tagger

IMAGES_PER_TASK = 8
TASKS_AHEAD = 2  # per process

ImageResult = np.ndarray | str  # logits float32 (K,), or why the image cannot be read


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, processes and workers that compute scores. Scores do not depend on it, except for rounding on a GPU.

    Attributes:
        workers: images processed in parallel, in all processes together; None: one per core, at most 16.
        processes: number of processes to split the images across.
        device: device of the networks (:data:`zsl_tagger.tagging.devices.DEVICES`).
    """

    workers: int | None = None
    processes: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UserError(f"expected --processes of at least 1, got {self.processes}")

    @property
    def images_at_once(self) -> int:
        return self.workers or default_workers()

    def tagger(self, folder: Path) -> Tagger:
        """Open a model with the same number of threads per image, regardless of the number of processes."""
        return Tagger(folder, self.images_at_once, self.device, taught=False)


class Scorer:
    """Scorer of single images for a fixed list of labels."""

    def __init__(self, tagger: Tagger, labels: Sequence[str]):
        self.tagger, self.labels = tagger, tagger.label_set(labels)

    def __call__(self, path: str) -> ImageResult:
        try:
            return self.tagger.log_odds(self.tagger.encode(path), self.labels)[0]
        except ImageError as error:
            return str(error)


def score_images(scorer: Scorer, paths: Sequence[str], compute: Compute) -> Generator[ImageResult, None, None]:
    """Yield the result of each image, in order.

    Raises:
        UserError: a process died.
    """
    if compute.processes == 1:
        yield from map_in_order(scorer, paths, compute.images_at_once)
        return
    threads = -(-compute.images_at_once // compute.processes)
    pool = ProcessPoolExecutor(
        compute.processes,
        multiprocessing.get_context("spawn"),  # a fork would share the locks of ONNX Runtime's threads
        _start,
        (scorer.tagger.folder.path, scorer.labels.labels, compute),
    )
    pending: deque[Future[list[ImageResult]]] = deque()
    waiting = iter(paths)
    tasks: Iterator[list[str]] = iter(lambda: list(islice(waiting, IMAGES_PER_TASK)), [])
    try:
        for task in tasks:
            pending.append(pool.submit(_score_task, task, threads))
            if len(pending) >= TASKS_AHEAD * compute.processes:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process that scores images has died, perhaps for lack of memory: give fewer --processes or --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_scorer: Scorer | None = None  # in a process of the pool


def _start(folder: Path, labels: Sequence[str], compute: Compute) -> None:
    """Initialise a process of the pool. It ends with its parent, which alone handles Ctrl-C."""
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scorer = Scorer(compute.tagger(folder), labels)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score_task(paths: list[str], threads: int) -> list[ImageResult]:
    assert _scorer is not None
    return list(map_in_order(_scorer, paths, threads))

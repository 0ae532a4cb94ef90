"""Score images in one or several processes, or on Ray, with identical results."""

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
from typing import ClassVar, cast

import numpy as np

from zsl_tagger.choices import Device, Engine
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.system.threads import default_workers, map_in_order
from zsl_tagger.tagging.label_set import LabelSet
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
        engine: "local", or "ray": on ``workers`` processes of Ray; None: one per core of its cluster.

    Raises:
        UserError: the values do not fit together, or Ray is not installed.
    """

    workers: int | None = None
    processes: int = 1
    device: Device = "auto"
    engine: Engine = "local"

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UserError(f"expected --processes of at least 1, got {self.processes}")
        if self.engine == "local":
            return
        if self.processes > 1:
            raise UserError("--processes works on this machine only: leave out --engine ray, or give --workers instead")
        from zsl_tagger.tagging.ray_pool import require_ray

        require_ray(self.device)

    @property
    def images_at_once(self) -> int:
        return self.workers or default_workers()

    def tagger(self, folder: Path) -> Tagger:
        """Open a model with the same number of threads per image, regardless of the number of processes."""
        device = "cpu" if self.engine == "ray" else self.device  # like Ray's workers
        return Tagger(folder, self.images_at_once, device, taught=False)


class Scorer:
    """Scorer of single images for a fixed list of labels."""

    def __init__(self, tagger: Tagger, labels: Sequence[str]):
        self.tagger, self.labels = tagger, tagger.label_set(labels)

    def __call__(self, path: str) -> ImageResult:
        return _score(self.tagger, self.labels, path)


def _score(tagger: Tagger, labels: LabelSet, path: str) -> ImageResult:
    try:
        return tagger.log_odds(tagger.encode(path), labels)[0]
    except ImageError as error:
        return str(error)


@dataclass(frozen=True)
class ScoreTask:
    """Score an image on a worker of Ray (:class:`zsl_tagger.tagging.ray_pool.Task`).

    An error that is not about the image ends the run, as in a run on this machine: figures that silently leave out
    images would be worse.
    """

    doing: ClassVar[str] = "scoring"
    done: ClassVar[str] = "scored"

    labels: LabelSet

    def read(self, item: str) -> str:
        """Return the path unchanged."""
        return item

    def __call__(self, tagger: Tagger, photo: str) -> ImageResult:
        """Return the logits of the labels, or why the image at this path cannot be read."""
        return _score(tagger, self.labels, photo)

    def given_up(self, item: str, message: str) -> str:  # noqa: ARG002
        """Return why the image has no scores."""
        return message


def score_images(scorer: Scorer, paths: Sequence[str], compute: Compute) -> Generator[ImageResult, None, None]:
    """Yield the result of each image, in order.

    Raises:
        UserError: a process died, or Ray or its workers cannot be started.
    """
    if compute.engine == "ray":
        yield from _on_ray(scorer, paths, compute.workers)
        return
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


def _on_ray(scorer: Scorer, paths: Sequence[str], workers: int | None) -> Generator[ImageResult, None, None]:
    from zsl_tagger.tagging.ray_pool import map_on_ray

    absolute = [str(Path(path).absolute()) for path in paths]  # workers run in another folder
    results = map_on_ray(ScoreTask(scorer.labels), absolute, scorer.tagger.folder.path, workers)
    return cast("Generator[ImageResult, None, None]", results)  # without records, since the paths have none


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

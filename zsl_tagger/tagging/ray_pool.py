"""Run a task over many photos on many processes or machines with Ray Data (``--engine ray``).

The photos are split into blocks. A pool of workers, each a process with its own tagger, turns blocks into results,
which are returned in the order of the photos. Ray restarts a worker that died and repeats its block. Which photo was in
hand when a worker died is known to :class:`Ledger`, so that a photo that kills its worker each time ends as an error
instead of keeping the cluster busy for ever.

Ray must not be imported before :func:`session` has set what it reads from the environment then.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError, first_line, require
from zsl_tagger.records.record import Record
from zsl_tagger.system.threads import available_cores, default_workers, map_in_order
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

#: Photos per block: few enough that all workers finish at about the same time, enough to hide Ray's overhead.
FEWEST, MOST, BLOCKS_A_WORKER = 8, 256, 32
#: Number of worker deaths after which a photo is not tried again.
DEATHS = 2
#: Photos that a worker reads in parallel, ahead of its tagger, to hide network latency.
READERS = 4
WAIT = 10  # seconds to wait for a cluster to respond
#: Ray's shared memory on a single machine, in addition to the model and the task.
STORE_BYTES = 100_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemOfTask = TypeVar("ItemOfTask", contravariant=True)
ResultOfTask = TypeVar("ResultOfTask", covariant=True)


class Task(Protocol[ItemOfTask, ResultOfTask]):
    """Turn a photo into a result on a worker. A task is pickled and sent once to each machine.

    Attributes:
        doing, done: its verb in messages, e.g. "tagging" and "tagged".
    """

    doing: ClassVar[str]
    done: ClassVar[str]

    def read(self, item: ItemOfTask) -> Any:
        """Return the input of :meth:`__call__`; called on a thread, ahead of the tagger."""

    def __call__(self, tagger: Tagger, photo: Any) -> ResultOfTask:
        """Return the result of a photo, given what :meth:`read` returned; an exception ends the run."""

    def given_up(self, item: ItemOfTask, message: str) -> ResultOfTask:
        """Return the result of a photo that is not tried again because workers died of it."""


@dataclass(frozen=True)
class Job:
    """Data for every worker, sent once to each machine.

    Attributes:
        model: names and contents of the files of a model folder; None for the packaged model, which is installed.
    """

    model: dict[str, bytes] | None
    task: Task[Any, Any]

    @property
    def nbytes(self) -> int:
        """Return its size in Ray's memory, approximately."""
        arrays: list[pickle.PickleBuffer] = []  # not copied
        pickled = pickle.dumps(self.task, protocol=5, buffer_callback=arrays.append)
        return len(pickled) + sum(array.raw().nbytes for array in arrays) + sum(map(len, (self.model or {}).values()))


def require_ray(device: str = "auto") -> None:
    """Check that Ray can do the work, without importing it.

    Raises:
        UserError: the device is not one of its workers.
        MissingExtraError: a package of the ``ray`` extra is not installed.
    """
    if device == "cuda":
        raise UserError("device cuda works with the local engine only: the workers of Ray use CPUs")
    for module in ("fsspec", "pyarrow", "ray"):
        require(module, "ray")


def map_on_ray(
    task: Task[Item, Result], items: Iterable[Item | Record], folder: Path, workers: int | None
) -> Generator[Result | Record, None, None]:
    """Collect all items first, then yield their results in order.

    Args:
        items: photos; an error record is returned unchanged in its place.
        folder: the model folder.
        workers: number of processes; None: one per core of the cluster.

    Raises:
        UserError: Ray or its workers cannot be started.
    """
    items = list(items)
    photos = [(number, item) for number, item in enumerate(items) if not isinstance(item, Record)]
    due = 0  # index of the item whose result is next
    if photos:
        job = Job(_model_files(folder), task)
        with session(workers or default_workers(), STORE_BYTES + 2 * job.nbytes):
            for number, result in numbered_results(photos, job, workers or _cores()):
                yield from _errors(items[due:number])
                yield result
                due = number + 1
    yield from _errors(items[due:])


def _model_files(folder: Path) -> dict[str, bytes] | None:
    """Return the files of a model folder that a tagger needs; None for the packaged model, which is installed."""
    if folder == PACKAGED:
        return None
    kinds = (".json", ".onnx", ".txt", ".npy", ".npz")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in kinds}


def _errors(items: Sequence[Any]) -> Iterator[Record]:
    return (item for item in items if isinstance(item, Record))


def numbered_results(photos: Sequence[tuple[int, Any]], job: Job, workers: int) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and results of numbered photos, in order; call it in a :func:`session`.

    Raises:
        UserError: the workers cannot be started, or the task failed.
    """
    import ray
    from ray.data import ActorPoolStrategy

    size = min(MOST, max(FEWEST, len(photos) // (workers * BLOCKS_A_WORKER)))
    blocks = [pickle.dumps(photos[start : start + size]) for start in range(0, len(photos), size)]
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
    job_on_ray = ray.put(job)  # a reference keeps it alive for restarted workers
    results = ray.data.from_arrow([_one_row("photos", block) for block in blocks]).map_batches(
        Worker,
        fn_constructor_args=(job_on_ray, ledger),
        compute=ActorPoolStrategy(size=min(workers, len(blocks))),
        num_cpus=1,
        batch_size=None,
        batch_format="pyarrow",
    )
    try:
        for row in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for content in row["results"]:
                yield from pickle.loads(content.as_py())
        deaths = ray.get(ledger.deaths.remote())
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from None
    if deaths:
        doing, done = job.task.doing, job.task.done
        logger.warning("%s times a worker died while %s; its images were %s again", f"{deaths:,}", doing, done)


def _one_row(column: str, content: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.table({column: pa.array([content], pa.binary())})


class Worker:
    """A process that turns blocks of photos into results, with one tagger on one core."""

    def __init__(self, job: Any, ledger: Any):
        import ray

        ours: Job = ray.get(job)
        self._task, self._ledger = ours.task, ledger
        self._tagger = _load(ours.model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        blocks = [pickle.loads(content.as_py()) for content in batch["photos"]]
        return pa.table({"results": pa.array([pickle.dumps(self._results(block)) for block in blocks], pa.binary())})

    def _results(self, block: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        import ray

        first = block[0][0]
        begun_before, deadly = ray.get(self._ledger.begin.remote(first))
        read = map_in_order(self._task.read, [item for number, item in block if number not in deadly], READERS)
        results: list[tuple[int, Any]] = []
        for number, item in block:
            if number in deadly:
                message = f"{DEATHS + 1} workers died while {self._task.doing} it"
                results.append((number, self._task.given_up(item, message)))
                continue
            if begun_before:  # from now on, record each photo before processing it
                ray.get(self._ledger.take.remote(first, number))
            results.append((number, self._task(self._tagger, next(read))))
        self._ledger.end.remote(first)
        return results


def _load(model: dict[str, bytes] | None) -> Tagger:
    workers = available_cores()  # as many workers as cores, so that each uses one core
    if model is None:
        return Tagger(None, workers, device="cpu", taught=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in model.items():
            (Path(folder) / name).write_bytes(content)
        return Tagger(folder, workers, device="cpu", taught=False)


class Ledger:
    """Record of started blocks, and of the photo being processed in restarted ones; it outlives the workers.

    The worker of a block that is started a second time has died. From then on each of its images is recorded here
    before it is processed, so that the image is known if the worker dies again.
    """

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()  # starts per block, by the index of its first image
        self._in_progress: dict[int, int] = {}  # block -> image
        self._died_on: Counter[int] = Counter()
        self._deaths = 0

    def begin(self, block: int) -> tuple[bool, set[int]]:
        """Return whether the block was started before, and the images that must not be tried again."""
        before = self._begun[block] > 0
        self._begun[block] += 1
        self._deaths += before
        if block in self._in_progress:
            self._died_on[self._in_progress.pop(block)] += 1
        return before, {image for image, count in self._died_on.items() if count >= DEATHS}

    def take(self, block: int, image: int) -> None:
        self._in_progress[block] = image

    def end(self, block: int) -> None:
        self._in_progress.pop(block, None)
        self._begun.pop(block, None)

    def deaths(self) -> int:
        return self._deaths


@contextmanager
def session(workers: int, store: int) -> Iterator[None]:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine and stop it afterwards."""
    cluster = os.environ.get("RAY_ADDRESS", "").removeprefix("local")
    if "ray" not in sys.modules:
        _set_environment(alone=not cluster)
    with _without_stderr():
        import ray
    if ray.is_initialized():  # by the caller
        _settle()
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    alone = {"num_cpus": workers, "object_store_memory": store, "include_dashboard": False}
    try:
        _check_listening(cluster)
        with _without_stderr(), _own_sigterm():
            ray.init(**quiet) if cluster else ray.init("local", **alone, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster of RAY_ADDRESS={cluster} cannot be reached" if cluster else "Ray cannot be started"
        raise UserError(f"{where}: {first_line(error)}") from None
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # Ray prints dead workers there
        try:
            _settle()
            yield
        finally:
            ray.shutdown()


def _set_environment(alone: bool) -> None:
    """Set the variables that Ray reads when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise it writes to our stderr
    if alone:  # its ports are open to the network, so require a token
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _check_listening(cluster: str) -> None:
    """Raise an OSError if nothing listens at ``host:port`` or ``ray://host:port``, where Ray would wait forever."""
    host, _, port = cluster.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=WAIT).close()


def _settle() -> None:
    """Configure Ray Data: keep the order of records and print nothing."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL + 1)


def _cores() -> int:
    """Return the number of cores of the cluster."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silence stderr, including output from C++."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restore our SIGTERM handler, which Ray replaces when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)

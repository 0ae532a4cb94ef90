"""Tag on many processes or machines with Ray Data (``tag --engine ray``).

The images are split into blocks. A pool of workers, each a process with its own tagger, turns blocks into
records, which are returned in the order of the images. Ray restarts a worker that died and repeats its block.
Which image was in hand when a worker died is known to :class:`Ledger`, so that an image that kills its worker each time
ends as an error record instead of keeping the cluster busy for ever.

Ray must not be imported before :func:`_session` has set what it reads from the environment then.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from zsl_tagger.assets import PACKAGED
from zsl_tagger.bulk.engine import Item, Source, TagRequest, record_of, sha256_of_source, source_of
from zsl_tagger.errors import UserError, first_line
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.images.urls import is_url
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.threads import available_cores, default_workers, map_in_order
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile

logger = logging.getLogger(__name__)

#: Images per block: few enough that all workers finish at about the same time, enough to hide Ray's overhead.
FEWEST, MOST, BLOCKS_A_WORKER = 8, 256, 32
#: Number of worker deaths after which an image is not tried again.
DEATHS = 2
#: Images that a worker reads from URLs in parallel, to hide network latency.
READERS = 4
WAIT = 10  # seconds to wait for a cluster to respond
#: Ray's shared memory on a single machine, in addition to the model and the labels.
STORE_BYTES = 100_000_000


class Image(NamedTuple):
    """An image to tag: its index, its path or URL, and the SHA-256 of the content tagged before, if any."""

    number: int
    path: str
    done: str | None


@dataclass(frozen=True)
class Job:
    """Data for every worker, sent once to each machine.

    Attributes:
        model: names and contents of the files of a model folder; None for the packaged model, which is installed.
        hashed: include the SHA-256 of the image's content in records.
        folder: base folder of relative paths.
    """

    model: dict[str, bytes] | None
    request: TagRequest
    hashed: bool
    folder: str

    @property
    def nbytes(self) -> int:
        return self.request.labels.queries.nbytes + sum(map(len, (self.model or {}).values()))


class RayEngine:
    """Tag images on Ray's workers.

    Args:
        folder: the model folder.
        output: results of earlier runs, or None.
        workers: number of processes; None: one per core of the cluster.
    """

    def __init__(self, folder: Path, request: TagRequest, output: RecordFile | None, workers: int | None):
        self._output, self._workers = output, workers
        self._job = Job(_model_files(folder), request, hashed=output is not None, folder=str(Path.cwd()))

    def records(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        """Find all images first, then yield the records.

        Raises:
            UserError: Ray or its workers cannot be started.
        """
        items = list(items)
        images = [Image(number, item, self._done(item)) for number, item in enumerate(items) if isinstance(item, str)]
        due = 0  # index of the item whose record is next
        if images:
            with _session(self._workers or default_workers(), STORE_BYTES + 2 * self._job.nbytes):
                for number, record in _tagged(images, self._job, self._workers or _cores()):
                    yield from _errors(items[due:number])
                    yield record
                    due = number + 1
        yield from _errors(items[due:])

    def _done(self, path: str) -> str | None:
        return None if self._output is None else self._output.sha256_of(path)


@dataclass(frozen=True)
class Done:
    """Earlier result of a worker's image: the SHA-256 when it was tagged, or None."""

    sha256: str | None

    def is_done(self, path: str, sha256: str) -> bool:  # noqa: ARG002
        return sha256 == self.sha256

    def tags_of(self, sha256: str) -> list[Tag] | None:  # noqa: ARG002
        return None


def _model_files(folder: Path) -> dict[str, bytes] | None:
    """Return the files of a model folder that a tagger needs; None for the packaged model, which is installed."""
    if folder == PACKAGED:
        return None
    kinds = (".json", ".onnx", ".txt", ".npy", ".npz")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in kinds}


def _errors(items: Sequence[Item]) -> Iterator[Record]:
    return (item for item in items if isinstance(item, Record))


def _tagged(images: list[Image], job: Job, workers: int) -> Iterator[tuple[int, Record | None]]:
    """Yield the indices and records of the images, in order."""
    import ray
    from ray.data import ActorPoolStrategy

    size = min(MOST, max(FEWEST, len(images) // (workers * BLOCKS_A_WORKER)))
    blocks = [pickle.dumps(images[start : start + size]) for start in range(0, len(images), size)]
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
    job_on_ray = ray.put(job)  # a reference keeps it alive for restarted workers
    tagged = ray.data.from_arrow([_one_row("images", block) for block in blocks]).map_batches(
        Worker,
        fn_constructor_args=(job_on_ray, ledger),
        compute=ActorPoolStrategy(size=min(workers, len(blocks))),
        num_cpus=1,
        batch_size=None,
        batch_format="pyarrow",
    )
    try:
        for row in tagged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for content in row["records"]:
                yield from pickle.loads(content.as_py())
        deaths = ray.get(ledger.deaths.remote())
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from None
    if deaths:
        logger.warning("%s times a worker died while tagging; its images were tagged again", f"{deaths:,}")


def _one_row(column: str, content: bytes) -> pa.Table:
    return pa.table({column: pa.array([content], pa.binary())})


class Worker:
    """A process that tags blocks of images, with one tagger on one core."""

    def __init__(self, job: Any, ledger: Any):
        import ray

        self._job: Job = ray.get(job)
        self._ledger = ledger
        self._tagger = _load(self._job.model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        blocks = [pickle.loads(content.as_py()) for content in batch["images"]]
        return pa.table({"records": pa.array([pickle.dumps(self._records(block)) for block in blocks], pa.binary())})

    def _records(self, block: list[Image]) -> list[tuple[int, Record | None]]:
        import ray

        first = block[0].number
        begun_before, deadly = ray.get(self._ledger.begin.remote(first))
        readers = READERS if any(is_url(image.path) for image in block) else 1
        sources = map_in_order(self._source, [image for image in block if image.number not in deadly], readers)
        records: list[tuple[int, Record | None]] = []
        for image in block:
            if image.number in deadly:
                record = Record(image.path, [], f"{DEATHS + 1} workers died while tagging it")
                records.append((image.number, record))
                continue
            if begun_before:  # from now on, record each image before processing it
                ray.get(self._ledger.take.remote(first, image.number))
            records.append((image.number, self._tagged(image, next(sources))))
        self._ledger.end.remote(first)
        return records

    def _source(self, image: Image) -> Source:
        """Return the tagger's input: a local path, or the content of a URL."""
        if is_url(image.path):
            return source_of(image.path)
        return os.path.join(self._job.folder, image.path)  # noqa: PTH118 (pathlib would change "" and "a//b")

    def _tagged(self, image: Image, source: Source) -> Record | None:
        earlier = Done(image.done) if self._job.hashed else None
        return record_of(image.path, lambda _: self._tags(source), earlier, lambda _: sha256_of_source(source))

    def _tags(self, source: Source) -> list[Tag]:
        if isinstance(source, ImageError):
            raise source
        request = self._job.request
        try:
            return self._tagger.tag(
                source, request.labels, threshold=request.threshold, top_k=request.top_k, exact=request.exact
            )
        except ImageError:
            raise
        except Exception as error:  # one image must not stop the run of a whole cluster
            raise ImageError(f"cannot be tagged: {type(error).__name__}: {first_line(error)}") from None


def _load(model: dict[str, bytes] | None) -> Tagger:
    workers = available_cores()  # as many workers as cores, so that each uses one core
    if model is None:
        return Tagger(None, workers, device="cpu", taught=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in model.items():
            (Path(folder) / name).write_bytes(content)
        return Tagger(folder, workers, device="cpu", taught=False)


class Ledger:
    """Record of started blocks, and of the image being processed in restarted ones; it outlives the workers.

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
def _session(workers: int, store: int) -> Iterator[None]:
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

"""Run ``zsl-tagger tag``: find images, tag them, write the records."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from zsl_tagger.bulk.engine import Engine, Item, TagRequest, record_of
from zsl_tagger.bulk.labels import label_set, requested_labels
from zsl_tagger.bulk.local_engine import LocalEngine
from zsl_tagger.bulk.options import TagRun, check_options
from zsl_tagger.bulk.output import EarlierRecords, Sink, open_sinks, record_file
from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.urls import find_urls, is_url
from zsl_tagger.records.record import Record
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.read_ahead import ReadAhead
from zsl_tagger.system.signals import StopRequest, watching_signals
from zsl_tagger.system.threads import default_workers
from zsl_tagger.tagging.heatmap import HeatmapFolder
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile
    from zsl_tagger.sidecars.run import Sidecars

logger = logging.getLogger(__name__)

Records = Iterable[Record | None]  # None: done by an earlier run


def run_tagging(run: TagRun) -> int:
    """Tag all images and write the records; return the number of images that could not be read.

    Raises:
        UserError: the run cannot be started; nothing was written.
        KeyboardInterrupt: Ctrl-C or SIGTERM (``Terminated``); the output is closed properly.
    """
    check_options(run)
    selection = Selection(run.exclude_path or ())
    with watching_signals() as stop, ExitStack() as stack:
        images = Images(run, selection, stop, stack)
        if not images.first:
            logger.warning("no images found: the folders contain no files with an image suffix")
        records, sinks = _without_tags(run, images, stack) if run.remove else _tagged(run, images, stack)
        failed = _write_all(records, sinks, _progress(run), images, stop)
    if left_out := selection.summary():
        logger.info("%s", left_out)
    return failed


def _tagged(run: TagRun, images: Images, stack: ExitStack) -> tuple[Records, list[Sink]]:
    """Return the records and sinks of a run: labels -> tagger -> images -> engine -> sidecars -> sinks."""
    tagger = _tagger(run, len(images.first))
    request = _request(run, tagger)
    output = record_file(run, images.first, tagger, request, stack)
    sinks = open_sinks(run, output, stack)
    logger.debug("labels: %d; photos in parallel: %d; engine: %s", len(request.labels), tagger.workers, run.engine)
    records = stack.enter_context(closing(_engine(run, tagger, request, output).records(images)))
    if run.sidecar is None:
        return records, sinks
    sidecars = stack.enter_context(_sidecars(run, request))
    return (record and sidecars.tagged(record) for record in records), sinks


def _without_tags(run: TagRun, images: Images, stack: ExitStack) -> tuple[Records, list[Sink]]:
    """Return the records and sinks of a run with ``--remove``, which needs no model."""
    sidecars = stack.enter_context(_sidecars(run, None))
    return (record_of(item, sidecars.remove) for item in images), open_sinks(run, None, stack)


def _tagger(run: TagRun, images: int) -> Tagger:
    device = "cpu" if run.engine == "ray" else run.device  # like Ray's workers
    return Tagger(run.model, run.workers or max(1, images), device)  # a single image uses all cores


def _request(run: TagRun, tagger: Tagger) -> TagRequest:
    labels = label_set(tagger, requested_labels(tagger, run), run)
    return TagRequest(labels=labels, threshold=run.threshold, top_k=run.top_k, exact=run.exact)


def _engine(run: TagRun, tagger: Tagger, request: TagRequest, output: RecordFile | None) -> Engine:
    if run.engine == "ray":
        from zsl_tagger.bulk.ray_engine import RayEngine

        return RayEngine(tagger.folder.path, request, output, run.workers)
    pictures = None if run.heatmap is None else HeatmapFolder(run.heatmap, run.paths)
    earlier = output and EarlierRecords(output, skips=run.sidecar is None, reuses=pictures is None)
    return LocalEngine(tagger, request, earlier, pictures)


class Images:
    """Find the images of a run in a thread while the first ones are tagged. Iterate over it once.

    Attributes:
        first: the first images, at least as many as workers if there are that many.
    """

    def __init__(self, run: TagRun, selection: Selection, stop: StopRequest, stack: ExitStack):
        found = _find_images(run, selection)
        # A thread that waits for stdin could not be stopped.
        self._ahead = None if "-" in run.paths else ReadAhead(found)
        items = stop.iterate(found if self._ahead is None else stack.enter_context(self._ahead))
        self.first = list(islice(items, default_workers()))
        self._items = chain(self.first, items)

    def __iter__(self) -> Iterator[Item]:
        return self._items

    @property
    def total(self) -> int | None:
        """Return the number of images; None while it is not known."""
        return None if self._ahead is None else self._ahead.total


def _find_images(run: TagRun, selection: Selection) -> Iterator[Item]:
    beside = "--sidecar" if run.sidecar is not None else "--heatmap" if run.heatmap is not None else None

    def at_url(argument: str) -> Iterable[Item] | None:
        if not is_url(argument):
            return None
        if beside is not None:
            return [Record(argument, [], f"{beside} needs a photo on this machine: download it first")]
        return find_urls(argument, selection)

    return find_images(_expand_stdin(run.paths), at_url, selection)


def _expand_stdin(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            if sys.stdin is None:
                raise UserError("expected a list of paths on stdin, but it is closed")
            # Read bytes, since names need not be UTF-8.
            lines = (line.rstrip(b"\r\n") for line in _without_bom(sys.stdin.buffer))
            yield from (os.fsdecode(line) for line in lines if line.strip())
        else:
            yield path


def _without_bom(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without the byte order mark that some editors add."""
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


@contextmanager
def _sidecars(run: TagRun, request: TagRequest | None) -> Iterator[Sidecars]:
    """Yield the sidecars of a run, and log a summary at the end."""
    from zsl_tagger.sidecars.run import Sidecars  # not loaded by other runs

    assert run.sidecar is not None
    show = partial(print, flush=True) if run.dry_run or run.remove else None
    parents = {}
    if request is not None and run.sidecar == "xmp":  # the other formats have no hierarchy
        labels = request.labels
        parents = {name: labels.parents(number) for number, name in enumerate(labels.labels)}
    sidecars = Sidecars(run.sidecar, run.sidecar_stem, run.dry_run, show, parents)
    yield sidecars
    logger.info("%s", sidecars.summary())


def _progress(run: TagRun) -> Progress:
    on_table = run.output is None and sys.stdout.isatty()  # the bar would mix with the table
    return Progress("removing tags" if run.remove else "tagging", bar=not on_table)


def _write_all(records: Records, sinks: Sequence[Sink], progress: Progress, images: Images, stop: StopRequest) -> int:
    """Write every record; return the number of errors."""
    failed = done = 0
    with progress:
        for record in records:
            if record is None:
                done += 1
            else:
                for write in sinks:
                    write(record)
                failed += record.error is not None
            progress.total = images.total
            progress.advance()
            stop.check()
        progress.total = images.total  # in a short run it is known only now
    if done:
        logger.info("done already and skipped: %s", f"{done:,}")
    return failed

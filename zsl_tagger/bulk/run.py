"""Run ``zsl-tagger tag``: find images, tag them, write the records."""

from __future__ import annotations

import codecs
import logging
import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from zsl_tagger.bulk.labels import label_set, requested_labels
from zsl_tagger.bulk.local_engine import tag_file
from zsl_tagger.bulk.options import TagRun, check_options
from zsl_tagger.bulk.output import Sink, open_sinks, record_file
from zsl_tagger.errors import UserError, require
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.records.record import Record
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.signals import StopRequest, watching_signals
from zsl_tagger.system.threads import default_workers, map_in_order
from zsl_tagger.tagging.heatmap import HeatmapFolder
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile
    from zsl_tagger.sidecars.run import Sidecars

logger = logging.getLogger(__name__)


def run_tagging(run: TagRun) -> int:
    """Tag everything and write the records; returns how many images could not be read.

    Raises:
        UserError: the run cannot be carried out; nothing was written then.
        KeyboardInterrupt: Ctrl-C came, or SIGTERM (``Terminated``); what was written is closed in good order.
    """
    check_options(run)
    selection = Selection(run.exclude_path or ())
    failed = _run(run, selection)
    if left_out := selection.summary():
        logger.info("%s", left_out)
    return failed


def _run(run: TagRun, selection: Selection) -> int:
    with watching_signals() as stop, ExitStack() as stack:
        items = stop.iterate(_find_images(run, selection))  # walked while images are tagged
        first = list(islice(items, default_workers()))
        if not first:
            logger.warning("no images found: folders hold no file with an image suffix")
        items = chain(first, items)
        progress = _progress(run, first)
        if run.remove:  # needs no model
            sidecars = stack.enter_context(_sidecars(run, None))
            return _write_all(map(sidecars.removed, items), open_sinks(run, None, stack), progress, stop)
        device = "cpu" if run.engine == "ray" else run.device  # as Ray's workers
        workers = run.workers or max(1, len(first))  # one image is on all cores
        tagger = Tagger(run.model, workers, device)
        labels = label_set(tagger, requested_labels(tagger, run), run)
        logger.debug("labels: %d; photos at a time: %d; engine: %s", len(labels), workers, run.engine)
        lasting = record_file(run, first, tagger, labels, stack)
        sinks = open_sinks(run, lasting, stack)
        made = stack.enter_context(closing(_records(tagger, items, labels, run, lasting)))
        records: Iterable[Record | None] = made
        if run.sidecar is not None:
            sidecars = stack.enter_context(_sidecars(run, labels))
            records = (record and sidecars.tagged(record) for record in made)
        return _write_all(records, sinks, progress, stop)


def _progress(run: TagRun, first: list[str | Record]) -> Progress:
    """Return the progress of a run; a long one learns its total while the first images are tagged."""
    on_table = run.output is None and sys.stdout.isatty()  # the bar would run into the table
    progress = Progress("tagging", bar=not on_table)
    if len(first) < default_workers():
        progress.total = len(first)
    elif "-" not in run.paths and run.engine == "local":  # stdin cannot be read twice, and a listing of URLs is slow

        def count() -> None:
            with suppress(OSError, UserError):  # the run meets it too
                progress.total = sum(1 for _ in find_images(run.paths, selection=Selection(run.exclude_path)))

        threading.Thread(target=count, daemon=True).start()
    return progress


def _find_images(run: TagRun, selection: Selection) -> Iterator[str | Record]:
    paths = _expand_stdin(run.paths)
    if run.engine != "ray":
        return find_images(paths, selection=selection)
    for module in ("fsspec", "pyarrow", "ray"):
        require(module, "ray")
    from zsl_tagger.images.urls import find_urls, is_url

    return find_images(paths, lambda path: find_urls(path, selection) if is_url(path) else None, selection)


def _expand_stdin(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            if sys.stdin is None:
                raise UserError("expected a list of paths on stdin, but it is closed")
            lines = (line.rstrip(b"\r\n") for line in _without_bom(sys.stdin.buffer))  # bytes: names need not be UTF-8
            yield from (os.fsdecode(line) for line in lines if line.strip())
        else:
            yield path


def _without_bom(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Without the mark that some editors put before the first line."""
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


@contextmanager
def _sidecars(run: TagRun, labels: LabelSet | None) -> Iterator[Sidecars]:
    """The sidecars of a run, which says at its end what became of them."""
    from zsl_tagger.sidecars.run import Sidecars  # not loaded by other runs

    show = partial(print, flush=True) if run.dry_run or run.remove else None
    parents = {}
    if labels is not None and run.sidecar == "xmp":  # the other kinds have no paths
        parents = {name: labels.parents(number) for number, name in enumerate(labels.labels)}
    sidecars = Sidecars(run.sidecar or "", run.sidecar_stem, run.dry_run, show, parents)
    yield sidecars
    logger.info("%s", sidecars.summary())


def _records(
    tagger: Tagger,
    items: Iterable[str | Record],
    labels: LabelSet,
    run: TagRun,
    lasting: RecordFile | None,
) -> Generator[Record | None, None, None]:
    """Records in the order of ``items``, None for what is done already; those that are errors pass through."""
    if run.engine == "ray":
        from zsl_tagger.bulk.ray_engine import tag_on_ray

        return tag_on_ray(
            tagger,
            items,
            labels,
            lasting,
            threshold=run.threshold,
            top_k=run.top_k,
            exact=run.exact,
            workers=run.workers,
        )
    pictures = None if run.heatmap is None else HeatmapFolder(run.heatmap, run.paths)

    def work(item: str | Record) -> Record | None:
        return item if isinstance(item, Record) else tag_file(tagger, item, labels, run, lasting, pictures)

    return map_in_order(work, items, tagger.workers)


def _write_all(records: Iterable[Record | None], sinks: Sequence[Sink], progress: Progress, stop: StopRequest) -> int:
    """Write every record; returns how many are errors."""
    failed = done = 0
    with progress:
        for record in records:
            if record is None:
                done += 1
            else:
                for write in sinks:
                    write(record)
                failed += record.error is not None
            progress.advance()
            stop.check()
    if done:
        logger.info("done already and skipped: %s", f"{done:,}")
    return failed

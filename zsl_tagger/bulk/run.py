"""What ``zsl-tagger tag`` does: find images, tag them, write the records."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import find_images
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES, ImageError, is_image
from zsl_tagger.records.record import Record
from zsl_tagger.records.writers import LASTING, SUFFIXES, WRITERS
from zsl_tagger.system.files import content_of, locked_file
from zsl_tagger.system.signals import StopRequest, watching_signals
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.heatmap import MAPS_A_PHOTO, HeatmapFolder
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.label_lists import read_labels_file, split_labels
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import UnknownLabelError

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile
    from zsl_tagger.sidecars.run import Sidecars

#: From so many images on, a line of progress is shown (on a terminal only).
LONG_RUN = 20

Sink = Callable[[Record], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class TagRun:
    """The options of one run, as given; None and "" mean not given."""

    paths: Sequence[str]
    labels: str | None = None
    labels_file: Path | None = None
    exclude: str = ""
    top_k: int | None = None
    threshold: float | None = None
    format: str | None = None
    output: Path | None = None
    resume: bool = False
    overwrite: bool = False
    model: Path | None = None
    workers: int | None = None
    skip_unknown: bool = False
    exact: bool = False
    heatmap: Path | None = None
    sidecar: str | None = None  # xmp, txt, json
    sidecar_stem: bool = False
    dry_run: bool = False
    remove: bool = False
    engine: str = "local"


def run_tagging(run: TagRun, note: Note) -> int:
    """Tag everything and write the records; returns how many images could not be read.

    Raises:
        UserError: the run cannot be carried out; nothing was written then.
        KeyboardInterrupt: Ctrl-C came, or SIGTERM (``Terminated``); what was written is closed in good order.
    """
    _check_options(run)
    names = None if run.remove else _asked_labels(run, note)
    with watching_signals() as stop, ExitStack() as stack:
        items = stop.iterate(_find_images(run))  # walked while images are tagged
        first = list(islice(items, available_cores()))
        if not first:
            note("no images found: folders hold no file with an image suffix")
        items = chain(first, items)
        if run.remove:  # needs no model
            sidecars = stack.enter_context(_sidecars(run, note))
            return _write_all(map(sidecars.removed, items), _sinks(run, None, stack), note, stop)
        tagger = Tagger(run.model, workers=run.workers or max(1, len(first)))  # one image is on all cores
        labels = _label_set(tagger, names, run, note)
        lasting = _record_file(run, first, tagger, labels, note, stack)
        sinks = _sinks(run, lasting, stack)
        made = stack.enter_context(closing(_records(tagger, items, labels, run, lasting, note)))
        records: Iterable[Record | None] = made
        if run.sidecar is not None:
            sidecars = stack.enter_context(_sidecars(run, note))
            records = (record and sidecars.tagged(record) for record in made)
        shown = run.output is not None or not sys.stdout.isatty()  # else the progress would run into the table
        return _write_all(_with_progress(records) if shown else records, sinks, note, stop)


def _check_options(run: TagRun) -> None:
    if run.threshold is not None and not 0 <= run.threshold <= 1:
        raise UserError(f"expected --threshold in 0..1, got {run.threshold}")
    if run.top_k is not None and run.top_k < 1:
        raise UserError(f"expected --top-k of at least 1, got {run.top_k}")
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    if run.labels is not None and run.labels_file is not None:
        raise UserError("give the labels by --labels or by --labels-file, not both")
    if run.sidecar is None and (run.remove or run.dry_run or run.sidecar_stem):
        option = "--remove" if run.remove else "--dry-run" if run.dry_run else "--sidecar-stem"
        raise UserError(f"{option} is about sidecars: add --sidecar xmp, --sidecar txt or --sidecar json")
    if run.sidecar_stem and run.sidecar != "xmp":
        raise UserError(f"--sidecar-stem is for --sidecar xmp; {run.sidecar} ones have the whole name of the photo")
    if (run.dry_run or run.remove) and (run.output is not None or run.heatmap is not None or _format(run) != "table"):
        raise UserError("--dry-run and --remove print what they do: leave out --output, --format and --heatmap")
    if run.engine == "ray" and (run.heatmap is not None or run.sidecar is not None):
        option = "--sidecar" if run.heatmap is None else "--heatmap"
        raise UserError(f"{option} is made on this machine: leave out --engine ray")
    if run.output is None and sys.stdout is None:
        raise UserError(f"standard output is closed{'' if run.dry_run or run.remove else ': give --output FILE'}")
    if run.resume and run.overwrite:
        raise UserError("give --resume or --overwrite, not both")
    if run.resume and (run.output is None or _format(run) not in LASTING):
        raise UserError(f"--resume goes on with an --output FILE in {', '.join(LASTING)}, got {_format(run)}")
    if run.output is None and _format(run) not in WRITERS:
        raise UserError(f"{_format(run)} is no text for the screen: give --output FILE")


def _find_images(run: TagRun) -> Iterator[str | Record]:
    paths = _expand_stdin(run.paths)
    if run.engine != "ray":
        return find_images(paths)
    from zsl_tagger.images.urls import find_urls, is_url

    return find_images(paths, lambda path: find_urls(path) if is_url(path) else None)


def _format(run: TagRun) -> str:
    if run.format is not None:
        return run.format
    return SUFFIXES.get(run.output.suffix.lower(), "table") if run.output is not None else "table"


def _asked_labels(run: TagRun, note: Note) -> list[str] | None:
    if run.labels_file is not None:
        names, source = read_labels_file(run.labels_file), f"--labels-file {run.labels_file}"
    elif run.labels is not None:
        names, source = split_labels(run.labels), "--labels"
    else:
        return None
    if not names:
        raise UserError(f'the label list of {source} is empty: give at least one label, e.g. --labels "dog,beach"')
    return _without_duplicates(names, note)


def _without_duplicates(names: list[str], note: Note) -> list[str]:
    unique: dict[str, str] = {}
    for name in names:
        key = normalize_label(name)
        if key in unique:
            note(f"label {name!r} is given more than once (first as {unique[key]!r}); it is asked once")
        else:
            unique[key] = name
    return list(unique.values())


def _label_set(tagger: Tagger, names: list[str] | None, run: TagRun, note: Note) -> LabelSet:
    labels = tagger.vocabulary if names is None else _known_labels(tagger, names, run.skip_unknown, note)
    left_out = {tagger.key(name): name for name in split_labels(run.exclude)}
    for key, name in left_out.items():
        if key not in labels.keys:
            note(f"--exclude {name!r} is not among the labels")
    labels = labels.without(left_out)
    if not len(labels):
        raise UserError("no label is left to ask after --exclude")
    return labels


def _known_labels(tagger: Tagger, names: list[str], skip_unknown: bool, note: Note) -> LabelSet:
    try:
        return tagger.label_set(names)
    except UnknownLabelError as error:
        if not skip_unknown:
            raise UserError(f"{error} (--skip-unknown goes on without)") from None
        note(f"{error}; skipped")
        known = [name for name in names if name not in error.suggestions]
    if not known:
        raise UserError("none of the labels is known")
    return tagger.label_set(known)


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


def _record_file(
    run: TagRun, first: list[str | Record], tagger: Tagger, labels: LabelSet, note: Note, stack: ExitStack
) -> RecordFile | None:
    """The output as a file that a stopped run goes on with; None where it is a stream, or of another format."""
    if run.output is None:
        return None
    from zsl_tagger.bulk.settings import settings_of
    from zsl_tagger.records.record_files import check_not_lost, open_record_file

    _check_output(run, run.output, first)
    if run.output.exists() and not run.output.is_file():  # a device or a pipe
        return None
    path, kind = Path(os.path.realpath(run.output)), _format(run)
    with _output_errors(run.output):
        stack.enter_context(locked_file(path))
        if not (run.resume or run.overwrite):
            check_not_lost(kind, path)
        if kind not in LASTING:
            return None
        settings = settings_of(tagger, labels, threshold=run.threshold, top_k=run.top_k, exact=run.exact)
        return stack.enter_context(open_record_file(kind, path, {"format": kind, **settings}, run.resume, note))


def _check_output(run: TagRun, output: Path, first: list[str | Record]) -> None:
    """Raise a UserError where an image or something that this run reads would be overwritten."""
    if output.is_dir():
        raise UserError(f"cannot write --output {output}: it is a folder, expected a file")
    if output.exists() and not output.is_file() and _format(run) not in WRITERS:
        raise UserError(f"cannot write --output {output}: {_format(run)} needs a regular file")
    inputs = [*run.paths, *first] if run.labels_file is None else [*run.paths, *first, str(run.labels_file)]
    if output.suffix.lower() in IMAGE_SUFFIXES or (
        output.is_file() and (is_image(output) or _is_stdin(output) or any(_is_same(output, item) for item in inputs))
    ):
        raise UserError(f"--output {output} is an image or one of the inputs; it would be overwritten")


def _is_same(output: Path, item: str | Record) -> bool:
    try:
        return isinstance(item, str) and output.samefile(item)
    except (OSError, ValueError):  # it is not there
        return False


def _is_stdin(output: Path) -> bool:
    try:
        return os.path.samestat(output.stat(), os.fstat(sys.stdin.fileno()))
    except (OSError, ValueError, AttributeError):  # it is closed
        return False


@contextmanager
def _sidecars(run: TagRun, note: Note) -> Iterator[Sidecars]:
    """The sidecars of a run, which says at its end what became of them."""
    from zsl_tagger.sidecars.run import Sidecars  # not loaded by other runs

    show = partial(print, flush=True) if run.dry_run or run.remove else None
    sidecars = Sidecars(run.sidecar or "", run.sidecar_stem, run.dry_run, show)
    yield sidecars
    note(sidecars.summary())


@contextmanager
def _output_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write --output {output}: {error.strerror or error}") from None


def _sinks(run: TagRun, lasting: RecordFile | None, stack: ExitStack) -> list[Sink]:
    """Where each record goes, in turn; ``stack`` closes them. The output comes last: what it holds is done."""
    write: Sink = lasting or stack.enter_context(WRITERS[_format(run)](_stream(run.output, stack)))
    if run.dry_run or run.remove:  # the changes are printed in place of the tags
        return [lambda record: None if record.error is None else write(record)]
    return [write]


def _stream(output: Path | None, stack: ExitStack) -> TextIO:
    if output is None:
        if hasattr(sys.stdout, "reconfigure"):  # a path that is not UTF-8 must not end the run
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        return sys.stdout
    with _output_errors(output):
        return stack.enter_context(output.open("w", encoding="utf-8", errors="backslashreplace", newline=""))


def _records(
    tagger: Tagger,
    items: Iterable[str | Record],
    labels: LabelSet,
    run: TagRun,
    lasting: RecordFile | None,
    note: Note,
) -> Generator[Record | None, None, None]:
    """Records in the order of ``items``, None for what is done already; those that are errors pass through."""
    if run.engine == "ray":
        from zsl_tagger.bulk.ray_engine import tag_on_ray

        return tag_on_ray(
            tagger,
            items,
            labels,
            lasting,
            note,
            threshold=run.threshold,
            top_k=run.top_k,
            exact=run.exact,
            workers=run.workers,
        )
    pictures = None if run.heatmap is None else HeatmapFolder(run.heatmap, run.paths)

    def work(item: str | Record) -> Record | None:
        return item if isinstance(item, Record) else _tagged(tagger, item, labels, run, lasting, pictures)

    return map_in_order(work, items, tagger.workers)


def _tagged(
    tagger: Tagger,
    path: str,
    labels: LabelSet,
    run: TagRun,
    lasting: RecordFile | None,
    pictures: HeatmapFolder | None,
) -> Record | None:
    """All that is done for one image, on one of several threads; None where it was done by a run before."""
    sha256 = None if lasting is None else content_of(path)
    if lasting is not None and sha256 is not None:
        if run.sidecar is None and lasting.is_done(path, sha256):
            return None
        stored = lasting.tags_of(sha256) if pictures is None else None  # a heat map needs the network
        if stored is not None:  # renamed or copied, or done before and now wanted in a sidecar
            return Record(path, stored, sha256=sha256)
    try:
        tokens = tagger.encode(path)
        tags = tagger.tag_tokens(tokens, labels, threshold=run.threshold, top_k=run.top_k, exact=run.exact)
        if pictures is not None and tags:
            shown = [tag.label for tag in tags[: run.top_k or MAPS_A_PHOTO]]
            pictures.write(path, shown, tagger.heatmap(tokens, shown))
    except ImageError as error:
        return Record(path, [], str(error))
    return Record(path, tags, sha256=sha256)


def _write_all(records: Iterable[Record | None], sinks: Sequence[Sink], note: Note, stop: StopRequest) -> int:
    """Write every record; returns how many are errors."""
    failed = done = 0
    for record in records:
        if record is None:
            done += 1
        else:
            for write in sinks:
                write(record)
            failed += record.error is not None
        stop.check()
    if done:
        note(f"done already and skipped: {done:,}")
    return failed


def _with_progress(records: Iterable[Record | None]) -> Iterator[Record | None]:
    """The same; meanwhile a line on stderr, where that is a terminal, says how many there were and how fast."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    start = last = time.monotonic()
    number = 0
    for number, record in enumerate(records, 1):
        yield record
        now = time.monotonic()
        if shown and number >= LONG_RUN and now - last >= 0.2:
            sys.stderr.write(f"\r{_progress(number, now - start)}")
            last = now
    if shown and last > start:
        sys.stderr.write(f"\r{_progress(number, time.monotonic() - start)}\n")


def _progress(number: int, seconds: float) -> str:
    return f"{number:,} images, {number / seconds:.0f} a second"

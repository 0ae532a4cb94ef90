"""What ``zsl-tagger tag`` does: find images, tag them, write the records."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from zsl_tagger.errors import UserError
from zsl_tagger.find_images import find_images
from zsl_tagger.heatmap import MAPS_A_PHOTO, HeatmapFolder
from zsl_tagger.preprocessing import IMAGE_SUFFIXES, ImageError
from zsl_tagger.queries import UnknownLabelError, normalize_label, read_labels_file, split_labels
from zsl_tagger.tag import LabelSet, Record, Tagger
from zsl_tagger.threads import available_cores, map_in_order
from zsl_tagger.writers import WRITERS

#: From so many images on, a progress bar is shown (on a terminal only).
LONG_RUN = 20

Sink = Callable[[Record], None]


@dataclass(frozen=True)
class TagRun:
    """The options of one run, as given; None and "" mean not given."""

    paths: Sequence[str]
    labels: str | None = None
    labels_file: Path | None = None
    exclude: str = ""
    top_k: int | None = None
    threshold: float | None = None
    format: str = "table"
    output: Path | None = None
    model: Path | None = None
    workers: int | None = None
    skip_unknown: bool = False
    exact: bool = False
    heatmap: Path | None = None
    engine: str = "local"


def run_tagging(run: TagRun, note: Callable[[str], None]) -> int:
    """Tag everything and write the records; returns how many images could not be read.

    Raises:
        UserError: the run cannot be carried out; nothing was written then.
    """
    _check_options(run)
    names = _asked_labels(run, note)
    items = list(_find_images(run))
    if not items:
        note("no images found: folders hold no file with an image suffix")
    tagger = Tagger(run.model, workers=run.workers or min(available_cores(), max(1, len(items))))
    labels = _label_set(tagger, names, run, note)
    with ExitStack() as stack:
        sinks = _sinks(run, items, stack)
        shown = run.output is not None or not sys.stdout.isatty()  # else the bar would run into the table
        return _write_all(_records(tagger, items, labels, run, note), len(items) if shown else 0, sinks)


def _check_options(run: TagRun) -> None:
    if run.threshold is not None and not 0 <= run.threshold <= 1:
        raise UserError(f"expected --threshold in 0..1, got {run.threshold}")
    if run.top_k is not None and run.top_k < 1:
        raise UserError(f"expected --top-k of at least 1, got {run.top_k}")
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    if run.labels is not None and run.labels_file is not None:
        raise UserError("give the labels by --labels or by --labels-file, not both")
    if run.engine == "ray" and run.heatmap is not None:
        raise UserError("--heatmap is made on this machine: leave out --engine ray")
    if run.output is None and sys.stdout is None:
        raise UserError("standard output is closed: give --output FILE")


def _find_images(run: TagRun) -> Iterator[str | Record]:
    paths = _expand_stdin(run.paths)
    if run.engine != "ray":
        return find_images(paths)
    from zsl_tagger.urls import find_urls, is_url

    return find_images(paths, lambda path: find_urls(path) if is_url(path) else None)


def _asked_labels(run: TagRun, note: Callable[[str], None]) -> list[str] | None:
    if run.labels_file is not None:
        names, source = read_labels_file(run.labels_file), f"--labels-file {run.labels_file}"
    elif run.labels is not None:
        names, source = split_labels(run.labels), "--labels"
    else:
        return None
    if not names:
        raise UserError(f'the label list of {source} is empty: give at least one label, e.g. --labels "dog,beach"')
    return _without_duplicates(names, note)


def _without_duplicates(names: list[str], note: Callable[[str], None]) -> list[str]:
    unique: dict[str, str] = {}
    for name in names:
        key = normalize_label(name)
        if key in unique:
            note(f"label {name!r} is given more than once (first as {unique[key]!r}); it is asked once")
        else:
            unique[key] = name
    return list(unique.values())


def _label_set(tagger: Tagger, names: list[str] | None, run: TagRun, note: Callable[[str], None]) -> LabelSet:
    labels = tagger.vocabulary if names is None else _known_labels(tagger, names, run.skip_unknown, note)
    left_out = {tagger.key(name): name for name in split_labels(run.exclude)}
    for key, name in left_out.items():
        if key not in labels.keys:
            note(f"--exclude {name!r} is not among the labels")
    labels = labels.without(left_out)
    if not len(labels):
        raise UserError("no label is left to ask after --exclude")
    return labels


def _known_labels(tagger: Tagger, names: list[str], skip_unknown: bool, note: Callable[[str], None]) -> LabelSet:
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
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)  # bytes: names need not be UTF-8
            yield from (os.fsdecode(line) for line in lines if line.strip())
        else:
            yield path


def _sinks(run: TagRun, items: Iterable[str | Record], stack: ExitStack) -> list[Sink]:
    """Where each record goes, in turn; ``stack`` closes them."""
    stream = stack.enter_context(_open_output(run.output, items))
    return [stack.enter_context(WRITERS[run.format](stream))]


@contextmanager
def _open_output(output: Path | None, items: Iterable[str | Record]) -> Iterator[TextIO]:
    if output is None:
        if hasattr(sys.stdout, "reconfigure"):  # a path that is not UTF-8 must not end the run
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        return
    inputs = (item for item in items if isinstance(item, str) and Path(item).exists())
    if output.suffix.lower() in IMAGE_SUFFIXES or (output.exists() and any(output.samefile(item) for item in inputs)):
        raise UserError(f"--output {output} is an image or one of the inputs; it would be overwritten")
    try:
        stream = output.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise UserError(f"cannot write --output {output}: {error.strerror}") from None
    with stream:
        yield stream


def _records(
    tagger: Tagger, items: list[str | Record], labels: LabelSet, run: TagRun, note: Callable[[str], None]
) -> Iterator[Record]:
    """Records in the order of ``items``; those that are errors already pass through."""
    if run.engine == "ray":
        from zsl_tagger.ray_engine import Job, model_bytes, tag_on_ray

        hashed = False
        job = Job(model_bytes(tagger.folder.path), labels, run.threshold, run.top_k, run.exact, hashed, str(Path.cwd()))
        return tag_on_ray(items, job, run.workers, note)
    pictures = None if run.heatmap is None else HeatmapFolder(run.heatmap, run.paths)

    def work(item: str | Record) -> Record:
        return item if isinstance(item, Record) else _tagged(tagger, item, labels, run, pictures)

    return map_in_order(work, items, tagger.workers)


def _tagged(tagger: Tagger, path: str, labels: LabelSet, run: TagRun, pictures: HeatmapFolder | None) -> Record:
    """All that is done for one image, on one of several threads."""
    try:
        tokens = tagger.encode(path)
        tags = tagger.tag_tokens(tokens, labels, threshold=run.threshold, top_k=run.top_k, exact=run.exact)
        if pictures is not None and tags:
            shown = [tag.label for tag in tags[: run.top_k or MAPS_A_PHOTO]]
            pictures.write(path, shown, tagger.heatmap(tokens, shown))
    except ImageError as error:
        return Record(path, [], str(error))
    return Record(path, tags)


def _write_all(records: Iterator[Record], expected: int, sinks: Sequence[Sink]) -> int:
    """Write every record; from ``LONG_RUN`` expected ones on, with a progress bar on a terminal's stderr."""
    failed = 0
    with _progress(records, expected) as shown:
        for record in shown:
            for write in sinks:
                write(record)
            failed += record.error is not None
    return failed


@contextmanager
def _progress(records: Iterator[Record], expected: int) -> Iterator[Iterable[Record]]:
    if expected < LONG_RUN or not sys.stderr.isatty():
        yield records
        return
    import typer

    with typer.progressbar(records, length=expected, label="tagging", file=sys.stderr) as bar:
        yield bar

"""Open the output of a run: a stream, or a file that a stopped run can resume."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from zsl_tagger.bulk.engine import Item, TagRequest
from zsl_tagger.bulk.options import TagRun, format_of
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import is_image
from zsl_tagger.images.raw import PHOTO_SUFFIXES
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import LASTING, WRITERS
from zsl_tagger.system.files import locked_file
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile


Sink = Callable[[Record], None]


def record_file(
    run: TagRun, first: list[Item], tagger: Tagger, request: TagRequest, stack: ExitStack
) -> RecordFile | None:
    """Open the output as a resumable record file; None if it is a stream or has another format."""
    if run.output is None:
        return None
    from zsl_tagger.bulk.settings import settings_of
    from zsl_tagger.records.record_files import check_not_lost, open_record_file

    _check_output(run, run.output, first)
    if run.output.exists() and not run.output.is_file():  # a device or a pipe
        return None
    path, kind = Path(os.path.realpath(run.output)), format_of(run)
    with output_errors(run.output):
        stack.enter_context(locked_file(path))
        if not (run.resume or run.overwrite):
            check_not_lost(kind, path)
        if kind not in LASTING:
            return None
        settings = settings_of(tagger, request)
        return stack.enter_context(open_record_file(kind, path, {"format": kind, **settings}, run.resume))


class EarlierRecords:
    """Look up results of earlier runs in the output, as far as this run can use them.

    Args:
        skips: skip finished images; False if the run also writes sidecars for them.
        reuses: reuse the tags of the same content; False if the run draws heat maps, which need the network.
    """

    def __init__(self, file: RecordFile, skips: bool, reuses: bool):
        self._file, self._skips, self._reuses = file, skips, reuses

    def is_done(self, path: str, sha256: str) -> bool:
        return self._skips and self._file.is_done(path, sha256)

    def tags_of(self, sha256: str) -> list[Tag] | None:
        return self._file.tags_of(sha256) if self._reuses else None


def _check_output(run: TagRun, output: Path, first: list[Item]) -> None:
    """Raise a UserError if the output would overwrite an image or another input."""
    if output.is_dir():
        raise UserError(f"cannot write --output {output}: it is a folder, expected a file")
    if output.exists() and not output.is_file() and format_of(run) not in WRITERS:
        raise UserError(f"cannot write --output {output}: {format_of(run)} needs a regular file")
    inputs = [*run.paths, *first] if run.labels_file is None else [*run.paths, *first, str(run.labels_file)]
    if output.suffix.lower() in PHOTO_SUFFIXES or (
        output.is_file() and (is_image(output) or _is_stdin(output) or any(_is_same(output, item) for item in inputs))
    ):
        raise UserError(f"--output {output} is an image or one of the inputs; it would be overwritten")


def _is_same(output: Path, item: Item) -> bool:
    try:
        return isinstance(item, str) and output.samefile(item)
    except (OSError, ValueError):  # it does not exist
        return False


def _is_stdin(output: Path) -> bool:
    try:
        return os.path.samestat(output.stat(), os.fstat(sys.stdin.fileno()))
    except (OSError, ValueError, AttributeError):  # it is closed
        return False


@contextmanager
def output_errors(output: Path) -> Iterator[None]:
    """Turn an OSError while writing the output into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write --output {output}: {error.strerror or error}") from None


def open_sinks(run: TagRun, lasting: RecordFile | None, stack: ExitStack) -> list[Sink]:
    """Return the sinks of each record in order; ``stack`` closes them. The output, which marks images done, is last."""
    write: Sink = lasting or stack.enter_context(WRITERS[format_of(run)](_stream(run.output, stack)))
    if run.dry_run or run.remove:  # the changes are printed in place of the tags
        return [lambda record: None if record.error is None else write(replace(record, tags=[]))]
    return [write]


def _stream(output: Path | None, stack: ExitStack) -> TextIO:
    if output is None:
        if hasattr(sys.stdout, "reconfigure"):  # a path that is not UTF-8 must not stop the run
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        return sys.stdout
    with output_errors(output):
        return stack.enter_context(output.open("w", encoding="utf-8", errors="backslashreplace", newline=""))

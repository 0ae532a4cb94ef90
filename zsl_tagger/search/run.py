"""What ``zsl-tagger index`` and ``zsl-tagger search`` do."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from zsl_tagger.choices import SearchFormat
from zsl_tagger.errors import UserError
from zsl_tagger.images.raw import PHOTO_SUFFIXES
from zsl_tagger.records.writers import bar
from zsl_tagger.search.library import Library
from zsl_tagger.search.rank import Ranking
from zsl_tagger.search.sheet import contact_sheet
from zsl_tagger.search.store import NoIndexError
from zsl_tagger.search.update import Counts
from zsl_tagger.system.files import write_whole
from zsl_tagger.system.signals import watching_signals
from zsl_tagger.system.untrusted_text import json_line, printable


@dataclass(frozen=True, kw_only=True)
class IndexRun:
    """The options of ``zsl-tagger index``, as given; None means not given."""

    paths: Sequence[str] | None = None
    index: Path | None = None
    model: Path | None = None
    workers: int | None = None
    prune: bool = False
    exclude_path: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """The options of ``zsl-tagger search``, as given; None means not given."""

    queries: Sequence[str]
    index: Path | None = None
    top: int = 20
    html: Path | None = None
    format: SearchFormat = "table"
    model: Path | None = None


def run_index(run: IndexRun) -> tuple[list[str], int]:
    """Bring the index up to date: what to tell, and how many photos could not be read.

    Raises:
        UserError: it cannot be carried out.
        KeyboardInterrupt: Ctrl-C came, or SIGTERM (``Terminated``), at a place where the run can end.
    """
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    with watching_signals() as stop, Library.open(run.index, run.model, run.workers) as library:
        counts = library.add(
            run.paths or (),
            prune=run.prune,
            exclude_path=run.exclude_path or (),
            stop=stop,
        )
        return [_told(counts, len(library))], counts.failed


def _told(counts: Counts, photos: int) -> str:
    changes = ", ".join(f"{name} {count:,}" for name, count in asdict(counts).items())
    return f"{photos:,} photos in the index: {changes}"


def run_search(run: SearchRun) -> list[str]:
    """Search, write the contact sheet where one is asked for, and return the lines to print.

    Raises:
        UserError: it cannot be carried out.
    """
    if run.top < 1:
        raise UserError(f"expected --top of at least 1, got {run.top}")
    if run.html is not None and run.html.suffix.lower() in PHOTO_SUFFIXES:
        raise UserError(f"--html {run.html} has the name of an image: give one such as sheet.html")
    try:
        with Library.open(run.index, run.model) as library:
            rankings = library.rank(run.queries, run.top)
    except NoIndexError as error:
        option = "" if run.index is None else f" --index {shlex.quote(str(run.index))}"
        raise UserError(f"no index at {error.folder}: make one with zsl-tagger index PHOTOS{option}") from None
    if run.html is not None:
        write_whole(run.html, contact_sheet(rankings).encode())
    return _LINES[run.format](rankings)


def _table(rankings: Sequence[Ranking]) -> list[str]:
    lines = []
    for ranking in rankings:
        lines.append(f"{ranking.query}: {ranking.counted()}")
        rows = [(one, _shown(one.path)) for one in ranking.found]
        width = max((len(path) for _, path in rows), default=0)
        below = False
        for one, path in rows:
            if not one.passes and not below:
                lines.append("  below the threshold:")
            below = not one.passes
            lines.append(f"  {path:<{width}}  {one.score:.2f}  {bar(one.score)}")
    return lines


def _shown(path: str) -> str:
    """Return a path that a person can read, relative to the current folder where the photo lies below it."""
    with suppress(ValueError, OSError):
        path = str(Path(path).relative_to(Path.cwd()))
    return printable(path)


def _json(rankings: Sequence[Ranking]) -> list[str]:
    lines = _json_lines(rankings)
    return ["[", *(f"{line}," for line in lines[:-1]), *lines[-1:], "]"]


def _json_lines(rankings: Sequence[Ranking]) -> list[str]:
    return [json_line(ranking.as_dict()) for ranking in rankings]


_LINES: dict[SearchFormat, Callable[[Sequence[Ranking]], list[str]]] = {
    "table": _table,
    "json": _json,
    "jsonl": _json_lines,
}

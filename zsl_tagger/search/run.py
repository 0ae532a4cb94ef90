"""Carry out ``zsl-tagger index``, ``zsl-tagger search`` and ``zsl-tagger suggest``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_tagger.choices import Engine, SearchFormat, SuggestFormat
from zsl_tagger.errors import UserError
from zsl_tagger.images.raw import PHOTO_SUFFIXES
from zsl_tagger.records.writers import bar
from zsl_tagger.reports.text import WIDTH, aligned
from zsl_tagger.search.library import Library
from zsl_tagger.search.rank import Ranking
from zsl_tagger.search.store import NoIndexError
from zsl_tagger.search.update import Counts
from zsl_tagger.system.files import write_whole
from zsl_tagger.system.signals import watching_signals
from zsl_tagger.system.untrusted_text import json_line, printable

if TYPE_CHECKING:
    from zsl_tagger.search.suggest import NearDuplicates, Suggestions

#: Number of photos of a group of near-duplicates that the table shows; JSON has all.
MOST_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class IndexRun:
    """Hold the options of ``zsl-tagger index``, as given; None means not given."""

    paths: Sequence[str] | None = None
    index: Path | None = None
    model: Path | None = None
    workers: int | None = None
    prune: bool = False
    exclude_path: Sequence[str] | None = None
    engine: Engine = "local"


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """Hold the options of ``zsl-tagger search``, as given; None means not given."""

    queries: Sequence[str]
    index: Path | None = None
    top: int = 20
    html: Path | None = None
    format: SearchFormat = "table"
    model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SuggestRun:
    """Hold the options of ``zsl-tagger suggest``, as given; None means not given."""

    index: Path | None = None
    top: int = 10
    least: int = 3
    format: SuggestFormat = "table"
    model: Path | None = None


def run_index(run: IndexRun) -> tuple[list[str], int]:
    """Update the index; return the lines to print, and the number of photos that could not be read.

    Raises:
        UserError: the command cannot be carried out.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM (``Terminated``), between two photos.
    """
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    with watching_signals() as stop, Library.open(run.index, run.model, run.workers) as library:
        counts = library.add(
            run.paths or (),
            prune=run.prune,
            exclude_path=run.exclude_path or (),
            stop=stop,
            engine=run.engine,
        )
        return [_summary(counts, len(library))], counts.failed


def _summary(counts: Counts, photos: int) -> str:
    changes = ", ".join(f"{name} {count:,}" for name, count in asdict(counts).items())
    return f"{photos:,} photos in the index: {changes}"


def run_search(run: SearchRun) -> list[str]:
    """Search, write the contact sheet if requested, and return the lines to print.

    Raises:
        UserError: the command cannot be carried out.
    """
    if run.top < 1:
        raise UserError(f"expected --top of at least 1, got {run.top}")
    if run.html is not None and run.html.suffix.lower() in PHOTO_SUFFIXES:
        raise UserError(f"--html {run.html} has the name of an image: give one such as sheet.html")
    try:
        with Library.open(run.index, run.model) as library:
            rankings = library.rank(run.queries, run.top)
    except NoIndexError as error:
        raise _no_index(error, run.index) from None
    if run.html is not None:
        from zsl_tagger.search.sheet import contact_sheet  # loads the image libraries

        write_whole(run.html, contact_sheet(rankings).encode())
    return _LINES[run.format](rankings)


def _no_index(error: NoIndexError, index: Path | None) -> UserError:
    option = "" if index is None else f" --index {shlex.quote(str(index))}"
    return UserError(f"no index at {error.folder}: make one with zsl-tagger index PHOTOS{option}")


def run_suggest(run: SuggestRun) -> list[str]:
    """Return the lines to print: photos and words of an index to review.

    Raises:
        UserError: the command cannot be carried out.
    """
    for option, value in (("--top", run.top), ("--least", run.least)):
        if value < 1:
            raise UserError(f"expected {option} of at least 1, got {value}")
    try:
        with Library.open(run.index, run.model) as library:
            suggestions = library.suggest(run.top, run.least)
    except NoIndexError as error:
        raise _no_index(error, run.index) from None
    return _SUGGESTED[run.format](suggestions)


def _suggested(found: Suggestions) -> list[str]:
    untagged = [[f"{one.score:.2f} {one.nearest}", one.path] for one in found.untagged]
    words = [[one.word, f"{one.photos:,}", one.example] for one in found.words]
    lines = [
        f"{found.untagged_photos:,} of {found.photos:,} photos have no tag; the nearest tag of each:",
        *_with_paths(untagged),
        f"{found.duplicate_groups:,} groups of near-duplicates:",
        *(line for group in found.duplicates for line in _group(group)),
        f"{len(words)} words that stand out but are not tags yet, with the minimum number of photos:",
        *_with_paths(words),
    ]
    if words:
        some = shlex.quote(",".join(one.word for one in found.words[:2]))
        lines.append(f"to tag with them: zsl-tagger tag PHOTOS --labels {some}")
        lines.append(f"to look at one: zsl-tagger search {shlex.quote(words[0][0])}")
    return lines


def _group(group: NearDuplicates) -> list[str]:
    what = "the same file" if group.same_file else f"similarity {group.similarity:.3f}"
    more = len(group.paths) - MOST_SHOWN
    lines = [f"  {len(group.paths)} photos, {what}", *_with_paths([["", path] for path in group.paths[:MOST_SHOWN]])]
    return [*lines, f"    and {more} more"] if more > 0 else lines


def _with_paths(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return indented lines of at most ``WIDTH`` characters; the last cell is a path, shortened at its start."""
    before = aligned([row[:-1] for row in rows]) if rows else []
    width = max(map(len, before), default=0)
    room = WIDTH - 4 - width
    shown = [_shown(row[-1]) for row in rows]
    ends = [path if len(path) <= room else f"...{path[3 - room :]}" for path in shown]
    return [f"  {cells:<{width}}  {end}" for cells, end in zip(before, ends, strict=True)]


def _suggested_json(found: Suggestions) -> list[str]:
    return [json_line(found.to_json())]


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
    """Return a printable path, relative to the current folder if the photo is inside it."""
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

_SUGGESTED: dict[SuggestFormat, Callable[[Suggestions], list[str]]] = {"table": _suggested, "json": _suggested_json}

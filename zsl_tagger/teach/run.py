"""Carry out ``zsl-tagger teach``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.images.finding import find_images
from zsl_tagger.images.raw import PHOTO_SUFFIXES
from zsl_tagger.records.record import Record
from zsl_tagger.reports.text import aligned
from zsl_tagger.search.library import Library
from zsl_tagger.search.rank import Ranking
from zsl_tagger.search.sheet import contact_sheet
from zsl_tagger.search.store import INDEX_FILE, LibraryError
from zsl_tagger.search.store import default_folder as default_index
from zsl_tagger.sidecars.reading import read_keywords
from zsl_tagger.system.files import write_whole
from zsl_tagger.system.threads import default_workers
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.tagging.taught import TaughtFolder, TaughtTag, default_folder, read_tags, write_tags
from zsl_tagger.tagging.teaching import LEAST_EXAMPLES, is_known_word
from zsl_tagger.teach.from_library import teach_keywords

logger = logging.getLogger(__name__)

#: Default minimum number of photos of a keyword to teach.
LEAST_PHOTOS = 5
#: Maximum number of photos on a contact sheet.
PHOTOS_ON_SHEET = 200
#: Maximum number of photos on it that do not reach the threshold.
BELOW_THRESHOLD = 20


@dataclass(frozen=True, kw_only=True)
class TeachRun:
    """Hold the options of ``zsl-tagger teach``, as given; None means not given."""

    name: str | None = None
    photos: Sequence[str] | None = None
    negatives: Sequence[str] | None = None
    like: str | None = None
    new: bool = False
    model: Path | None = None
    index: Path | None = None
    output: Path | None = None
    list_tags: bool = False
    remove: str | None = None
    export: Path | None = None
    import_: Path | None = None
    from_library: Path | None = None
    least: int = LEAST_PHOTOS


def run_teach(run: TeachRun) -> list[str]:
    """Teach a tag, or list, remove, export or import tags; return the lines to print.

    Raises:
        UserError: the command cannot be carried out; nothing was changed.
    """
    _check(run)
    folder = TaughtFolder(default_folder())
    if run.list_tags:
        return _listed(folder.tags())
    if run.remove is not None:
        with folder.kept():
            gone = folder.remove(run.remove)
        return [f"removed: {gone[0].name}, taught with {_photos(len(gone[0].examples))}"]
    if run.export is not None:
        return _exported(folder, run.export, run.name)
    if run.import_ is not None:
        return _imported(folder, run.import_)
    if run.from_library is not None:
        return _from_library(run, run.from_library)
    return _teach(run)


def _check(run: TeachRun) -> None:
    other = {
        "--list": run.list_tags,
        "--remove": run.remove is not None,
        "--export": run.export is not None,
        "--import": run.import_ is not None,
        "--from-library": run.from_library is not None,
    }
    given = [option for option, is_given in other.items() if is_given]
    if len(given) > 1:
        raise UserError(f"give {given[0]} or {given[1]}, not both")
    lesson = run.photos or run.negatives or run.like or run.new or run.output or (run.name and not run.export)
    if given and lesson:
        raise UserError(f"{given[0]} takes no name, no photos and none of their options: leave them out")
    if run.least < LEAST_EXAMPLES:
        raise UserError(f"expected --least of at least {LEAST_EXAMPLES}, got {run.least}")
    if not given and not run.name:
        raise UserError('expected a name and photos that show it: zsl-tagger teach "our cat" a.jpg b.jpg c.jpg')
    if run.name and not given and Path(run.name).exists():
        raise UserError(
            f'{run.name} is a file or folder; the name comes first: zsl-tagger teach "our cat" {shlex.quote(run.name)}'
        )
    if run.output is not None and run.output.suffix.lower() in PHOTO_SUFFIXES:
        raise UserError(f"--output {run.output} has the name of an image: give one such as sheet.html")


def _teach(run: TeachRun) -> list[str]:
    assert run.name is not None
    positives, negatives = list(_photos_of(run.photos or ())), list(_photos_of(run.negatives or ()))
    with _library(run) as library:
        tagger = Tagger(run.model, default_workers()) if library is None else library.tagger
        if is_known_word(tagger, run.name):
            new = f"{run.name} (taught)"
            logger.info(
                "%s",
                f"the model knows the word {run.name!r}, which is kept; the new tag is {new!r}"
                if run.new
                else f"the model knows the word {run.name!r}, which is refined; --new keeps it and teaches {new!r}",
            )
        tag = tagger.teach(
            run.name,
            positives,
            negatives,
            like=run.like,
            new=run.new,
            library=library,
        )
        lines = _quality(tag)
        if library is not None:
            ranking = library.rank([tag.name], PHOTOS_ON_SHEET if run.output else 1)[0]
            lines += _in_library(tag, ranking, run.output)
    return [*lines, f"it can be used like any other word: zsl-tagger tag PHOTOS --labels {shlex.quote(tag.name)}"]


def _from_library(run: TeachRun, folder: Path) -> list[str]:
    counts = read_keywords([str(folder)], default_workers())
    with _library(run) as library:
        tagger = Tagger(run.model, default_workers()) if library is None else library.tagger
        return teach_keywords(tagger, counts, run.least, library).lines()


def _photos_of(paths: Sequence[str]) -> Iterator[str]:
    """Yield the photos of files, folders and globs; log paths that cannot be read."""
    for item in find_images(paths):
        if isinstance(item, Record):
            logger.warning("%s: %s; skipped", item.path, item.error)
        else:
            yield item


@contextmanager
def _library(run: TeachRun) -> Iterator[Library | None]:
    """Yield the given index, or the user's default index if it exists and has the same model; else None."""
    folder = run.index or default_index()
    if not (folder / INDEX_FILE).is_file():
        if run.index is not None or run.output is not None:
            where = "" if run.index is None else f" --index {shlex.quote(str(run.index))}"
            raise UserError(f"no index at {folder}: make one with zsl-tagger index PHOTOS{where}")
        yield None
        return
    try:
        library = Library.open(run.index, run.model)
    except LibraryError as error:
        if run.index is not None or run.output is not None:
            raise
        logger.warning("the index is not used: %s", error)
        yield None
        return
    with library:
        yield library


def _quality(tag: TaughtTag) -> list[str]:
    beside = len(tag.examples) - tag.positives
    against = f", {_photos(beside)} that {'does' if beside == 1 else 'do'} not show it" if beside else ""
    return [
        f"{tag.name}: taught with {_photos(tag.positives)}{against}",
        f"found {tag.found} of {tag.positives} of your own examples when left out one at a time",
    ]


def _in_library(tag: TaughtTag, ranking: Ranking, sheet: Path | None) -> list[str]:
    line = f"{ranking.counted()} of your library would get it"
    if sheet is None:
        return [f"{line}: look at them with zsl-tagger search {shlex.quote(tag.name)} --html sheet.html"]
    shown = replace(ranking, found=ranking.found[: ranking.passing + BELOW_THRESHOLD])
    write_whole(sheet, contact_sheet([shown]).encode())
    return [f"{line}: look at them in {sheet}"]


def _photos(count: int) -> str:
    return f"{count:,} photo{'' if count == 1 else 's'}"


def _listed(tags: Sequence[TaughtTag]) -> list[str]:
    if not tags:
        return ['no tag was taught yet: zsl-tagger teach "our cat" a.jpg b.jpg c.jpg']
    rows = [["tag", "examples", "against", "found", "like", "model"]]
    for tag in tags:
        against = len(tag.examples) - tag.positives
        rows.append(
            [
                tag.name,
                str(tag.positives),
                str(against),
                f"{tag.found} of {tag.positives}",
                tag.reader.word or "",
                tag.model[:12],
            ]
        )
    return aligned(rows)


def _exported(folder: TaughtFolder, path: Path, name: str | None) -> list[str]:
    tags = folder.tags() if name is None else folder.named(name)
    if not tags:
        raise UserError("no tag was taught yet: there is nothing to export")
    write_tags(path, tags)
    return [f"{path}: {', '.join(tag.name for tag in tags)}"]


def _imported(folder: TaughtFolder, path: Path) -> list[str]:
    tags = read_tags(path)
    with folder.kept():
        for tag in tags:
            folder.save(tag)
    return [f"imported: {', '.join(tag.name for tag in tags)}"]

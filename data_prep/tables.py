"""Read your own table: CSV or Parquet with a column of image paths and a column of tags."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_prep.folders import SPLIT_NAMES
from data_prep.source import Found, Protocol, Source, targets_of
from data_prep.text import read_text
from zsl_tagger.datasets.format import label_fault, path_fault
from zsl_tagger.errors import UserError, first_line, require
from zsl_tagger.system.text_files import delimiter_of
from zsl_tagger.words.label_lists import composed


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns and separators of a table.

    Attributes:
        path, tags: column names.
        split: column with train, val or test; None for none.
        negatives: column of tags that are verified to be absent; tags in neither column are then unknown. None if tags
            are complete.
        separator: separator of tags in a cell (a Parquet column may contain lists instead).
        delimiter: separator of columns in a CSV file; None to detect it in the first line.
    """

    path: str = "path"
    tags: str = "tags"
    split: str | None = None
    separator: str = ","
    delimiter: str | None = None
    negatives: str | None = None

    def __post_init__(self) -> None:
        if not self.separator:
            raise UserError("expected a --separator, got an empty text")
        if self.delimiter is not None and len(self.delimiter.replace("\\t", "\t")) != 1:
            raise UserError(f"expected --delimiter of one character, got {self.delimiter!r}")


@dataclass(frozen=True, kw_only=True)
class Table(Source):
    """Options of a table.

    Attributes:
        image_root: folder to which paths are relative; None for the folder of the table.
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
        keep_unlabelled: keep images without tags; otherwise they are dropped.
    """

    command = "table"

    image_root: Path | None = None
    unseen: str = ""
    columns: Columns = field(default_factory=Columns)
    keep_unlabelled: bool = False

    def identity(self) -> dict[str, Any]:
        identity = {**super().identity(), "image_root": str(self._root())}
        if self.columns.negatives is None:
            del identity["columns"]["negatives"]  # missing in older folders
        return identity

    def _root(self) -> Path:
        return (self.image_root or self.source.parent).resolve()

    def read(self, output: Path, /) -> Found:
        if not self.source.is_file():
            raise UserError(f"no file at {self.source}: expected a CSV or Parquet table")
        if self.source.resolve().parent == output.resolve():
            raise UserError(
                f"--output {output} is the folder of the table, which might be overwritten: give another one"
            )
        paths, tag_lists, splits, negatives = _read(self.source, self.columns)
        labels = sorted({tag for tags in tag_lists for tag in tags})
        if not labels:
            raise UserError(f"{self.source}: the column {self.columns.tags!r} has no tags")
        return Found(
            name=self.source.stem,
            image_root=self._root(),
            paths=paths,
            labels=labels,
            targets=targets_of(tag_lists, labels),
            negatives=None if negatives is None else targets_of(negatives, labels),
            splits=np.array(splits, "<U5"),
            choose_unseen=self.unseen,
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts={"rows": len(paths), "tags": len(labels), "images_without_tags": sum(not tags for tags in tag_lists)},
        )


def _read(source: Path, columns: Columns) -> tuple[list[str], list[list[str]], list[str], list[list[str]] | None]:
    """Return paths, tags, splits and negatives (None: no such column), one row per image; errors name the line."""
    paths, tag_lists, splits, negatives = [], [], [], []
    first: dict[str, str] = {}
    rows = _parquet_rows(source, columns) if source.suffix.lower() == ".parquet" else _csv_rows(source, columns)
    for where, written, tags, absent, split in rows:
        path = PurePosixPath(written).as_posix() if written else ""  # without "./"
        if fault := path_fault(path):
            raise UserError(f"{where}: {fault}")
        if path in first:
            raise UserError(f"{where}: the image {path!r} is already listed in {first[path]}")
        tags, absent = _checked(tags, where), _checked(absent, where)
        if both := sorted(set(tags).intersection(absent)):
            raise UserError(
                f"{where}: the tag {both[0]!r} is both in the column {columns.tags!r} and in {columns.negatives!r}: "
                "take it out of one of them"
            )
        if split and split.lower() not in SPLIT_NAMES:
            raise UserError(f"{where}: expected a split of train, val, test; got {split!r}")
        first[path] = where
        paths.append(path)
        tag_lists.append(tags)
        negatives.append(absent)
        splits.append(SPLIT_NAMES[split.lower()] if split else "")
    if not paths:
        raise UserError(f"{source} has no rows")
    if columns.negatives is None:
        return paths, tag_lists, splits, None
    _check_negatives(negatives, tag_lists, list(first.values()), columns)
    return paths, tag_lists, splits, negatives


def _checked(tags: list[str], where: str) -> list[str]:
    """Return the tags of a cell as sorted, distinct labels."""
    tags = sorted({composed(tag) for tag in tags})
    for tag in tags:
        if fault := label_fault(tag):
            raise UserError(f"{where}: the tag {tag!r} {fault}: rename it, or give another --separator")
    return tags


def _check_negatives(
    negatives: list[list[str]], tag_lists: list[list[str]], places: list[str], columns: Columns
) -> None:
    """Raise a UserError for an absent tag that is on no image, which is probably misspelled."""
    known = {tag for tags in tag_lists for tag in tags}
    for where, absent in zip(places, negatives, strict=True):
        for tag in absent:
            if tag not in known:
                near = difflib.get_close_matches(tag, sorted(known), n=3)
                nearest = f" (the nearest are {', '.join(map(repr, near))})" if near else ""
                raise UserError(
                    f"{where}: {tag!r} of the column {columns.negatives!r} is not a tag of any image{nearest}: "
                    "correct it, or take it out"
                )


Row = tuple[str, str, list[str], list[str], str]  # (file and line, path, tags, absent tags, split or "")


def _csv_rows(source: Path, columns: Columns) -> Iterator[Row]:
    text = read_text(source)
    head = text.partition("\n")[0]
    if not text:
        raise UserError(f"{source} is empty: expected a header with the columns {columns.path!r} and {columns.tags!r}")
    delimiter = (columns.delimiter or delimiter_of(head)).replace("\\t", "\t")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        at = {name: index for index, name in enumerate(header)}
        _check_columns(source, columns, header)
        for row in reader:
            where = f"{source}:{reader.line_num}"
            if not any(row):
                continue
            if len(row) != len(header):
                raise UserError(f"{where}: expected {len(header)} columns, got {len(row)}"
                                " (tags with commas need quotes around them)")  # fmt: skip
            split = row[at[columns.split]].strip() if columns.split else ""
            tags, absent = (
                _split_cell(row[at[name]], columns.separator) if name else []
                for name in (columns.tags, columns.negatives)
            )
            yield where, row[at[columns.path]].strip(), tags, absent, split
    except csv.Error as error:
        raise UserError(f"{source}:{reader.line_num}: is not valid CSV: {error}") from None


def _parquet_rows(source: Path, columns: Columns) -> Iterator[Row]:
    require("pandas", "train")
    import pandas

    try:
        table = pandas.read_parquet(source)
    except Exception as error:  # pyarrow raises its own exceptions
        raise UserError(f"{source} is not a readable Parquet file: {first_line(error)}") from None
    _check_columns(source, columns, [str(name) for name in table.columns])
    table.columns = [str(name) for name in table.columns]
    splits = table[columns.split] if columns.split else [None] * len(table)
    negatives = table[columns.negatives] if columns.negatives else [None] * len(table)
    rows = zip(table[columns.path], table[columns.tags], negatives, splits, strict=True)
    for number, (path, tags, absent, split) in enumerate(rows, start=1):
        where = f"{source}: row {number}"
        yield (
            where,
            _text(path, where).strip(),
            _listed(tags, where, columns.separator),
            _listed(absent, where, columns.separator),
            _text(split, where).strip(),
        )


def _listed(tags: Any, where: str, separator: str) -> list[str]:
    """Return the tags of a Parquet cell, which is a list or text."""
    listed = isinstance(tags, (list, tuple, np.ndarray))
    texts = [_text(tag, where) for tag in tags] if listed else _split_cell(_text(tags, where), separator)
    return [tag.strip() for tag in texts if tag.strip()]


def _text(value: Any, where: str) -> str:
    """Return a cell as text; "" if it is missing."""
    import pandas

    if value is None or (pandas.api.types.is_scalar(value) and pandas.isna(value)):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)  # class numbers in a column with gaps
    if not isinstance(value, (str, int, np.integer)):
        raise UserError(f"{where}: expected text or lists of text, got {type(value).__name__}")
    return str(value)


def _check_columns(source: Path, columns: Columns, header: list[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{source}: duplicate columns {', '.join(map(repr, repeated))}")
    options = ("path", columns.path), ("tags", columns.tags), ("split", columns.split), ("negatives", columns.negatives)
    for option, name in options:
        if name is not None and name not in header:
            raise UserError(
                f"{source}: no column {name!r}, it has {', '.join(map(repr, header))}: give --{option}-column"
            )


def _split_cell(cell: str, separator: str) -> list[str]:
    """Split ``"dog, beach"`` into ``["dog", "beach"]``; brackets and quotes around tags are removed."""
    inside = cell.strip()
    if inside.startswith("[") and inside.endswith("]"):
        inside = inside[1:-1]
    return [tag for part in inside.split(separator) if (tag := part.strip().strip("'\"").strip())]

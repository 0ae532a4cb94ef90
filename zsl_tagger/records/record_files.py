"""Open the files of records that a stopped run resumes: JSON Lines, CSV, Parquet or SQLite.

A record is added whole, in the order of the run, and later runs skip what is done: the same path with the same content.
Whatever ends a run, at most the records in hand are missing: a torn last record is dropped when the next run starts.
Beside ``tags.jsonl`` lies ``tags.jsonl.settings.json``, which says how its records were made. A file holds one record a
path; where a later one takes its place, both are there until the run ends, and the later one counts.
"""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.records.base import RecordFile, Settings
from zsl_tagger.records.parquet_file import ParquetFile, journal_of
from zsl_tagger.records.text import CsvFile, JsonLinesFile
from zsl_tagger.records.writers import LASTING, WRITERS

#: Text of more bytes is not replaced unasked: about a minute of tagging. A database or Parquet file never is.
LONG = 100_000


def open_record_file(kind: str, path: Path, settings: Settings, resume: bool) -> RecordFile:
    """Return the file for one of the formats ``LASTING``, to be entered with ``with``."""
    if kind == "sqlite":
        from zsl_tagger.records.sqlite import SqliteFile

        return SqliteFile(path, settings, resume)
    return {"jsonl": JsonLinesFile, "csv": CsvFile, "parquet": ParquetFile}[kind](path, settings, resume)


def check_not_lost(kind: str, path: Path) -> None:
    """Raise a UserError where a new run would replace what took long to make."""
    there = [file for file in (path, journal_of(path)) if file.is_file()]
    size = max((file.stat().st_size for file in there), default=0)
    if size > (LONG if kind in WRITERS else 0):
        goes_on = "--resume goes on with it, " if kind in LASTING else ""
        raise UserError(f"{there[0]} is there already, {size:,} bytes: {goes_on}--overwrite replaces it")

"""Open record files that a stopped run can resume: JSON Lines, CSV, Parquet or SQLite.

Records are appended whole, in the order of the run, and later runs skip what is done: the same path with the same
content. However a run ends, at most the records in progress are missing: an incomplete last record is dropped when the
next run starts. ``tags.jsonl.settings.json`` next to ``tags.jsonl`` stores the settings its records depend on. A file
holds one record per path; if a later one replaces it, both are present until the run ends, and the later one counts.
"""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.records.base import RecordFile, Settings
from zsl_tagger.records.parquet_file import ParquetFile, journal_of
from zsl_tagger.records.text import CsvFile, JsonLinesFile
from zsl_tagger.records.writers import LASTING, WRITERS

#: Larger text files (a minute of tagging) are not replaced without --overwrite, databases and Parquet files never.
LONG = 100_000


def open_record_file(kind: str, path: Path, settings: Settings, resume: bool) -> RecordFile:
    """Return the record file for a format of ``LASTING``; enter it with ``with``."""
    if kind == "sqlite":
        from zsl_tagger.records.sqlite import SqliteFile

        return SqliteFile(path, settings, resume)
    return {"jsonl": JsonLinesFile, "csv": CsvFile, "parquet": ParquetFile}[kind](path, settings, resume)


def check_not_lost(kind: str, path: Path) -> None:
    """Raise a UserError if a new run would replace the result of much work."""
    there = [file for file in (path, journal_of(path)) if file.is_file()]
    size = max((file.stat().st_size for file in there), default=0)
    if size > (LONG if kind in WRITERS else 0):
        resume = "--resume continues it, " if kind in LASTING else ""
        raise UserError(f"{there[0]} already exists, {size:,} bytes: {resume}--overwrite replaces it")

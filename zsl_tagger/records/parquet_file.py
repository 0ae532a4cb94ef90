"""Parquet file of records, written from a journal at the end of a run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from zsl_tagger.errors import require
from zsl_tagger.records.base import RecordFile, Settings, ended_in_order
from zsl_tagger.records.text import JsonLinesFile
from zsl_tagger.system.files import json_bytes, write_whole


class ParquetFile(JsonLinesFile):
    """Record file in Parquet, which cannot be appended to: records go to a journal and are converted at the end.

    The journal is ``tags.parquet.journal.jsonl``. A resumed run continues it; if it is gone, it is rebuilt from the
    Parquet file first.
    """

    def __init__(self, path: Path, settings: Settings, resume: bool):
        super().__init__(journal_of(path), settings, resume)
        self.output = path

    def __enter__(self) -> RecordFile:
        require("pyarrow", "parquet")  # fail before the work, not after it
        from zsl_tagger.records import parquet as parquet_records

        if self.resume and not self.path.exists() and self.output.exists():
            count, held, records = parquet_records.read(self.output)
            if count:
                self._check_settings(held)
                write_whole(self.settings_path, json_bytes(held))
                write_whole(self.path, lambda file: file.writelines(map(self.to_bytes, records)))
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from zsl_tagger.records import parquet as parquet_records

        super().__exit__(kind, error, trace)
        if not ended_in_order(kind):
            return
        with self.path.open("rb") as file:
            records = (found.record for found in self.read(file) if found.record is not None)
            write_whole(self.output, lambda target: parquet_records.write(target, records, self.settings))
        self.path.unlink()
        self.settings_path.unlink()


def journal_of(parquet: Path) -> Path:
    """Return the path of a Parquet file's journal, which holds the records until the end of the run."""
    return parquet.with_name(f"{parquet.name}.journal.jsonl")

"""Write records as text: a table for people; JSON Lines, JSON and CSV for programs.

Use a writer as ``with Writer(stream) as write: write(record)``. The output is valid at any time: records are written
whole and flushed, and an interrupted JSON array is closed.
"""

from __future__ import annotations

import csv
from types import TracebackType
from typing import TextIO

from zsl_tagger.choices import Format
from zsl_tagger.records.record import Record
from zsl_tagger.system.untrusted_text import json_line, printable, spreadsheet_cell

BAR_WIDTH = 20


def as_utf8(text: str) -> str:
    """Return a file name with non-UTF-8 bytes as ``\\udcXX``, as written to all files; other text is unchanged."""
    return text.encode("utf-8", "backslashreplace").decode()


class JsonLinesWriter:
    """Write one JSON object per line."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __enter__(self) -> JsonLinesWriter:
        return self

    def __call__(self, record: Record) -> None:
        self.stream.write(json_line(record.as_dict()) + "\n")
        self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.flush()


class JsonWriter(JsonLinesWriter):
    """Write one JSON array."""

    _separator = "[\n"

    def __call__(self, record: Record) -> None:
        self.stream.write(self._separator + json_line(record.as_dict()))
        self._separator = ",\n"
        self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self.stream.flush()


class CsvWriter(JsonLinesWriter):
    """Write one row per tag: ``path,label,score,error``; an image without tags has one row with an empty label.

    Text that a spreadsheet would run as a formula gets an apostrophe. The CSV file that a stopped run can resume
    (:class:`zsl_tagger.records.text.CsvFile`) keeps all names exactly.
    """

    def __enter__(self) -> CsvWriter:
        self._cell = printable if self.stream.isatty() else spreadsheet_cell
        self._rows = csv.writer(self.stream, lineterminator="\r\n")
        self._rows.writerow(["path", "label", "score", "error"])
        return self

    def __call__(self, record: Record) -> None:
        path, error = self._cell(record.path), self._cell(record.error or "")
        rows = [[path, self._cell(tag.label), f"{tag.score:.4f}", error] for tag in record.tags]
        self._rows.writerows(rows or [[path, "", "", error]])
        self.stream.flush()


class TableWriter(JsonLinesWriter):
    """Write the path, then one line per tag with its score and a bar.

    An image without tags takes one line. These lines are held back until the first image with a tag; if there is none,
    a single line at the end summarises them.
    """

    def __enter__(self) -> TableWriter:
        self._untagged, self._any_tags = 0, False
        self._waiting: list[str] = []
        return self

    def __call__(self, record: Record) -> None:
        path = printable(record.path)
        if record.error is None and not record.tags:
            self._untagged += 1
            self._waiting.append(f"{path}: no tags")
            if self._any_tags:
                self._write(self._released())
            return
        lines = [path] if record.error is None else [path, f"  error: {printable(record.error)}"]
        rows = [(printable(tag.label), tag.score) for tag in record.tags]
        width = max((len(label) for label, _ in rows), default=0)
        lines += [f"  {label:<{width}}  {score:.2f}  {bar(score)}" for label, score in rows]
        self._any_tags = self._any_tags or bool(rows)
        self._write([*self._released(), *lines] if self._any_tags else lines)

    def _summary(self) -> str:
        if self._any_tags:
            return "no tags"
        return self._waiting[0] if self._untagged == 1 else f"no tags on any of {self._untagged:,} photos"

    def _released(self) -> list[str]:
        lines, self._waiting = self._waiting, []
        return lines

    def _write(self, lines: list[str]) -> None:
        self.stream.write("\n".join(lines) + "\n")
        self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._untagged:
            self._write([f"{self._summary()}: no label reaches its threshold; --threshold 0 shows all scores"])
        super().__exit__(kind, error, trace)


def bar(score: float) -> str:
    """Return a score as a text bar."""
    return "█" * max(1, round(score * BAR_WIDTH))


WRITERS = {"table": TableWriter, "json": JsonWriter, "jsonl": JsonLinesWriter, "csv": CsvWriter}
#: Formats of files that a stopped run can resume (:mod:`zsl_tagger.records.record_files`).
LASTING = ("jsonl", "csv", "parquet", "sqlite")
#: Output format by file suffix; ``table`` for any other suffix.
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".sqlite": "sqlite", ".db": "sqlite",
}  # fmt: skip

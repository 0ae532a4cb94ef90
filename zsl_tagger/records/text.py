"""Record files as text (JSON Lines, CSV): indexed by byte position, appended to, rewritten at the end."""

from __future__ import annotations

import csv
import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from zsl_tagger.errors import UserError
from zsl_tagger.records.base import RecordFile, Settings, ended_in_order
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import as_utf8
from zsl_tagger.system.files import json_bytes, open_unlinked, parse_json, write_whole
from zsl_tagger.system.untrusted_text import json_line

logger = logging.getLogger(__name__)


class Held(NamedTuple):
    """Summary of a record in a text file, and its byte range."""

    sha256: bytes | None
    error: str  # "" for none
    start: int
    end: int


class Found(NamedTuple):
    """A record parsed from the file; None if the bytes up to ``end`` are not a record."""

    record: Record | None
    end: int
    line: int  # line number of its start, from 1


class TextFile(RecordFile):
    """Record file of consecutive records; subclasses define how one is written and read."""

    header = b""

    def __init__(self, path: Path, settings: Settings, resume: bool):
        super().__init__(path, settings, resume)
        self.settings_path = path.with_name(f"{path.name}.settings.json")
        self._by_path: dict[str, Held] = {}
        self._by_content: dict[bytes, Held] = {}
        self._replaced: list[Held] = []
        self._reading = threading.Lock()

    def to_bytes(self, record: Record) -> bytes:
        raise NotImplementedError

    def read(self, file: BinaryIO) -> Iterator[Found]:
        """Yield the records from the current position, after the header, to the end."""
        raise NotImplementedError

    def __enter__(self) -> RecordFile:
        if not (self.resume and self._resumes()):
            with open_unlinked(self.path, "wb") as file:
                file.write(self.header)  # before the settings, which must not be stored next to other records
            write_whole(self.settings_path, json_bytes(self.settings))
        self._file = open_unlinked(self.path, "ab")
        self._stored = self.path.open("rb")
        return self

    def _resumes(self) -> bool:
        """Index the existing file; return False if it holds no record."""
        if not self.path.exists() or self.path.stat().st_size <= len(self.header):
            return False
        self._check_settings(self._read_settings())
        with open_unlinked(self.path, "rb+") as file:
            if file.read(len(self.header)) != self.header:
                raise UserError(f"{self.path}: expected its first line to be {self.header.decode().strip()}")
            end = self._look_at(file)
            if dropped := self.path.stat().st_size - end:
                lost = f"its last {dropped:,} bytes were not a complete record; that image is tagged again"
                logger.info("%s: %s", self.path, lost)
                file.truncate(end)
        return True

    def _read_settings(self) -> Settings:
        try:
            return dict(parse_json(self.settings_path.read_bytes()))
        except (OSError, ValueError, TypeError):
            raise UserError(
                f"cannot resume {self.path}: {self.settings_path.name}, which stores its settings, is missing "
                "or unreadable: give another --output, or --overwrite"
            ) from None

    def _look_at(self, file: BinaryIO) -> int:
        """Index each record; return where the last complete one ends."""
        end, torn = file.tell(), 0
        for found in self.read(file):
            if found.record is None:
                torn = torn or found.line
            elif torn:
                raise UserError(
                    f"{self.path}: line {torn} is damaged, and records follow it: fix or delete it, or give --overwrite"
                )
            else:
                self._remember(found.record, end, found.end)
                end = found.end
        return end

    def _remember(self, record: Record, start: int, end: int) -> None:
        digest = bytes.fromhex(record.sha256) if record.sha256 else None
        held = Held(digest, as_utf8(record.error or ""), start, end)
        self._forget(record.path)
        self._by_path[as_utf8(record.path)] = held
        if digest is not None:
            self._by_content[digest] = held

    def _forget(self, path: str) -> None:
        before = self._by_path.pop(as_utf8(path), None)
        if before is not None:
            self._replaced.append(before)

    def is_done(self, path: str, sha256: str) -> bool:
        held = self._by_path.get(as_utf8(path))
        return held is not None and not held.error and held.sha256 == bytes.fromhex(sha256)

    def tags_of(self, sha256: str) -> list[Tag] | None:
        held = self._by_content.get(bytes.fromhex(sha256))
        if held is None:
            return None
        with self._reading:
            self._stored.seek(held.start)
            content = self._stored.read(held.end - held.start)
        record = next(self.read(io.BytesIO(content))).record
        return None if record is None else record.tags

    def sha256_of(self, path: str) -> str | None:
        held = self._by_path.get(as_utf8(path))
        return held.sha256.hex() if held is not None and not held.error and held.sha256 is not None else None

    def error_of(self, path: str) -> str | None:
        held = self._by_path.get(as_utf8(path))
        return None if held is None else held.error

    def add(self, record: Record) -> None:
        self._file.write(self.to_bytes(record))
        self._file.flush()
        self._forget(record.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._stored.close()
        if ended_in_order(kind) and self._replaced:
            self._leave_out_replaced()
        super().__exit__(kind, error, trace)

    def _leave_out_replaced(self) -> None:
        status = self.path.stat()
        size = status.st_size

        def copy(target: BinaryIO) -> None:
            with self.path.open("rb") as source:
                for start, end in [*sorted((held.start, held.end) for held in self._replaced), (size, size)]:
                    while (left := start - source.tell()) > 0:
                        target.write(source.read(min(left, 1 << 20)))
                    source.seek(end)

        write_whole(self.path, copy, like=status)


class JsonLinesFile(TextFile):
    """Record file with one JSON object per line: ``{"path", "sha256", "tags"}`` or ``{"path", "error"}``."""

    def to_bytes(self, record: Record) -> bytes:
        return f"{json_line(record.as_dict())}\n".encode()

    def read(self, file: BinaryIO) -> Iterator[Found]:
        end = file.tell()
        for number, line in enumerate(file, 1):
            end += len(line)
            yield Found(_from_json(line), end, number)


def _from_json(line: bytes) -> Record | None:
    try:
        content: dict[str, Any] = parse_json(line) if line.endswith(b"\n") else {}
        tags = [Tag(tag["label"], tag["score"]) for tag in content.get("tags", ())]
        if "error" in content:
            return Record(content["path"], tags, content["error"], content.get("sha256"))
        if "tags" not in content:
            return None
        return Record(content["path"], tags, sha256=content["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class CsvFile(TextFile):
    """Record file with one row per tag; ``n_tags`` is the number of rows of an image, to detect incomplete images.

    An image without tags has one row with ``n_tags`` 0.
    """

    columns = ("path", "label", "score", "error", "sha256", "n_tags")
    header = (",".join(columns) + "\r\n").encode()

    def to_bytes(self, record: Record) -> bytes:
        shared = [record.error or "", record.sha256 or "", len(record.tags)]
        rows = [[record.path, tag.label, f"{tag.score:.4f}", *shared] for tag in record.tags]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows or [[record.path, "", "", *shared]])
        return as_utf8(text.getvalue()).encode()

    def read(self, file: BinaryIO) -> Iterator[Found]:
        rows: list[_Row] = []  # rows of one image
        for row in _rows(file):
            if rows and (row.cells is None or _image_of(row) != _image_of(rows[0])):
                yield Found(None, rows[-1].end, rows[0].line)
                rows = []
            if row.cells is None:
                yield Found(None, row.end, row.line)
                continue
            rows.append(row)
            if len(rows) == max(1, int(row.cells[5])):
                yield Found(_from_rows(rows), row.end, rows[0].line)
                rows = []
        if rows:
            yield Found(None, rows[-1].end, rows[0].line)


class _Row(NamedTuple):
    cells: list[str] | None  # None: not a complete row
    end: int
    line: int


def _rows(file: BinaryIO) -> Iterator[_Row]:
    end, line, whole = file.tell(), 1, False  # the first line is the header

    def lines() -> Iterator[str]:
        nonlocal end, line, whole
        for content in file:
            end, line, whole = end + len(content), line + 1, content.endswith(b"\r\n")
            yield content.decode(errors="surrogateescape")

    reader = csv.reader(lines())
    while True:
        first = line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = []
        yield _Row(cells if whole and _is_row(cells) else None, end, first)


def _is_row(cells: list[str]) -> bool:
    try:
        return len(cells) == len(CsvFile.columns) and int(cells[5]) >= 0 and (not cells[1] or 0 <= float(cells[2]) <= 1)
    except ValueError:
        return False


def _image_of(row: _Row) -> list[str]:
    assert row.cells is not None
    return [row.cells[0], *row.cells[3:]]


def _from_rows(rows: list[_Row]) -> Record | None:
    cells = [row.cells for row in rows if row.cells is not None]
    path, _, _, error, sha256, _ = cells[0]
    tags = [Tag(label, float(score)) for _, label, score, *_ in cells if label]
    return Record(path, tags, error or None, sha256 or None)

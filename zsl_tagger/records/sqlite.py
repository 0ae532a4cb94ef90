"""Store records in an SQLite database: a table of photos and a table of tags, one transaction per photo.

>>> SELECT path, score FROM tags JOIN photos ON photos.id = tags.photo WHERE label = 'dog' ORDER BY score DESC;
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from zsl_tagger.errors import UserError
from zsl_tagger.records.base import RecordFile, ended_in_order
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import as_utf8
from zsl_tagger.system.files import parse_json

APPLICATION = 0x7A736C74  # "zslt" in the file header marks our databases
WAIT = 60  # seconds to wait for another program that writes to it

SCHEMA = """
CREATE TABLE photos (
    id INTEGER PRIMARY KEY,  -- in processing order
    path TEXT NOT NULL UNIQUE,
    sha256 TEXT,             -- of the file's content
    error TEXT               -- why it could not be read or its sidecar not written; NULL: none
);
CREATE INDEX photos_sha256 ON photos (sha256);
CREATE TABLE tags (
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    score REAL NOT NULL,     -- 0..1
    PRIMARY KEY (photo, label)
) WITHOUT ROWID;
CREATE INDEX tags_label ON tags (label, score);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT);  -- of the run, as JSON
"""


class SqliteFile(RecordFile):
    """Record file with tables ``photos(id, path, sha256, error)``, ``tags(photo, label, score)`` and ``settings``."""

    def __enter__(self) -> RecordFile:
        if not self.resume:
            for suffix in ("-wal", "-shm", ""):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._lock = threading.Lock()  # all threads share one connection
        with self._errors():
            self._database = sqlite3.connect(self.path, WAIT, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise
        return self

    def _open(self) -> None:
        execute = self._database.execute
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            if execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise UserError(f"{self.path} is the database of another program: give another --output")
            with self._transaction():
                for statement in SCHEMA.split(";\n"):
                    execute(statement)
                execute(f"PRAGMA application_id = {APPLICATION}")
        if execute("SELECT count(*) FROM photos").fetchone()[0]:
            self._check_settings(
                {name: parse_json(value) for name, value in execute("SELECT name, value FROM settings")}
            )
        execute("PRAGMA journal_mode = WAL")  # others can read while this writes; a killed run loses no transaction
        execute("PRAGMA synchronous = NORMAL")  # no flush per transaction: a power cut may lose the last ones
        execute("PRAGMA foreign_keys = ON")
        rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in self.settings.items()]
        with self._transaction():
            execute("DELETE FROM settings")
            self._database.executemany("INSERT INTO settings VALUES (?, ?)", rows)

    def is_done(self, path: str, sha256: str) -> bool:
        query = "SELECT 1 FROM photos WHERE path = ? AND sha256 = ? AND error IS NULL"
        return self.resume and bool(self._all(query, as_utf8(path), sha256))

    def tags_of(self, sha256: str) -> list[Tag] | None:
        if not self.resume:
            return None
        photos = self._all("SELECT id FROM photos WHERE sha256 = ? LIMIT 1", sha256)
        tags = "SELECT label, score FROM tags WHERE photo = ? ORDER BY score DESC"
        return [Tag(*row) for row in self._all(tags, *photos[0])] if photos else None

    def sha256_of(self, path: str) -> str | None:
        query = "SELECT sha256 FROM photos WHERE path = ? AND error IS NULL"
        found = self._all(query, as_utf8(path)) if self.resume else []
        return found[0][0] if found else None

    def error_of(self, path: str) -> str | None:
        found = self._all("SELECT coalesce(error, '') FROM photos WHERE path = ?", as_utf8(path))
        return found[0][0] if found else None

    def add(self, record: Record) -> None:
        error = None if record.error is None else as_utf8(record.error)
        with self._lock, self._errors(), self._transaction():
            execute = self._database.execute
            execute("DELETE FROM photos WHERE path = ?", (as_utf8(record.path),))
            row = (as_utf8(record.path), record.sha256, error)
            photo = execute("INSERT INTO photos (path, sha256, error) VALUES (?, ?, ?)", row).lastrowid
            tags = [(photo, as_utf8(tag.label), round(tag.score, 4)) for tag in record.tags]
            self._database.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            try:
                if ended_in_order(kind):
                    self._database.execute("PRAGMA journal_mode = DELETE")  # leave a single file that can be copied
            except sqlite3.Error:  # another program is reading it: keep WAL mode, which works as well
                pass
            finally:
                self._database.close()
        super().__exit__(kind, error, trace)

    def _all(self, query: str, *values: str | int) -> list[Any]:
        with self._lock, self._errors():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"cannot write {self.path} as an SQLite database: {error}") from None

"""The index of a photo library: a folder with one SQLite file.

==============  =====================================================================================================
``meta``        the model (its folder and fingerprint) and the vocabulary whose logits are stored
``roots``       the folders that were indexed
``photos``      a row a file: path, size and time of its last change, and which content it has
``contents``    a row for each different file content: its SHA-256 and the tokens (:mod:`zsl_tagger.search.packing`)
``scores``      the vocabulary's logits and the class probabilities of each content, apart from the tokens: a search
                reads these of all photos
``pooled``      of each content its tokens pooled over places, for taught tags; missing for what version 2 wrote
==============  =====================================================================================================

A photo is written in one transaction. The write-ahead log makes that cheap, lets searches go on meanwhile, and leaves
after a kill or a power cut what had been written. Paths are bytes: names of files need not be UTF-8.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.search.packing import pack_logits, unpack_logits, unpack_tokens
from zsl_tagger.system.files import parse_json
from zsl_tagger.system.user_data import user_folder
from zsl_tagger.tagging.pooled import pooled_tokens

INDEX_FILE = "index.db"
FORMAT_VERSION = 3
READ_VERSIONS = (2, 3)  # version 2 has no table `pooled`
_APPLICATION = 0x5A534C54  # "ZSLT"
_SCHEMA_OF_POOLED = "CREATE TABLE IF NOT EXISTS pooled (content INTEGER PRIMARY KEY, tokens BLOB NOT NULL)"
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE roots (path BLOB PRIMARY KEY);
CREATE TABLE contents (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, tokens BLOB NOT NULL);
CREATE TABLE scores (content INTEGER PRIMARY KEY, logits BLOB NOT NULL, classes BLOB NOT NULL);
{_SCHEMA_OF_POOLED};
CREATE TABLE photos (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, content INTEGER NOT NULL);
CREATE INDEX photos_of_content ON photos (content);
"""


class LibraryError(UserError):
    """An index that is missing, damaged or of another model; the message says what to do."""


class NoIndexError(LibraryError):
    """There is none yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        super().__init__(f"no index at {folder}: add photos to it first")


@dataclass(frozen=True)
class Made:
    """What an index was made with.

    Attributes:
        model: the model folder; None for the packaged model.
        fingerprint: of its networks and of what is asked for the labels.
        labels: the V labels whose logits are stored.
    """

    model: str | None
    fingerprint: str
    labels: list[str]


class Known(NamedTuple):
    """A photo of the index, as it was when it was looked at."""

    size: int
    mtime_ns: int
    content: int


class AllLogits(NamedTuple):
    """The vocabulary's logits of N contents, which is ``levels * step + low``, and their C class probabilities."""

    contents: np.ndarray  # int64 (N,)
    copies: np.ndarray  # int64 (N,), photos with this content
    levels: np.ndarray  # uint8 (N, V)
    step: np.ndarray  # float32 (N,)
    low: np.ndarray  # float32 (N,)
    classes: np.ndarray  # uint8 (N, C), packed; C is 0 of a model without class evidence


def default_folder() -> Path:
    """Return where the index is unless a folder is given: in the user's data folder of this system."""
    return user_folder("library")


class Store:
    """An index, opened; close it, or use it in a ``with``.

    Args:
        folder: where it is.
        made: to write: what it is made with, should it be new. None: to read.

    Raises:
        LibraryError: there is none, it is damaged, or it cannot be opened.
    """

    def __init__(self, folder: Path, made: Made | None = None):
        self.folder, self.path = folder, folder / INDEX_FILE
        if made is None and not self.path.is_file():
            raise NoIndexError(folder)
        with self._told():
            self._database = self._to_read() if made is None else self._to_write(made)
            try:
                self.made = self._read_made()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _to_read(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        # A server reads on one thread at a time, but not always on the same one.
        options: dict[str, Any] = {"isolation_level": None, "uri": True, "check_same_thread": False}
        database = sqlite3.connect(address, timeout=30, **options)
        try:
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
            return database
        except sqlite3.OperationalError:  # nothing can be written there, not even what guards the log
            database.close()
            log = self.path.with_name(f"{INDEX_FILE}-wal")
            if log.exists() and log.stat().st_size:
                raise
            return sqlite3.connect(f"{address}&immutable=1", **options)

    def _to_write(self, made: Made) -> sqlite3.Connection:
        if self.path.is_symlink():  # SQLite would follow it
            raise LibraryError(f"{self.path} is a symbolic link, which could lead anywhere: delete it")
        self._database = database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("PRAGMA page_size = 8192")  # holds the logits of three photos
            database.execute("PRAGMA journal_mode = WAL")
            with self.transaction():
                for statement in _SCHEMA.strip().split("\n"):
                    database.execute(statement)
                rows = [(name, json.dumps(value)) for name, value in asdict(made).items()]
                database.executemany("INSERT INTO meta VALUES (?, ?)", rows)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        elif database.execute("PRAGMA user_version").fetchone()[0] == 2:
            with self.transaction():
                database.execute(_SCHEMA_OF_POOLED)
                database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        database.execute("PRAGMA synchronous = NORMAL")  # the disk is waited for when the log is folded in
        return database

    def _read_made(self) -> Made:
        application, version = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():  # its making was killed
            raise NoIndexError(self.folder)
        if application != _APPLICATION:
            raise LibraryError(f"{self.path} is no index of zsl-tagger: give another folder")
        if version not in READ_VERSIONS:
            raise LibraryError(
                f"{self.path} has format {version}, this zsl-tagger reads {' and '.join(map(str, READ_VERSIONS))}: "
                f"{self._rebuild()}"
            )
        try:
            return Made(**{name: parse_json(value) for name, value in self._database.execute("SELECT * FROM meta")})
        except (ValueError, TypeError) as error:
            raise self.damaged(error) from None

    def _rebuild(self) -> str:
        return f"delete the folder {self.folder} and index the photos again"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LibraryError(f"the index {self.path} cannot be used: {error}") from None
        except OSError as error:
            raise LibraryError(f"the index {self.path} cannot be used: {error.strerror or error}") from None
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from None

    def damaged(self, error: Exception) -> LibraryError:
        return LibraryError(f"the index {self.path} is damaged ({error}): {self._rebuild()}")

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write what is written inside whole, or not at all."""
        with self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._database.in_transaction:  # a full disk has ended it
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    # --- reading

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read what is read inside as of one moment, whatever another process writes meanwhile."""
        with self._told():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    def version(self) -> int:
        """Return a number that changes when another process has written."""
        with self._told():
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def photos(self) -> dict[str, Known]:
        """Every photo by its path."""
        with self._told():
            rows = self._database.execute("SELECT path, size, mtime_ns, content FROM photos").fetchall()
        return {os.fsdecode(path): Known(*rest) for path, *rest in rows}

    def count(self) -> int:
        """How many photos there are."""
        with self._told():
            return int(self._database.execute("SELECT count(*) FROM photos").fetchone()[0])

    def hashes(self) -> dict[str, int]:
        """SHA-256 of every content -> its number."""
        with self._told():
            return dict(self._database.execute("SELECT sha256, id FROM contents").fetchall())

    def roots(self) -> list[str]:
        with self._told():
            return [os.fsdecode(path) for (path,) in self._database.execute("SELECT path FROM roots ORDER BY path")]

    def paths_of(self, content: int) -> list[str]:
        """Photos with this content, by name."""
        with self._told():
            rows = self._database.execute("SELECT path FROM photos WHERE content = ? ORDER BY path", (content,))
            return [os.fsdecode(path) for (path,) in rows]

    def sha256_of(self, path: str) -> str | None:
        """Return the SHA-256 of a photo's content; None where the photo is not in the index."""
        with self._told():
            row = self._database.execute(
                "SELECT sha256 FROM photos JOIN contents ON id = content WHERE path = ?", (os.fsencode(path),)
            ).fetchone()
            return None if row is None else str(row[0])

    def photos_with(self, sha256: str) -> dict[str, Known]:
        """Return the photos whose content has this SHA-256, by name; none where no photo has it."""
        with self._told():
            rows = self._database.execute(
                "SELECT path, size, mtime_ns, content FROM photos JOIN contents ON id = content WHERE sha256 = ? "
                "ORDER BY path",
                (sha256,),
            ).fetchall()
        return {os.fsdecode(path): Known(*rest) for path, *rest in rows}

    def all_logits(self) -> AllLogits:
        """Return the vocabulary's logits of everything that some photo shows."""
        with self._told():
            rows = self._database.execute(
                "SELECT content, copies, logits, classes FROM scores JOIN "
                "(SELECT content, count(*) AS copies FROM photos GROUP BY content) USING (content) ORDER BY content"
            ).fetchall()
        contents, copies, packed, classes = zip(*rows, strict=True) if rows else ((), (), (), ())
        try:
            logits = unpack_logits(packed, len(self.made.labels))
            width = len(classes[0]) if classes else 0
            probabilities = np.frombuffer(b"".join(classes), np.uint8).reshape(len(rows), width)  # (N, C)
        except ValueError as error:
            raise self.damaged(error) from None
        return AllLogits(np.array(contents, np.int64), np.array(copies, np.int64), *logits, probabilities)

    def tokens(self, contents: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """(position among ``contents``, packed tokens) of some contents, in the order in which they are stored."""
        with self._told():
            for place in sorted(range(len(contents)), key=lambda at: contents[at]):
                row = self._database.execute("SELECT tokens FROM contents WHERE id = ?", (contents[place],)).fetchone()
                if row is None:
                    raise self.damaged(ValueError("a photo lacks its tokens"))
                yield place, row[0]

    def pooled(self, contents: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pooled tokens of N contents, ascending: levels uint8 ``(N, 2 D)``, steps and lows ``(N,)``.

        A value is ``level * step + low``. Those of contents that version 2 wrote are made from their tokens.
        """
        with self._told():
            rows = self._database.execute("SELECT content, tokens FROM pooled").fetchall() if self._has_pooled() else []
        packed = dict(rows)
        missing = [content for content in contents if content not in packed]
        packed |= {missing[place]: _pooled(self, tokens) for place, tokens in self.tokens(missing)}
        try:
            width = len(next(iter(packed.values()))) - 8 if packed else 0
            return unpack_logits([packed[content] for content in contents], width)
        except ValueError as error:
            raise self.damaged(error) from None

    def lacks_pooled(self) -> bool:
        """Return whether some content was written by version 2, and not completed since."""
        return not self._has_pooled() or bool(self.without_pooled())

    def without_pooled(self) -> list[int]:
        """Return the contents that version 2 wrote, ascending."""
        with self._told():
            rows = self._database.execute("SELECT id FROM contents WHERE id NOT IN (SELECT content FROM pooled)")
            return sorted(content for (content,) in rows)

    def _has_pooled(self) -> bool:
        return self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'pooled'").fetchone() is not None

    # --- writing, inside a transaction

    def add_pooled(self, content: int) -> None:
        """Add the pooled tokens of a content that has none."""
        for _, tokens in self.tokens([content]):
            self._database.execute("INSERT OR IGNORE INTO pooled VALUES (?, ?)", (content, _pooled(self, tokens)))

    def add_root(self, path: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO roots VALUES (?)", (os.fsencode(path),))

    def remove_roots(self, paths: Iterable[str]) -> None:
        self._database.executemany("DELETE FROM roots WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def add_content(self, sha256: str, tokens: bytes, logits: bytes, classes: bytes, pooled: bytes) -> int:
        """Return a content's number, new or not."""
        added = self._database.execute(
            "INSERT OR IGNORE INTO contents (sha256, tokens) VALUES (?, ?)", (sha256, tokens)
        )
        if added.rowcount:
            self._database.execute("INSERT INTO scores VALUES (?, ?, ?)", (added.lastrowid, logits, classes))
            self._database.execute("INSERT INTO pooled VALUES (?, ?)", (added.lastrowid, pooled))
        return int(self._database.execute("SELECT id FROM contents WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def set_photo(self, path: str, known: Known) -> None:
        self._database.execute("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?)", (os.fsencode(path), *known))

    def remove_photos(self, paths: Iterable[str]) -> None:
        self._database.executemany("DELETE FROM photos WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def remove_unused(self) -> None:
        """Contents that no photo has any more."""
        self._database.execute("DELETE FROM contents WHERE id NOT IN (SELECT content FROM photos)")
        self._database.execute("DELETE FROM scores WHERE content NOT IN (SELECT id FROM contents)")
        self._database.execute("DELETE FROM pooled WHERE content NOT IN (SELECT id FROM contents)")


def _pooled(store: Store, packed: bytes) -> bytes:
    """Return the packed pooled tokens of packed tokens."""
    try:
        return pack_logits(pooled_tokens(unpack_tokens(packed)[None])[0])
    except ValueError as error:
        raise store.damaged(error) from None

"""Store the index of a photo library: a folder with one SQLite file.

==============  =====================================================================================================
``meta``        the model (its folder, fingerprint and files) and the vocabulary whose logits are stored
``roots``       the folders that were indexed
``photos``      one row per file: path, size, time of its last change, and its content
``contents``    one row per distinct file content: its SHA-256 and the tokens (:mod:`zsl_tagger.search.packing`)
``scores``      the vocabulary's logits and the class probabilities of each content that is not in a block yet
``blocks``      4,096 contents each, whose scores are stored by label in ``columns`` (:mod:`zsl_tagger.search.blocks`)
``columns``     the rows of the blocks, by ``block * 2^20 + number``
``pooled``      pooled tokens of each content, for taught tags; missing for contents that version 2 wrote
==============  =====================================================================================================

Each photo is written in one transaction. The write-ahead log makes that cheap, lets searches read meanwhile, and keeps
what was written before a kill or a power cut. Paths are bytes, because file names need not be UTF-8.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.search.blocks import PHOTOS_PER_BLOCK, Part, Row, columns_of, rows_of
from zsl_tagger.search.packing import pack_logits, unpack_logits, unpack_ranges, unpack_tokens
from zsl_tagger.system.files import parse_json
from zsl_tagger.system.user_data import user_folder
from zsl_tagger.tagging.pooled import pooled_tokens

INDEX_FILE = "index.db"
FORMAT_VERSION = 4
READ_VERSIONS = (2, 3, 4)  # version 2 has no table `pooled`; 2 and 3 have no blocks, only rows of scores
_OLDER = ", ".join(map(str, READ_VERSIONS[:-1]))
_APPLICATION = 0x5A534C54  # "ZSLT"
_NUMBER, _RANGE = np.dtype("<i8"), np.dtype("<f4")  # in stored blocks
_ROWS = 1 << 20  # row numbers reserved for each block
_SCHEMA_OF_POOLED = "CREATE TABLE IF NOT EXISTS pooled (content INTEGER PRIMARY KEY, tokens BLOB NOT NULL)"
_SCHEMA_OF_BLOCKS = (
    "CREATE TABLE IF NOT EXISTS blocks "
    "(id INTEGER PRIMARY KEY, contents BLOB NOT NULL, ranges BLOB NOT NULL, columns INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS columns (place INTEGER PRIMARY KEY, levels BLOB NOT NULL)",
)
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE roots (path BLOB PRIMARY KEY);
CREATE TABLE contents (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, tokens BLOB NOT NULL);
CREATE TABLE scores (content INTEGER PRIMARY KEY, logits BLOB NOT NULL, classes BLOB NOT NULL);
{_SCHEMA_OF_POOLED};
{_SCHEMA_OF_BLOCKS[0]};
{_SCHEMA_OF_BLOCKS[1]};
CREATE TABLE photos (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, content INTEGER NOT NULL);
CREATE INDEX photos_of_content ON photos (content);
"""


class LibraryError(UserError):
    """The index is missing, damaged or from another model; the message says what to do."""


class NoIndexError(LibraryError):
    """The folder has no index."""

    def __init__(self, folder: Path):
        self.folder = folder
        super().__init__(f"no index at {folder}: add photos to it first")


@dataclass(frozen=True)
class IndexMeta:
    """Model and vocabulary of an index.

    Attributes:
        model: the model folder; None for the packaged model.
        fingerprint: hash of its networks and of the queries of the labels.
        labels: the V labels whose logits are stored.
        keys: the V spellings that identify these labels; empty in indexes of older versions.
        files: identity of the model's files when they had this fingerprint; empty in indexes of older versions.
    """

    model: str | None
    fingerprint: str
    labels: list[str]
    keys: list[str] = field(default_factory=list)
    files: str = ""


class IndexedPhoto(NamedTuple):
    """Size, time of last change and content id of a photo when it was indexed."""

    size: int
    mtime_ns: int
    content: int

    def is_unchanged(self, path: str) -> bool:
        """Return whether the file at a path still has this size and time of last change."""
        try:
            status = os.stat(path)  # noqa: PTH116  (for each of many photos)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def default_folder() -> Path:
    """Return the default folder of the index, in the user's data folder."""
    return user_folder("library")


class Store:
    """An open index; close it, or use it in a ``with`` statement.

    Args:
        folder: folder of the index.
        meta: model and vocabulary of a new index, to open it for writing; None to open it for reading.

    Raises:
        LibraryError: there is no index, it is damaged, or it cannot be opened.
    """

    def __init__(self, folder: Path, meta: IndexMeta | None = None):
        self.folder, self.path = folder, folder / INDEX_FILE
        if meta is None and not self.path.is_file():
            raise NoIndexError(folder)
        with self._errors_reported():
            self._database = self._open_to_read() if meta is None else self._open_to_write(meta)
            try:
                self.meta = self._read_meta()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_to_read(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        # The server reads on one thread at a time, but not always on the same one.
        options: dict[str, Any] = {"isolation_level": None, "uri": True, "check_same_thread": False}
        database = sqlite3.connect(address, timeout=30, **options)
        try:
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
            return database
        except sqlite3.OperationalError:  # the folder is read-only, so SQLite cannot create the files of its log
            database.close()
            log = self.path.with_name(f"{INDEX_FILE}-wal")
            if log.exists() and log.stat().st_size:
                raise
            return sqlite3.connect(f"{address}&immutable=1", **options)

    def _open_to_write(self, meta: IndexMeta) -> sqlite3.Connection:
        if self.path.is_symlink():  # SQLite would follow the link
            raise LibraryError(f"{self.path} is a symbolic link, which could lead anywhere: delete it")
        self._database = database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("PRAGMA page_size = 8192")  # the logits of three photos fit
            database.execute("PRAGMA journal_mode = WAL")
            with self.transaction():
                for statement in _SCHEMA.strip().split("\n"):
                    database.execute(statement)
                self._write_meta(meta)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        elif database.execute("PRAGMA user_version").fetchone()[0] in READ_VERSIONS[:-1]:
            with self.transaction():
                for statement in (_SCHEMA_OF_POOLED, *_SCHEMA_OF_BLOCKS):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        database.execute("PRAGMA synchronous = NORMAL")  # wait for the disk only when the log is merged
        return database

    def _read_meta(self) -> IndexMeta:
        application, version = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():  # killed while it was created
            raise NoIndexError(self.folder)
        if application != _APPLICATION:
            raise LibraryError(f"{self.path} is not an index of zsl-tagger: give another folder")
        if version not in READ_VERSIONS:
            raise LibraryError(
                f"{self.path} has format {version}, this zsl-tagger reads {_OLDER} and {FORMAT_VERSION}: "
                f"{self._rebuild()}"
            )
        try:
            return IndexMeta(
                **{name: parse_json(value) for name, value in self._database.execute("SELECT * FROM meta")}
            )
        except (ValueError, TypeError) as error:
            raise self.damaged(error) from None

    def update_meta(self, meta: IndexMeta) -> None:
        """Replace what is stored about the model and the vocabulary."""
        with self.transaction():
            self._write_meta(meta)
            self.meta = meta

    def _write_meta(self, meta: IndexMeta) -> None:
        rows = [(name, json.dumps(value)) for name, value in asdict(meta).items()]
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def _rebuild(self) -> str:
        return f"delete the folder {self.folder} and index the photos again"

    @contextlib.contextmanager
    def _errors_reported(self) -> Iterator[None]:
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
        """Commit all changes made inside, or none if there is an error."""
        with self._errors_reported():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._database.in_transaction:  # SQLite has rolled back itself if the disk is full
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    # --- reading

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make all reads inside see the same state, even if another process writes meanwhile."""
        with self._errors_reported():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    def version(self) -> int:
        """Return a number that changes whenever another process has written."""
        with self._errors_reported():
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def photos(self) -> dict[str, IndexedPhoto]:
        """Return all photos by path."""
        with self._errors_reported():
            rows = self._database.execute("SELECT path, size, mtime_ns, content FROM photos").fetchall()
        return {os.fsdecode(path): IndexedPhoto(*rest) for path, *rest in rows}

    def photo(self, path: str) -> IndexedPhoto | None:
        """Return the photo at a path; None if it is not in the index."""
        with self._errors_reported():
            query = "SELECT size, mtime_ns, content FROM photos WHERE path = ?"
            row = self._database.execute(query, (os.fsencode(path),)).fetchone()
            return None if row is None else IndexedPhoto(*row)

    def count(self) -> int:
        """Return the number of photos."""
        with self._errors_reported():
            return int(self._database.execute("SELECT count(*) FROM photos").fetchone()[0])

    def hashes(self) -> dict[str, int]:
        """Return the id of every content by SHA-256."""
        with self._errors_reported():
            return dict(self._database.execute("SELECT sha256, id FROM contents").fetchall())

    def roots(self) -> list[str]:
        with self._errors_reported():
            return [os.fsdecode(path) for (path,) in self._database.execute("SELECT path FROM roots ORDER BY path")]

    def paths_of(self, content: int) -> list[str]:
        """Return the paths of the photos with a content, sorted."""
        with self._errors_reported():
            rows = self._database.execute("SELECT path FROM photos WHERE content = ? ORDER BY path", (content,))
            return [os.fsdecode(path) for (path,) in rows]

    def sha256_of(self, path: str) -> str | None:
        """Return the SHA-256 of a photo's content; None if the photo is not in the index."""
        with self._errors_reported():
            row = self._database.execute(
                "SELECT sha256 FROM photos JOIN contents ON id = content WHERE path = ?", (os.fsencode(path),)
            ).fetchone()
            return None if row is None else str(row[0])

    def photos_with(self, sha256: str) -> dict[str, IndexedPhoto]:
        """Return the photos whose content has this SHA-256, sorted by path."""
        with self._errors_reported():
            rows = self._database.execute(
                "SELECT path, size, mtime_ns, content FROM photos JOIN contents ON id = content WHERE sha256 = ? "
                "ORDER BY path",
                (sha256,),
            ).fetchall()
        return {os.fsdecode(path): IndexedPhoto(*rest) for path, *rest in rows}

    def photos_by_content(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the contents of all photos, int64 ``(N,)`` ascending, and the number of photos with each."""
        with self._errors_reported():
            found = self._database.execute("SELECT group_concat(content) FROM photos")
            text = found.fetchone()[0]  # reading one string is 10 times as fast as reading a row per photo
        of_photos = np.sort(np.fromstring(text or "", np.int64, sep=","))
        # The first photo of each content. np.unique would load numpy.ma, which takes 15 ms.
        first = np.flatnonzero(np.diff(of_photos, prepend=-1))
        return of_photos[first], np.diff(first, append=len(of_photos))

    def parts(self) -> list[Part]:
        """Return the contents with stored scores, in ascending order, and the scale of their logits."""
        with self._errors_reported():
            blocks = []
            if self._has("blocks"):
                blocks = self._database.execute("SELECT id, contents, ranges FROM blocks ORDER BY id").fetchall()
            rows = self._database.execute(
                "SELECT content, substr(logits, 1, 8) FROM scores ORDER BY content"
            ).fetchall()
        try:
            parts = [
                Part(number, np.frombuffer(contents, _NUMBER), *np.frombuffer(ranges, _RANGE).reshape(2, -1))
                for number, contents, ranges in blocks
            ]
            for start in range(0, len(rows), PHOTOS_PER_BLOCK):
                contents, ranges = zip(*rows[start : start + PHOTOS_PER_BLOCK], strict=True)
                parts.append(Part(None, np.array(contents, np.int64), *unpack_ranges(ranges)))
            if any(len(part.contents) != len(part.step) for part in parts):
                raise ValueError("a block lacks contents")
        except ValueError as error:
            raise self.damaged(error) from None
        return parts

    def classes(self) -> int | None:
        """Return the number of class probabilities per content, 0 without class evidence; None for an empty index."""
        with self._errors_reported():
            of_block = "SELECT columns FROM blocks LIMIT 1"
            if self._has("blocks") and (row := self._database.execute(of_block).fetchone()):
                return int(row[0]) - len(self.meta.labels)
            row = self._database.execute("SELECT length(classes) FROM scores LIMIT 1").fetchone()
            return int(row[0]) if row else None

    def block_rows(self, block: int, first: int, last: int) -> list[bytes]:
        """Return the rows ``first`` to ``last`` of a block."""
        with self._errors_reported():
            rows = self._database.execute(
                "SELECT levels FROM columns WHERE place BETWEEN ? AND ? ORDER BY place",
                (_at(block, first), _at(block, last)),
            )
            return [levels for (levels,) in rows]

    def loose_rows(self, first: int, last: int) -> list[Row]:
        """Return the scores of contents ``first`` to ``last`` that are in no block."""
        with self._errors_reported():
            return self._database.execute(
                "SELECT content, logits, classes FROM scores WHERE content BETWEEN ? AND ? ORDER BY content",
                (first, last),
            ).fetchall()

    def tokens(self, contents: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (position in ``contents``, packed tokens), in the order in which the tokens are stored."""
        with self._errors_reported():
            for place in sorted(range(len(contents)), key=lambda at: contents[at]):
                row = self._database.execute("SELECT tokens FROM contents WHERE id = ?", (contents[place],)).fetchone()
                if row is None:
                    raise self.damaged(ValueError("a photo lacks its tokens"))
                yield place, row[0]

    def pooled(self, contents: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pooled tokens of N contents, ascending: levels uint8 ``(N, 2 D)``, steps and lows ``(N,)``.

        A value is ``level * step + low``. For contents that version 2 wrote, they are computed from the tokens.
        """
        packed = dict(self._pooled_rows(contents)) if self._has("pooled") else {}
        missing = [content for content in contents if content not in packed]
        packed |= {missing[place]: _pooled(self, tokens) for place, tokens in self.tokens(missing)}
        try:
            width = len(next(iter(packed.values()))) - 8 if packed else 0
            return unpack_logits([packed[content] for content in contents], width)
        except ValueError as error:
            raise self.damaged(error) from None

    def _pooled_rows(self, contents: Sequence[int]) -> list[tuple[int, bytes]]:
        if not contents:
            return []
        with self._errors_reported():
            if 4 * len(contents) >= contents[-1] - contents[0]:  # dense: read the whole range
                between = "SELECT content, tokens FROM pooled WHERE content BETWEEN ? AND ?"
                return self._database.execute(between, (contents[0], contents[-1])).fetchall()
            one = "SELECT content, tokens FROM pooled WHERE content = ?"
            return [row for content in contents for row in self._database.execute(one, (content,))]

    def lacks_pooled(self) -> bool:
        """Return whether the index has contents from version 2 without pooled tokens."""
        return not self._has("pooled") or bool(self.without_pooled())

    def without_pooled(self) -> list[int]:
        """Return the contents without pooled tokens, which version 2 wrote, ascending."""
        with self._errors_reported():
            rows = self._database.execute("SELECT id FROM contents WHERE id NOT IN (SELECT content FROM pooled)")
            return sorted(content for (content,) in rows)

    def _has(self, table: str) -> bool:
        found = self._database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
        return found.fetchone() is not None

    def loose(self) -> int:
        """Return the number of contents whose scores are in no block."""
        with self._errors_reported():
            return int(self._database.execute("SELECT count(*) FROM scores").fetchone()[0])

    # --- writing, inside a transaction

    def add_pooled(self, content: int) -> None:
        """Add the missing pooled tokens of a content."""
        for _, tokens in self.tokens([content]):
            self._database.execute("INSERT OR IGNORE INTO pooled VALUES (?, ?)", (content, _pooled(self, tokens)))

    def add_root(self, path: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO roots VALUES (?)", (os.fsencode(path),))

    def remove_roots(self, paths: Iterable[str]) -> None:
        self._database.executemany("DELETE FROM roots WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def add_content(self, sha256: str, tokens: bytes, logits: bytes, classes: bytes, pooled: bytes) -> int:
        """Add a content unless it exists, and return its id."""
        added = self._database.execute(
            "INSERT OR IGNORE INTO contents (sha256, tokens) VALUES (?, ?)", (sha256, tokens)
        )
        if added.rowcount:
            self._database.execute("INSERT INTO scores VALUES (?, ?, ?)", (added.lastrowid, logits, classes))
            self._database.execute("INSERT INTO pooled VALUES (?, ?)", (added.lastrowid, pooled))
        return int(self._database.execute("SELECT id FROM contents WHERE sha256 = ?", (sha256,)).fetchone()[0])

    def set_photo(self, path: str, known: IndexedPhoto) -> None:
        self._database.execute("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?)", (os.fsencode(path), *known))

    def remove_photos(self, paths: Iterable[str]) -> None:
        self._database.executemany("DELETE FROM photos WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def remove_unused(self) -> None:
        """Remove contents without photos, then join blocks that have become half empty."""
        unused = self._database.execute(
            "SELECT id FROM contents WHERE NOT EXISTS (SELECT 1 FROM photos WHERE content = id)"
        ).fetchall()
        if not unused:
            return
        for statement in (
            "DELETE FROM contents WHERE id = ?", "DELETE FROM scores WHERE content = ?",
            "DELETE FROM pooled WHERE content = ?",
        ):  # fmt: skip
            self._database.executemany(statement, unused)
        gone = np.array(unused, np.int64)[:, 0]
        for part in self.parts():
            if part.block is not None and (left := np.isin(part.contents, gone)).any():  # SQLite may reuse the id
                contents = np.where(left, -1, part.contents).astype(_NUMBER).tobytes()
                self._database.execute("UPDATE blocks SET contents = ? WHERE id = ?", (contents, part.block))
        self._join_blocks()

    def arrange(self) -> bool:
        """Turn the first ``PHOTOS_PER_BLOCK`` rows of scores into a block; return False if there are fewer."""
        rows = self._database.execute(
            "SELECT content, logits, classes FROM scores ORDER BY content LIMIT ?", (PHOTOS_PER_BLOCK,)
        ).fetchall()
        if len(rows) < PHOTOS_PER_BLOCK:
            return False
        try:
            step, low = unpack_ranges([logits[:8] for _, logits, _ in rows])
            labels = len(self.meta.labels)
            columns = columns_of(rows, labels, np.arange(labels + len(rows[0][2])))  # (V + C, n)
        except ValueError as error:
            raise self.damaged(error) from None
        number = int(self._database.execute("SELECT coalesce(max(id), 0) + 1 FROM blocks").fetchone()[0])
        self._write_block(Part(number, np.array([row[0] for row in rows], np.int64), step, low), columns)
        self._database.execute("DELETE FROM scores WHERE content <= ?", (rows[-1][0],))
        return True

    def _write_block(self, part: Part, columns: np.ndarray) -> None:
        """Write a block with its columns, uint8 ``(V + C, n)``, replacing the block of the same number."""
        assert part.block is not None
        self._remove_block(part.block)
        ranges = np.stack([part.step, part.low]).astype(_RANGE).tobytes()
        row = (part.block, part.contents.astype(_NUMBER).tobytes(), ranges, len(columns))
        self._database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", row)
        rows = enumerate(rows_of(columns))
        self._database.executemany(
            "INSERT INTO columns VALUES (?, ?)", ((_at(part.block, at), row) for at, row in rows)
        )

    def _remove_block(self, block: int) -> None:
        self._database.execute("DELETE FROM blocks WHERE id = ?", (block,))
        self._database.execute("DELETE FROM columns WHERE place BETWEEN ? AND ?", (_at(block, 0), _at(block + 1, -1)))

    def _join_blocks(self) -> None:
        """Join neighbouring blocks that fit into one, and drop empty ones, to free space."""
        before: Part | None = None
        for part in self.parts():
            if part.block is None:
                break
            kept = int((part.contents >= 0).sum())
            if not kept:
                self._remove_block(part.block)
            elif before is not None and kept + (before.contents >= 0).sum() <= PHOTOS_PER_BLOCK:
                before = self._joined(before, part)
            else:
                before = part

    def _joined(self, first: Part, second: Part) -> Part:
        """Merge two blocks into one, without removed contents."""
        assert first.block is not None
        assert second.block is not None
        kept = [np.flatnonzero(part.contents >= 0) for part in (first, second)]
        contents, step, low = (
            np.concatenate([values[at] for values, at in zip(both, kept, strict=True)])
            for both in ((getattr(part, name) for part in (first, second)) for name in ("contents", "step", "low"))
        )
        columns = np.concatenate(
            [self._block_columns(part)[:, at] for part, at in zip((first, second), kept, strict=True)], axis=1
        )  # (V + C, n)
        joined = Part(first.block, contents, step, low)
        self._remove_block(second.block)
        self._write_block(joined, columns)
        return joined

    def _block_columns(self, part: Part) -> np.ndarray:
        """Return all columns of a block, uint8 ``(V + C, n)``."""
        assert part.block is not None
        rows = b"".join(self.block_rows(part.block, 0, _ROWS - 1))
        try:
            return np.frombuffer(rows, np.uint8).reshape(-1, len(part.contents))
        except ValueError as error:
            raise self.damaged(error) from None


def _at(block: int, row: int) -> int:
    """Return the key of a row of a block in the table ``columns``."""
    return block * _ROWS + row


def _pooled(store: Store, packed: bytes) -> bytes:
    """Return the packed pooled tokens of packed tokens."""
    try:
        return pack_logits(pooled_tokens(unpack_tokens(packed)[None])[0])
    except ValueError as error:
        raise store.damaged(error) from None

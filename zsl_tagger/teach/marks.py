"""Store which photos a user has marked as showing a tag or not, in a database in the user's data folder.

Photos are identified by the SHA-256 of their content, so marks survive when a photo is moved or the index is rebuilt.
The file also stores what the last writes to sidecars changed, so that they can be undone after a restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import parse_json, write_errors
from zsl_tagger.system.user_data import user_folder
from zsl_tagger.tagging.taught import checked_name
from zsl_tagger.words.spelling import normalize_label

MARKS_FILE = "marks.db"
FORMAT_VERSION = 2
#: Number of writes to the sidecars of an index that can be undone.
KEPT_WRITES = 50
_APPLICATION = 0x5A534C4D  # "ZSLM"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS tags (key TEXT PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS marks (tag TEXT, photo TEXT, mark INTEGER, PRIMARY KEY (tag, photo)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS writes "
    "(library BLOB, number INTEGER, path BLOB, gained TEXT, lost TEXT, PRIMARY KEY (library, number, path))",
)
#: From version 1, which stored only the last write.
_UPGRADE = ("INSERT INTO writes SELECT library, 1, path, gained, lost FROM written", "DROP TABLE written")


@dataclass(frozen=True)
class WrittenSidecar:
    """Describe the keywords that a sidecar gained and lost.

    Attributes:
        photo: path of the photo.
    """

    photo: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    def then(self, later: WrittenSidecar) -> WrittenSidecar:
        """Return the combined change of this and a later write to the same sidecar."""
        gained, lost = (*self.gained, *later.gained), (*self.lost, *later.lost)
        return WrittenSidecar(
            self.photo,
            tuple(word for word in gained if word not in lost),
            tuple(word for word in lost if word not in gained),
        )


def default_folder() -> Path:
    """Return the default folder of the marks, in the user's data folder."""
    return user_folder("marks")


def key_of(tag: str) -> str:
    """Return the normalised name under which the marks of a tag are stored.

    Raises:
        UserError: the name is invalid.
    """
    return normalize_label(checked_name(tag))


class Marks:
    """The marks in a folder, which need not exist yet. Threads and processes may share it.

    Raises:
        UserError: from each method, if the file cannot be used.
    """

    def __init__(self, folder: Path):
        self.path = folder / MARKS_FILE

    def names(self) -> list[str]:
        """Return the names of tags with marks, as typed most recently."""
        with self._opened() as database:
            return [name for (name,) in database.execute("SELECT name FROM tags ORDER BY name")]

    def of(self, tag: str) -> dict[str, bool | None]:
        """Return the marks of a tag by SHA-256 of the photo; None for a mark that was withdrawn."""
        with self._opened() as database:
            rows = database.execute("SELECT photo, mark FROM marks WHERE tag = ?", (key_of(tag),)).fetchall()
        return {photo: None if mark is None else bool(mark) for photo, mark in rows}

    def set(self, tag: str, marks: Mapping[str, bool | None]) -> None:
        """Store all marks, replacing earlier ones of the same photos, or none if there is an error."""
        key = key_of(tag)
        with self._writing() as database:
            database.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (key, checked_name(tag)))
            rows = [(key, photo, mark) for photo, mark in marks.items()]
            database.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", rows)

    def written(self, library: Path) -> list[WrittenSidecar]:
        """Return the changes of the last write to the sidecars of an index that has not been undone."""
        with self._opened() as database:
            return _write_of(database, library, _last(database, library))

    def add_written(self, library: Path, sidecars: Sequence[WrittenSidecar]) -> None:
        """Store the changes of a write that is about to happen; delete those of the write ``KEPT_WRITES`` earlier."""
        with self._writing() as database:
            number = _last(database, library) + 1
            _replace(database, library, number, sidecars)
            oldest = number - KEPT_WRITES
            database.execute("DELETE FROM writes WHERE library = ? AND number <= ?", (_bytes(library), oldest))

    def keep_unwritten(self, library: Path, left: Sequence[WrittenSidecar]) -> None:
        """Delete the last write after it was undone, except for ``left``, the changes that could not be undone.

        If none could be undone, they are added to the write before, so that it can be undone next.
        """
        with self._writing() as database:
            number = _last(database, library)
            before = {one.photo: one for one in _write_of(database, library, number - 1)}
            if before and len(left) == len(_write_of(database, library, number)):
                both = [before.pop(one.photo).then(one) if one.photo in before else one for one in left]
                _replace(database, library, number, [])
                _replace(database, library, number - 1, [*before.values(), *both])
            else:
                _replace(database, library, number, left)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file for writing; commit all changes made inside, or none if there is an error."""
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened(make=True) as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _opened(self, make: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file, or an empty database if there is none; uncommitted changes are rolled back."""
        try:
            place = str(self.path) if make or self.path.exists() else ":memory:"
            with contextlib.closing(sqlite3.connect(place, timeout=30, isolation_level=None)) as database:
                self._prepare(database)
                yield database
        except UserError:
            raise
        except sqlite3.OperationalError as error:
            raise UserError(f"the marks in {self.path} cannot be used: {error}") from None
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): move it away to start without marks; taught tags are kept"
            ) from None

    def _prepare(self, database: sqlite3.Connection) -> None:
        if _format_of(database) == (_APPLICATION, FORMAT_VERSION):
            return
        database.execute("BEGIN IMMEDIATE")
        application, version = _format_of(database)  # read again: another process may have upgraded the file
        if application not in (0, _APPLICATION) or version > FORMAT_VERSION:
            raise UserError(f"{self.path} was written by another program or a later zsl-tagger: move it away")
        for statement in _SCHEMA + (_UPGRADE if version == 1 else ()):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        database.execute("COMMIT")


def _bytes(folder: Path) -> bytes:
    return os.fsencode(folder.absolute())


def _format_of(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the application and the version of its format that a database names."""
    application, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return int(application), int(version)


def _last(database: sqlite3.Connection, library: Path) -> int:
    """Return the number of the last write that can be undone; 0 if there is none."""
    query = "SELECT coalesce(max(number), 0) FROM writes WHERE library = ?"
    return int(database.execute(query, (_bytes(library),)).fetchone()[0])


def _write_of(database: sqlite3.Connection, library: Path, number: int) -> list[WrittenSidecar]:
    rows = database.execute(
        "SELECT path, gained, lost FROM writes WHERE library = ? AND number = ? ORDER BY path",
        (_bytes(library), number),
    ).fetchall()
    return [
        WrittenSidecar(os.fsdecode(path), tuple(parse_json(gained)), tuple(parse_json(lost)))
        for path, gained, lost in rows
    ]


def _replace(database: sqlite3.Connection, library: Path, number: int, sidecars: Sequence[WrittenSidecar]) -> None:
    database.execute("DELETE FROM writes WHERE library = ? AND number = ?", (_bytes(library), number))
    rows = [
        (_bytes(library), number, os.fsencode(one.photo), json.dumps(one.gained), json.dumps(one.lost))
        for one in sidecars
    ]
    database.executemany("INSERT INTO writes VALUES (?, ?, ?, ?, ?)", rows)

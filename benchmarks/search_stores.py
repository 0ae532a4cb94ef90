"""Compare SQLite, DuckDB, LanceDB and usearch as the store of a photo library's index.

    python -m benchmarks.search_stores

10,000 synthetic rows like the index stores per photo: 14 KB of tokens and 2.3 KB of logits, random bytes. Each
store, in a separate process: rows written in one transaction each for ``SECONDS``, the rest at once; 100 rows
replaced, one transaction each; the logits of all rows read into numpy; the tokens of 1,000 rows read; the size on disk.
Then a writer is killed (SIGKILL) at work, and another process checks whether the store opens and has every row whose
transaction had ended. usearch is an index of vectors in one file with neither transactions nor other columns: it holds
the logits only, and "one transaction" is to save the file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.common import ROOT, write_result

ROWS, SECONDS, REPLACED, ASKED = 10_000, 20.0, 100, 1000
TOKENS, LOGITS = 14_000, 2264


class Store(Protocol):
    """Operations of a store."""

    def write(self, rows: Iterable[int]) -> None: ...  # in one transaction; existing rows are replaced
    def logits(self) -> np.ndarray: ...  # uint8 (rows, LOGITS)
    def tokens(self, rows: Iterable[int]) -> int: ...  # bytes read
    def count(self) -> int: ...


def payload(row: int) -> tuple[bytes, bytes]:
    random = np.random.default_rng(row)
    return random.bytes(TOKENS), random.bytes(LOGITS)


class Sqlite:
    packages = ()

    def __init__(self, folder: Path):
        self.database = sqlite3.connect(folder / "index.db", isolation_level=None)
        self.database.execute("PRAGMA page_size = 8192")
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute("CREATE TABLE IF NOT EXISTS contents (id INTEGER PRIMARY KEY, tokens BLOB)")
        self.database.execute("CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY, logits BLOB)")

    def write(self, rows: Iterable[int]) -> None:
        self.database.execute("BEGIN")
        for row in rows:
            tokens, logits = payload(row)
            self.database.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", (row, tokens))
            self.database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (row, logits))
        self.database.execute("COMMIT")

    def logits(self) -> np.ndarray:
        rows = self.database.execute("SELECT logits FROM scores").fetchall()
        return np.frombuffer(b"".join(row for (row,) in rows), np.uint8).reshape(-1, LOGITS)

    def tokens(self, rows: Iterable[int]) -> int:
        one = "SELECT tokens FROM contents WHERE id = ?"
        return sum(len(tokens) for row in rows for (tokens,) in self.database.execute(one, (row,)))

    def count(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM scores JOIN contents USING (id)").fetchone()[0])


class DuckDb:
    packages = ("duckdb",)

    def __init__(self, folder: Path):
        import duckdb

        self.database = duckdb.connect(folder / "index.duckdb")
        self.database.execute("CREATE TABLE IF NOT EXISTS photos (id INTEGER PRIMARY KEY, tokens BLOB, logits BLOB)")

    def write(self, rows: Iterable[int]) -> None:
        self.database.execute("BEGIN")
        for row in rows:
            self.database.execute("INSERT OR REPLACE INTO photos VALUES (?, ?, ?)", [row, *payload(row)])
        self.database.execute("COMMIT")

    def logits(self) -> np.ndarray:
        rows = self.database.execute("SELECT logits FROM photos").fetchall()
        return np.frombuffer(b"".join(row for (row,) in rows), np.uint8).reshape(-1, LOGITS)

    def tokens(self, rows: Iterable[int]) -> int:
        found = self.database.execute("SELECT tokens FROM photos WHERE id IN (SELECT unnest(?))", [list(rows)])
        return sum(len(row) for (row,) in found.fetchall())

    def count(self) -> int:
        return sum(count for (count,) in self.database.execute("SELECT count(*) FROM photos").fetchall())


class LanceDb:
    packages = ("lancedb", "lance-namespace", "lance-namespace-urllib3-client", "pyarrow", "pydantic", "pydantic-core")

    def __init__(self, folder: Path):
        import lancedb
        import pyarrow

        fields = [("id", pyarrow.int64()), ("tokens", pyarrow.binary()), ("logits", pyarrow.binary())]
        self.schema = pyarrow.schema(fields)
        database = lancedb.connect(folder)
        self.table: Any = database.create_table("photos", schema=self.schema, exist_ok=True)

    def write(self, rows: Iterable[int]) -> None:
        made = [dict(zip(("id", "tokens", "logits"), (row, *payload(row)), strict=True)) for row in rows]
        self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(made)

    def logits(self) -> np.ndarray:
        column = self.table.search().select(["logits"]).limit(ROWS).to_arrow()["logits"]
        return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, LOGITS)

    def tokens(self, rows: Iterable[int]) -> int:
        wanted = ", ".join(map(str, rows))
        found = self.table.search().where(f"id IN ({wanted})").select(["tokens"]).limit(ROWS).to_arrow()
        return sum(map(len, found["tokens"].to_pylist()))

    def count(self) -> int:
        return int(self.table.count_rows())


class Usearch:
    packages = ("usearch", "simsimd", "numkong")

    def __init__(self, folder: Path):
        from usearch.index import Index

        self.path = folder / "index.usearch"
        self.index: Any = Index(ndim=LOGITS, dtype="i8", metric="cos")
        if self.path.exists():
            self.index.load(str(self.path))

    def write(self, rows: Iterable[int]) -> None:
        keys = np.array(list(rows))
        vectors = np.stack([np.frombuffer(payload(row)[1], np.int8) for row in keys])
        for key in keys:
            if key in self.index:
                self.index.remove(int(key))
        self.index.add(keys, vectors)
        self.index.save(str(self.path))

    def logits(self) -> np.ndarray:
        return np.asarray(self.index.get(np.arange(len(self.index)))).view(np.uint8)

    def tokens(self, rows: Iterable[int]) -> int:  # noqa: ARG002 - it holds none
        return 0

    def count(self) -> int:
        return len(self.index)


STORES: dict[str, Any] = {"SQLite": Sqlite, "DuckDB": DuckDb, "LanceDB": LanceDb, "usearch": Usearch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["measure", "write", "count"])
    parser.add_argument("--store", choices=list(STORES))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step is None:
        write_result("search_stores", {"rows": ROWS, **{name: measured(name) for name in STORES}})
        return
    store: Store = STORES[arguments.store](arguments.folder)
    if arguments.step == "measure":
        print(json.dumps(measure(store, arguments.folder)))
    elif arguments.step == "count":
        print(store.count())
    else:  # until it is killed, printing each written row
        for row in range(ROWS):
            store.write([row])
            print(row + 1, flush=True)


def measured(name: str) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp())
    try:
        figures = json.loads(step("measure", name, folder))
    finally:
        shutil.rmtree(folder)
    return {**figures, **killed(name), "installed, MB": installed(STORES[name].packages)}


def step(what: str, name: str, folder: Path) -> str:
    arguments = ["-m", "benchmarks.search_stores", "--step", what, "--store", name, "--folder", str(folder)]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1]


def measure(store: Store, folder: Path) -> dict[str, object]:
    start = time.perf_counter()
    row = 0
    while row < ROWS and time.perf_counter() - start < SECONDS:
        store.write([row])
        row += 1
    one_each = (time.perf_counter() - start) / row
    store.write(range(row, ROWS))
    start = time.perf_counter()
    for number in range(REPLACED):
        store.write([number * 97])
        if time.perf_counter() - start > SECONDS:
            break
    replaced = (time.perf_counter() - start) / (number + 1)
    logits = min(_seconds(store.logits) for _ in range(3))
    assert store.count() == ROWS, store.count()
    rows = np.random.default_rng(0).permutation(ROWS)[:ASKED].tolist()
    tokens = min(_seconds(lambda: store.tokens(rows)) for _ in range(3))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "rows written one transaction each": row,
        "a row written, ms": round(1000 * one_each, 2),
        "a row replaced, ms": round(1000 * replaced, 2),
        "logits of all rows read, s": round(logits, 3),
        "tokens of 1,000 rows read, s": round(tokens, 3) if store.tokens(rows) else None,
        "bytes a row": round(size / ROWS),
    }


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def killed(name: str) -> dict[str, object]:
    """Kill a writer at work three times; return what was left."""
    opened, lost = 0, 0
    for turn in range(3):
        folder = Path(tempfile.mkdtemp())
        arguments = ["-m", "benchmarks.search_stores", "--step", "write", "--store", name, "--folder", str(folder)]
        writer = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(1.0 + 0.37 * turn)
        writer.send_signal(signal.SIGKILL)
        said = int((["1", *writer.stdout.read().split()])[-1])
        writer.wait()
        try:
            there = int(step("count", name, folder))
            opened += 1
        except (subprocess.CalledProcessError, ValueError):
            there = 0
        lost += max(0, said - there)
        shutil.rmtree(folder)
    return {"opens after a kill, of 3": opened, "rows lost": lost}


def installed(packages: Iterable[str]) -> float:
    """Return the megabytes that pip would install."""
    size = 0
    for package in packages:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        size += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return round(size / 1e6, 1)


if __name__ == "__main__":
    main()

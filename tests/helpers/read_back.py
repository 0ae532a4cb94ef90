"""Read record files by the readers that other programs would use."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def read_back(kind: str, path: Path) -> list[dict[str, Any]]:
    """Return what ``Record.as_dict`` gave of each record of a file."""
    if kind == "jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    records: dict[str, dict[str, Any]] = {}
    if kind == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(r["path"], r["sha256"], r["error"], r["label"], r["score"]) for r in csv.DictReader(file)]
    elif kind == "sqlite":
        query = (
            "SELECT path, sha256, error, label, score FROM photos LEFT JOIN tags ON photo = id ORDER BY id, score DESC"
        )
        database = sqlite3.connect(path)
        rows = list(database.execute(query))
        database.close()
    else:
        rows = [
            (row["path"], row["sha256"], row["error"], tag and tag["label"], tag and tag["score"])
            for row in pq.read_table(path).to_pylist()
            for tag in row["tags"] or [None]
        ]
    for name, sha256, error, label, score in rows:
        known = {"sha256": sha256} if sha256 else {}
        shape: dict[str, Any] = {"path": name, **known, **({"error": error} if error else {"tags": []})}
        record = records.setdefault(name, shape)
        if label:
            record.setdefault("tags", []).append({"label": label, "score": round(float(score), 4)})
    return list(records.values())

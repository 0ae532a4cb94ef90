"""Store records as Parquet, one row per image.

Needs pyarrow (the ``parquet`` extra).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.records.base import Settings
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import as_utf8
from zsl_tagger.system.files import parse_json

#: ``tags`` are best first; empty if no label reached its threshold or the image could not be read. ``error`` says why
#: the image could not be read or its sidecar could not be written.
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("tags", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())])), nullable=False),
        pa.field("error", pa.string()),
    ]
)

ROWS = 10_000  # per row group; bounds memory
SETTINGS = b"zsl_tagger"  # key of the run's settings in the file metadata


def records_table(records: Iterable[Record]) -> pa.Table:
    """Return records as a table of ``PARQUET_SCHEMA``, in order; scores have 4 digits, as in JSON."""
    rows = [
        {
            "path": as_utf8(record.path),
            "sha256": record.sha256,
            "tags": [{"label": as_utf8(tag.label), "score": round(tag.score, 4)} for tag in record.tags],
            "error": None if record.error is None else as_utf8(record.error),
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=PARQUET_SCHEMA)


def write(file: BinaryIO, records: Iterable[Record], settings: Settings) -> None:
    """Write a Parquet file with the settings of the run in its metadata."""
    schema = PARQUET_SCHEMA.with_metadata({SETTINGS: json.dumps(settings)})
    records = iter(records)
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(records, ROWS)):
            writer.write_table(records_table(rows).cast(schema))


def read(path: Path) -> tuple[int, Settings, Iterator[Record]]:
    """Read a file of :func:`write`: the number of records, the settings and the records.

    Raises:
        UserError: it was not written by :func:`write`.
    """
    try:
        held = pq.read_metadata(path)
        settings = dict(parse_json((held.metadata or {})[SETTINGS]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = "the settings that it was made with are missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"cannot resume {path}: {reason}: give another --output, or --overwrite") from None
    return held.num_rows, settings, _rows(path)


def _rows(path: Path) -> Iterator[Record]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            for row in batch.to_pylist():
                tags = [Tag(tag["label"], round(tag["score"], 4)) for tag in row["tags"]]
                yield Record(row["path"], tags, row["error"], row["sha256"])

"""Records as Parquet: one row an image. What writes Parquet, on one machine or on many, writes this schema.

Needs pyarrow, which the ``parquet`` extra brings.
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

#: ``tags`` is best first, and empty where no label was reached or the image could not be read. ``error`` says why it
#: could not be read, or its sidecar not written.
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("tags", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())])), nullable=False),
        pa.field("error", pa.string()),
    ]
)

ROWS = 10_000  # of a row group: what is in memory at a time
SETTINGS = b"zsl_tagger"  # the key of a run's settings in the file's metadata


def records_table(records: Iterable[Record]) -> pa.Table:
    """Return a table of ``PARQUET_SCHEMA``, a row for each record in their order; scores have 4 digits, as in JSON."""
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
    """Write a whole Parquet file, with the settings of the run in its metadata."""
    schema = PARQUET_SCHEMA.with_metadata({SETTINGS: json.dumps(settings)})
    records = iter(records)
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(records, ROWS)):
            writer.write_table(records_table(rows).cast(schema))


def read(path: Path) -> tuple[int, Settings, Iterator[Record]]:
    """Read what :func:`write` wrote: the number of records, the settings, the records.

    Raises:
        UserError: it is another file.
    """
    try:
        held = pq.read_metadata(path)
        settings = dict(parse_json((held.metadata or {})[SETTINGS]))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = "it does not say how it was made" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"cannot go on with {path}: {reason}: give another --output, or --overwrite") from None
    return held.num_rows, settings, _rows(path)


def _rows(path: Path) -> Iterator[Record]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            for row in batch.to_pylist():
                tags = [Tag(tag["label"], round(tag["score"], 4)) for tag in row["tags"]]
                yield Record(row["path"], tags, row["error"], row["sha256"])

"""Records as Parquet: one row an image. What writes Parquet, on one machine or on many, writes this schema.

Needs pyarrow, which the ``parquet`` extra brings.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from zsl_tagger.tag import Record
from zsl_tagger.writers import as_utf8

#: ``tags`` is best first, and empty where no label was reached or the image could not be read; ``error`` says why then.
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("tags", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())])), nullable=False),
        pa.field("error", pa.string()),
    ]
)


def records_table(records: Iterable[Record]) -> pa.Table:
    """A table of ``PARQUET_SCHEMA``, a row for each record in their order; scores as JSON has them, with 4 digits."""
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

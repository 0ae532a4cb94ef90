"""The one Parquet schema of records, read back by pyarrow and by pandas."""

from __future__ import annotations

import os
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

from zsl_tagger.records.parquet import PARQUET_SCHEMA, records_table
from zsl_tagger.records.record import Record, Tag

RECORDS = [
    Record("a.jpg", [Tag("dog", 0.93214), Tag("beach", 0.5)], sha256="ab" * 32),
    Record("b.jpg", [], sha256="cd" * 32),
    Record("c.jpg", [], "no such file"),
]


def test_a_row_an_image_in_the_stated_types(tmp_path: Path) -> None:
    pq.write_table(records_table(RECORDS), tmp_path / "tags.parquet")
    table = pq.read_table(tmp_path / "tags.parquet")
    assert table.schema == PARQUET_SCHEMA
    assert table.schema.field("tags").type.value_type == pa.struct({"label": pa.string(), "score": pa.float32()})
    rows = table.to_pylist()
    assert [(row["path"], row["sha256"], row["error"]) for row in rows] == [
        ("a.jpg", "ab" * 32, None),
        ("b.jpg", "cd" * 32, None),
        ("c.jpg", None, "no such file"),
    ]
    tags = [[(tag["label"], round(tag["score"], 6)) for tag in row["tags"]] for row in rows]
    assert tags == [[("dog", 0.9321), ("beach", 0.5)], [], []]


def test_pandas_reads_it(tmp_path: Path) -> None:
    pq.write_table(records_table(RECORDS), tmp_path / "tags.parquet")
    frame = pandas.read_parquet(tmp_path / "tags.parquet").explode("tags").dropna(subset="tags")
    assert [(row.path, row.tags["label"]) for row in frame.itertuples()] == [("a.jpg", "dog"), ("a.jpg", "beach")]


def test_no_records_have_the_schema_too() -> None:
    assert records_table([]).schema == PARQUET_SCHEMA


def test_a_name_that_is_not_utf8_is_written_as_elsewhere() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert records_table([Record(name, [])]).column("path").to_pylist() == ["caf\\udce9.jpg"]

"""Every format is read back by the reader a program would use."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import WRITERS, JsonWriter

TAGGED = Record("a.jpg", [Tag("dog", 0.93214), Tag("beach", 0.5)])
UNTAGGED = Record("b.jpg", [])
BROKEN = Record("c.jpg", [], "no such file")


def written(kind: str, records: list[Record]) -> str:
    stream = io.StringIO()
    with WRITERS[kind](stream) as write:
        for record in records:
            write(record)
    return stream.getvalue()


def read_back(kind: str, text: str) -> list[dict[str, Any]]:
    """What a program gets from json, jsonl or csv."""
    if kind == "json":
        return json.loads(text)
    if kind == "jsonl":
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def as_csv_row(path: str, label: str = "", score: str = "", error: str = "") -> dict[str, str]:
    return {"path": path, "label": label, "score": score, "error": error}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_holds_tags_or_an_error(kind: str) -> None:
    assert read_back(kind, written(kind, [TAGGED, UNTAGGED, BROKEN])) == [
        {"path": "a.jpg", "tags": [{"label": "dog", "score": 0.9321}, {"label": "beach", "score": 0.5}]},
        {"path": "b.jpg", "tags": []},
        {"path": "c.jpg", "error": "no such file"},
    ]


def test_csv_holds_one_row_a_tag() -> None:
    assert read_back("csv", written("csv", [TAGGED, UNTAGGED, BROKEN])) == [
        as_csv_row("a.jpg", "dog", "0.9321"),
        as_csv_row("a.jpg", "beach", "0.5000"),
        as_csv_row("b.jpg"),
        as_csv_row("c.jpg", error="no such file"),
    ]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_photo_whose_sidecar_failed_has_its_tags_and_the_error(kind: str) -> None:
    text = written(kind, [Record("a.jpg", [Tag("dog", 0.5)], "sidecar a.jpg.xmp: write-protected")])
    if kind == "table":
        assert text.splitlines() == [
            "a.jpg", "  error: sidecar a.jpg.xmp: write-protected", "  dog  0.50  " + "█" * 10
        ]  # fmt: skip
    elif kind == "csv":
        assert read_back(kind, text) == [as_csv_row("a.jpg", "dog", "0.5000", "sidecar a.jpg.xmp: write-protected")]
    else:
        tags = [{"label": "dog", "score": 0.5}]
        assert read_back(kind, text) == [{"path": "a.jpg", "tags": tags, "error": "sidecar a.jpg.xmp: write-protected"}]


def test_table_is_for_people() -> None:
    assert written("table", [TAGGED, UNTAGGED, BROKEN]).splitlines() == [
        "a.jpg",
        "  dog    0.93  " + "█" * 19,
        "  beach  0.50  " + "█" * 10,
        "b.jpg: no tags",
        "c.jpg",
        "  error: no such file",
        "no tags: no label reaches its threshold; --threshold 0 shows all scores",
    ]


@pytest.mark.parametrize(("score", "length"), [(0.0, 1), (0.04, 1), (0.5, 10), (1.0, 20)])
def test_table_bar_grows_with_the_score(score: float, length: int) -> None:
    assert written("table", [Record("a.jpg", [Tag("dog", score)])]).count("█") == length


@pytest.mark.parametrize(
    ("kind", "lines"), [("json", ["[]"]), ("jsonl", []), ("csv", ["path,label,score,error"]), ("table", [])]
)
def test_no_records(kind: str, lines: list[str]) -> None:
    assert written(kind, []).splitlines() == lines


@pytest.mark.parametrize(
    "odd", ["塔 café 🐕", "a,b", 'so-called "dog"', "two\nlines", "carriage\rreturn", " \t'", "\u2028"]
)
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_odd_characters_survive(kind: str, odd: str) -> None:
    records = [Record(odd, [Tag(odd, 0.25)]), Record(odd, [], odd)]
    expected: list[Any] = [{"path": odd, "tags": [{"label": odd, "score": 0.25}]}, {"path": odd, "error": odd}]
    if kind == "csv":
        expected = [as_csv_row(odd, odd, "0.2500"), as_csv_row(odd, error=odd)]
    assert read_back(kind, written(kind, records)) == expected


HINT = "no label reaches its threshold; --threshold 0 shows all scores"


@pytest.mark.parametrize(
    ("records", "lines"),
    [
        ([UNTAGGED], [f"b.jpg: no tags: {HINT}"]),
        ([UNTAGGED] * 1000, [f"no tags on any of 1,000 photos: {HINT}"]),
        ([UNTAGGED, BROKEN, UNTAGGED], ["c.jpg", "  error: no such file", f"no tags on any of 2 photos: {HINT}"]),
        (
            [UNTAGGED, Record("d.jpg", [Tag("dog", 0.5)]), UNTAGGED],
            ["b.jpg: no tags", "d.jpg", "  dog  0.50  " + "█" * 10, "b.jpg: no tags", f"no tags: {HINT}"],
        ),
    ],
)
def test_a_table_without_any_tags_is_one_line_not_one_a_photo(records: list[Record], lines: list[str]) -> None:
    assert written("table", records).splitlines() == lines


EVIL = "\x1b[2J\u202egpj.exe\n"


def test_the_table_shows_control_characters_as_text() -> None:
    records = [Record(EVIL, [Tag(EVIL, 0.5), Tag("dog", 0.5)]), Record(EVIL, [], EVIL), Record(EVIL, [])]
    shown = "\\x1b[2J\\u202egpj.exe\\n"
    assert written("table", records).split("\n")[:6] == [
        shown,
        f"  {shown}  0.50  " + "█" * 10,
        f"  dog{' ' * (len(shown) - 3)}  0.50  " + "█" * 10,
        shown,
        f"  error: {shown}",
        f"{shown}: no tags",
    ]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_on_a_terminal_sends_it_no_control_characters(kind: str) -> None:
    evil = "\x9b\x7f\u202e\u2028"
    text = written(kind, [Record(evil, [], evil)])
    assert not set(evil) & set(text)
    assert json.loads(text.strip("[]\n")) == {"path": evil, "error": evil}


def test_csv_holds_no_formula() -> None:
    record = Record("=1+1.jpg", [Tag("@sum", 0.5)])
    assert read_back("csv", written("csv", [record, Record("-a.jpg", [], "+b")])) == [
        as_csv_row("'=1+1.jpg", "'@sum", "0.5000"),
        as_csv_row("'-a.jpg", error="'+b"),
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_csv_on_a_terminal_shows_control_characters_as_text() -> None:
    stream = Terminal()
    with WRITERS["csv"](stream) as write:
        write(Record(EVIL, [Tag(EVIL, 0.5)]))
    assert stream.getvalue().split("\r\n")[1] == "\\x1b[2J\\u202egpj.exe\\n,\\x1b[2J\\u202egpj.exe\\n,0.5000,"


@pytest.mark.parametrize("kind", WRITERS)
def test_non_ascii_text_is_written_as_it_is(kind: str) -> None:
    assert "塔/café.jpg" in written(kind, [Record("塔/café.jpg", [])])


# --- cut short --------------------------------------------------------------------------------------------


class Stream(io.StringIO):
    """Keeps what had been written at the latest flush; ``interrupt_at`` counts flushes."""

    flushed, flushes, interrupt_at = "", 0, 0

    def flush(self) -> None:
        self.flushed, self.flushes = self.getvalue(), self.flushes + 1
        if self.flushes == self.interrupt_at:
            raise KeyboardInterrupt("Ctrl-C")


@pytest.mark.parametrize("kind", WRITERS)
def test_each_record_is_flushed_whole(kind: str) -> None:
    stream = Stream()
    with WRITERS[kind](stream) as write:
        for count, record in enumerate([TAGGED, BROKEN], 1):
            write(record)
            assert stream.flushed == stream.getvalue()
            assert stream.flushed.startswith(written(kind, [TAGGED, BROKEN][:count]).removesuffix("\n]\n"))
    assert stream.flushed == written(kind, [TAGGED, BROKEN])


def write_json(stream: io.StringIO, records: Iterable[Record]) -> None:
    with JsonWriter(stream) as write:
        for record in records:
            write(record)


def then_ctrl_c(records: list[Record]) -> Iterator[Record]:
    yield from records
    raise KeyboardInterrupt("Ctrl-C")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_json_array_interrupted_between_records_is_closed(count: int) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt, match=r"^Ctrl-C$"):
        write_json(stream, then_ctrl_c([BROKEN] * count))
    assert json.loads(stream.getvalue()) == [BROKEN.as_dict()] * count


@pytest.mark.parametrize("count", [1, 2])
def test_a_json_array_interrupted_while_it_is_flushed_is_closed(count: int) -> None:
    stream = Stream()
    stream.interrupt_at = count
    with pytest.raises(KeyboardInterrupt, match=r"^Ctrl-C$"):
        write_json(stream, [BROKEN] * 3)
    assert json.loads(stream.getvalue()) == [BROKEN.as_dict()] * count

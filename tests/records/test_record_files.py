"""Files of records: what is written is read back, torn ends are found at every byte, nothing is lost or doubled."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_back import read_back

from zsl_tagger.errors import UserError
from zsl_tagger.records.base import RecordFile
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.record_files import LONG, check_not_lost, open_record_file
from zsl_tagger.records.text import CsvFile, JsonLinesFile
from zsl_tagger.records.writers import LASTING

SETTINGS: dict[str, Any] = {"format": "any", "labels": "'cat', 'dog' (1234)", "top-k": None}


def digest(number: int) -> str:
    return f"{number:064x}"


ODD = '=so-called "dog",\r\nin\ntwo\rlines'
RECORDS = [
    Record("a.jpg", [Tag("dog", 0.93214), Tag("beach", 0.5)], sha256=digest(1)),
    Record("塔/café 🐕.jpg", [], sha256=digest(2)),
    Record("c.jpg", [], "no such file"),
    Record(ODD, [Tag("@red, \u202ebicycle", 0.25), Tag("cat", 0.2), Tag("sky", 0.0001)], sha256=digest(4)),
    Record("caf\udce9.jpg", [Tag("cat", 1.0)], sha256=digest(5)),
]


def as_read(kind: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """JSON has an escape for a byte that is no UTF-8, which other formats have not."""
    shown = [record.as_dict() for record in records]
    if kind != "jsonl":
        for record in shown:
            record["path"] = record["path"].replace("\udce9", "\\udce9")
    return shown


def opened(kind: str, path: Path, resume: bool = True, top_k: int | None = None) -> RecordFile:
    return open_record_file(kind, path, {**SETTINGS, "top-k": top_k}, resume)


def write(kind: str, path: Path, records: Sequence[Record], resume: bool = True, top_k: int | None = None) -> None:
    with opened(kind, path, resume, top_k) as file:
        for record in records:
            file(record)


@pytest.fixture(params=LASTING)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tags.out"


# --- one run after another ----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    assert read_back(kind, path) == as_read(kind, RECORDS)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_later_run_knows_what_is_done_and_adds_the_rest(kind: str, path: Path, count: int) -> None:
    write(kind, path, RECORDS[:count])
    with opened(kind, path) as file:
        for number, record in enumerate(RECORDS):
            if record.sha256 is not None:
                assert file.is_done(record.path, record.sha256) == (number < count)
                assert not file.is_done(record.path, digest(99))
                assert not file.is_done("elsewhere.jpg", record.sha256)
                stored = [Tag(tag.label, round(tag.score, 4)) for tag in record.tags]
                assert file.tags_of(record.sha256) == (stored if number < count else None)
        for record in RECORDS[count:]:
            file(record)
    assert read_back(kind, path) == as_read(kind, RECORDS)


def test_without_resume_all_is_new(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    with opened(kind, path, resume=False) as file:
        assert not file.is_done("a.jpg", digest(1))
        assert file.tags_of(digest(1)) is None
        file(RECORDS[1])
    assert read_back(kind, path) == as_read(kind, RECORDS[1:2])


def test_a_changed_photo_has_one_record_and_it_is_the_new_one(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    changed = [
        Record("a.jpg", [Tag("cat", 0.75)], sha256=digest(11)),
        Record("caf\udce9.jpg", [Tag("cup", 0.25)], sha256=digest(15)),
    ]
    write(kind, path, changed)
    assert read_back(kind, path) == as_read(kind, [*RECORDS[1:4], *changed])
    with opened(kind, path) as file:
        assert file.is_done("a.jpg", digest(11))
        assert not file.is_done("a.jpg", digest(1))


def test_an_error_is_replaced_when_the_photo_can_be_read(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    mended = Record("c.jpg", [Tag("cat", 0.75)], sha256=digest(3))
    write(kind, path, [mended])
    assert read_back(kind, path) == as_read(kind, [*RECORDS[:2], *RECORDS[3:], mended])


def test_the_same_error_is_not_written_again_and_another_one_is(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    write(kind, path, [RECORDS[2]])
    assert read_back(kind, path) == as_read(kind, RECORDS)
    other = Record("c.jpg", [], "empty file (0 bytes)")
    write(kind, path, [other])
    assert read_back(kind, path) == as_read(kind, [*RECORDS[:2], *RECORDS[3:], other])


def test_an_error_does_not_cost_the_tags_that_are_there(
    kind: str, path: Path, logged: pytest.LogCaptureFixture
) -> None:
    """A disk that is not there for a while."""
    write(kind, path, RECORDS)
    write(kind, path, [Record("a.jpg", [], "no such file"), Record(ODD, [], "no such file")])
    assert read_back(kind, path) == as_read(kind, RECORDS)
    assert logged.messages == [
        "2 of the images that have tags cannot be read now; their tags are kept: a.jpg (no such file), ..."
    ]


def test_a_photo_whose_sidecar_failed_keeps_its_tags_and_is_not_done(
    kind: str, path: Path, logged: pytest.LogCaptureFixture
) -> None:
    write(kind, path, RECORDS)
    failed = [
        Record("a.jpg", [Tag("dog", 0.93214), Tag("beach", 0.5)], "sidecar a.jpg.xmp: write-protected", digest(1)),
        Record("new.jpg", [Tag("cat", 0.75)], "sidecar new.jpg.xmp: write-protected", digest(6)),
    ]
    write(kind, path, failed)
    assert logged.messages == []
    assert read_back(kind, path) == as_read(kind, [*RECORDS[1:], *failed])
    with opened(kind, path) as file:
        assert not file.is_done("new.jpg", digest(6))
        assert file.sha256_of("new.jpg") is None
        assert file.tags_of(digest(6)) == [Tag("cat", 0.75)]
    mended = Record("new.jpg", [Tag("cat", 0.75)], sha256=digest(6))
    write(kind, path, [mended])
    assert read_back(kind, path) == as_read(kind, [*RECORDS[1:], failed[0], mended])


def test_other_settings_are_refused_and_the_difference_is_told(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    before = path.read_bytes()
    with pytest.raises(UserError) as caught, opened(kind, path, top_k=3):
        pass
    assert "tags.out" in str(caught.value)
    assert str(caught.value).endswith(
        "with other settings (top-k: None, requested 3): use the same settings, another --output, or --overwrite"
    )
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not path.with_name("tags.out.journal.jsonl").exists()
    write(kind, path, RECORDS[:1], resume=False, top_k=3)
    write(kind, path, RECORDS[1:2], top_k=3)
    assert read_back(kind, path) == as_read(kind, RECORDS[:2])


def test_a_file_of_no_records_takes_any_settings(kind: str, path: Path) -> None:
    write(kind, path, [])
    write(kind, path, RECORDS, top_k=3)
    with pytest.raises(UserError, match="top-k: 3, requested None"), opened(kind, path):
        pass


def test_what_is_written_is_there_while_the_run_goes_on(kind: str, path: Path) -> None:
    where = path.with_name("tags.out.journal.jsonl") if kind == "parquet" else path
    with opened(kind, path) as file:
        for count, record in enumerate(RECORDS, 1):
            file(record)
            reader = "jsonl" if kind == "parquet" else kind
            assert read_back(reader, where) == as_read(reader, RECORDS[:count])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_is_stopped_leaves_what_it_wrote(kind: str, path: Path, error: type[BaseException]) -> None:
    write(kind, path, RECORDS[:2])
    changed = Record("a.jpg", [Tag("cat", 0.75)], sha256=digest(11))
    message = "this stopped it"
    with pytest.raises(error, match=message), opened(kind, path) as file:  # noqa: PT012
        file(changed)
        raise error(message)
    assert kind != "parquet" or read_back(kind, path) == as_read(
        kind, RECORDS[:2] if error is OSError else [RECORDS[1], changed]
    )
    write(kind, path, RECORDS[2:])
    assert read_back(kind, path) == as_read(kind, [RECORDS[1], changed, *RECORDS[2:]])


def test_only_the_output_and_its_settings_are_left(kind: str, path: Path) -> None:
    write(kind, path, RECORDS[:2])
    write(kind, path, [Record("a.jpg", [], sha256=digest(11))])
    beside = {"tags.out.settings.json"} if kind in ("jsonl", "csv") else set()
    assert {file.name for file in path.parent.iterdir()} == {"tags.out"} | beside


def test_permissions_stay_when_a_record_is_replaced(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    path.chmod(0o640)
    write(kind, path, [Record("a.jpg", [], sha256=digest(11))])
    if kind != "parquet":
        assert path.stat().st_mode & 0o777 == 0o640


# --- killed at any byte -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_cut_at_every_byte_it_goes_on_to_the_same_file(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    whole, settings = path.read_bytes(), path.with_name("tags.out.settings.json").read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with opened(kind, path) as file:
            for record in RECORDS:
                if record.sha256 is None or not file.is_done(record.path, record.sha256):
                    file(record)
        assert path.read_bytes() == whole, f"cut at {size}"
    assert path.with_name("tags.out.settings.json").read_bytes() == settings


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\r\n\\'), min_size=1, max_size=9)
records = st.builds(
    lambda path, tags, sha256: Record(path, [Tag(label, score) for label, score in tags.items()], sha256=sha256),
    texts,
    st.dictionaries(texts, st.integers(0, 10_000).map(lambda score: score / 10_000), max_size=4),
    st.integers(0, 5).map(digest),
)


@pytest.mark.parametrize("maker", [JsonLinesFile, CsvFile])
@given(several=st.lists(records, max_size=4), data=st.data())
def test_any_records_are_found_again_before_any_cut(
    tmp_path_factory: pytest.TempPathFactory, maker: type[JsonLinesFile], several: list[Record], data: st.DataObject
) -> None:
    file = maker(tmp_path_factory.getbasetemp() / "any", SETTINGS, True)
    pieces = [file.to_bytes(record) for record in several]
    content = b"".join(pieces)
    cut = data.draw(st.integers(0, len(content)))
    place = tmp_path_factory.getbasetemp() / "bytes"
    place.write_bytes(content[:cut])
    with place.open("rb") as stream:
        found = list(file.read(stream))
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    whole = sum(end <= cut for end in ends)
    assert [item.record for item in found if item.record is not None] == several[:whole]
    assert [item.end for item in found[:whole]] == ends[:whole]
    assert all(item.record is None for item in found[whole:])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_torn_end_is_told(kind: str, path: Path, logged: pytest.LogCaptureFixture) -> None:
    write(kind, path, RECORDS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    write(kind, path, [])
    (told,) = logged.messages
    assert told.startswith(f"{path}: its last ")
    assert told.endswith("bytes were not a complete record; that image is tagged again")
    path.write_bytes(whole + b"\0" * 5003)  # a power cut
    write(kind, path, [])
    assert "its last 5,003 bytes" in logged.messages[-1]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("line", [3, 4])
def test_what_was_changed_by_hand_in_the_middle_is_not_cut_off(kind: str, line: int, path: Path) -> None:
    write(kind, path, RECORDS)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = b"my notes\r\n"
    path.write_bytes(b"".join(lines))
    with (
        pytest.raises(UserError, match=r"line \d is damaged, and records follow it: fix"),
        opened(kind, path),
    ):
        pass
    assert path.read_bytes() == b"".join(lines)


def test_csv_rows_in_another_order_are_not_taken_for_records(path: Path) -> None:
    """As a spreadsheet sorts them."""
    write("csv", path, RECORDS[:2])
    header, *rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, rows[0], rows[2], rows[1]]))
    with pytest.raises(UserError, match="line 2 is damaged"), opened("csv", path):
        pass


def test_a_replaced_record_counts_no_more_after_a_kill(path: Path) -> None:
    """Both are there then, and the later one counts."""
    write("jsonl", path, RECORDS)
    changed = Record("a.jpg", [Tag("cat", 0.75)], sha256=digest(11))
    with path.open("ab") as file:
        file.write((json.dumps(changed.as_dict()) + "\n").encode())
    with opened("jsonl", path) as again:
        assert again.is_done("a.jpg", digest(11))
        assert not again.is_done("a.jpg", digest(1))
    assert read_back("jsonl", path) == as_read("jsonl", [*RECORDS[1:], changed])


def test_a_killed_parquet_run_goes_on_with_its_journal(path: Path) -> None:
    write("parquet", path, RECORDS[:3])
    file = opened("parquet", path).__enter__()
    file(RECORDS[3])  # and no more: killed
    assert read_back("parquet", path) == as_read("parquet", RECORDS[:3])  # as it was
    write("parquet", path, RECORDS[4:])
    assert read_back("parquet", path) == as_read("parquet", RECORDS)


def test_a_killed_transaction_leaves_no_half_photo(path: Path) -> None:
    write("sqlite", path, RECORDS[:1])
    with opened("sqlite", path) as file, pytest.raises(UserError, match="UNIQUE constraint failed"):
        file(Record("b.jpg", [Tag("cat", 0.5), Tag("cat", 0.4)], sha256=digest(7)))  # the second tag fails
    assert read_back("sqlite", path) == as_read("sqlite", RECORDS[:1])


# --- other files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_without_its_settings_a_file_is_not_gone_on_with(kind: str, path: Path) -> None:
    write(kind, path, RECORDS)
    before = path.read_bytes()
    for content in (None, b"", b"{", b"[3]", b"3"):
        beside = path.with_name("tags.out.settings.json")
        beside.unlink() if content is None else beside.write_bytes(content)
        with (
            pytest.raises(UserError, match=r"tags.out.settings.json, which stores its settings"),
            opened(kind, path),
        ):
            pass
    assert path.read_bytes() == before


def test_a_csv_file_of_other_columns(path: Path) -> None:
    write("csv", path, RECORDS)
    path.write_bytes(path.read_bytes().replace(b"path,", b"file,"))
    with (
        pytest.raises(UserError, match="expected its first line to be path,label,score,error,sha256,n_tags"),
        opened("csv", path),
    ):
        pass


@pytest.mark.parametrize("content", [b"PAR1 or not", b"SQLite format 3\0 or not" * 99, b"text\n" * 1000])
@pytest.mark.parametrize("kind", ["parquet", "sqlite"])
def test_a_file_that_is_none_of_the_kind(kind: str, content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot (resume|write) .*tags.out"), opened(kind, path):
        pass
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE photos (mine TEXT)")
    database.close()
    before = path.read_bytes()
    with (
        pytest.raises(UserError, match="is the database of another program: give another --output"),
        opened("sqlite", path),
    ):
        pass
    assert path.read_bytes() == before


def test_a_parquet_file_of_another_program(path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"path": ["a.jpg"]}), path)
    with (
        pytest.raises(UserError, match="the settings that it was made with are missing: give another --output"),
        opened("parquet", path),
    ):
        pass


# --- what is not replaced unasked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "json", *LASTING])
def test_what_took_long_is_not_replaced_unasked(kind: str, path: Path) -> None:
    check_not_lost(kind, path)
    path.write_bytes(b"")
    check_not_lost(kind, path)
    path.write_bytes(b"x" * LONG)
    resume = "--resume continues it, " if kind in LASTING else ""
    message = f"^{path} already exists, [0-9,]+ bytes: {resume}--overwrite replaces it$"
    if kind in ("parquet", "sqlite"):  # binary ones: never
        with pytest.raises(UserError, match=message):
            check_not_lost(kind, path)
    else:
        check_not_lost(kind, path)
    path.write_bytes(b"x" * (LONG + 1))
    with pytest.raises(UserError, match=message):
        check_not_lost(kind, path)


def test_the_journal_of_a_killed_run_is_not_replaced_unasked(path: Path) -> None:
    path.with_name("tags.out.journal.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"tags.out.journal.jsonl already exists, 3 bytes: --resume continues it"):
        check_not_lost("parquet", path)

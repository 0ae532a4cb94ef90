"""zsl-tagger index and search, as a person types them."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlparse

import pytest
from made_data import run_command
from paths import ROOT
from PIL import Image

pytestmark = pytest.mark.slow


LEFT_OUT = "note: 2 files skipped, not photos: .csv\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Return an index of the four example photos."""
    folder = tmp_path_factory.mktemp("made") / "index"
    assert run_command("index", examples, "--index", folder) == (0, counts(4, added=4), LEFT_OUT)
    return folder


def counts(photos: int, **changes: int) -> str:
    names = ("added", "changed", "moved", "removed", "failed")
    return f"{photos} photos in the index: {', '.join(f'{name} {changes.get(name, 0)}' for name in names)}\n"


def test_a_table_for_people(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status, told, errors = run_command("search", "cat", "red saucer", "person, sky -cat", "--index", index, "--top", 2)
    assert (status, errors) == (0, "")
    assert re.sub(r"0\.\d\d  █+", "#", told) == (
        "cat: 1 of 4 photos\n"
        "  examples/cat.jpg     #\n"
        "  below the threshold:\n"
        "  examples/coffee.jpg  #\n"
        "red saucer: 0 of 4 photos\n"
        "  below the threshold:\n"
        "  examples/coffee.jpg     #\n"
        "  examples/astronaut.jpg  #\n"
        "person, sky -cat: 0 of 4 photos\n"
        "  below the threshold:\n"
        "  examples/rocket.jpg     #\n"
        "  examples/astronaut.jpg  #\n"
    )


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_records_for_programs(index: Path, examples: Path, kind: str) -> None:
    _, told, _ = run_command("search", "cat", "sky -building", "--index", index, "--top", 1, "--format", kind)
    records = json.loads(told) if kind == "json" else [json.loads(line) for line in told.splitlines()]
    assert [record["query"] for record in records] == ["cat", "sky -building"]
    score = records[0]["found"][0].pop("score")
    assert score == pytest.approx(0.9843, abs=0.005)
    found = [{"path": str(examples / "cat.jpg"), "passes": True}]
    assert records[0] == {"query": "cat", "photos": 4, "passing": 1, "found": found}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zebbra"], "unknown label 'zebbra', did you mean"),
        (["cat", "snow -doggg"], "unknown label 'doggg', did you mean"),
        ([""], "the query '' is empty"),
        (["snow -hot dog"], 'write "-hot-dog" if they belong together'),
        (["cat", "--html", "cat.jpg"], "--html cat.jpg has the name of an image: give one such as sheet.html"),
        (["cat", "--html", "no/such/folder.html"], "cannot write no/such/folder.html: No such file or directory"),
        (["cat", "--model", "no-model"], "no model folder at no-model"),
    ],
)
def test_what_cannot_be_done_is_one_line(index: Path, arguments: list[str], message: str) -> None:
    status, told, errors = run_command("search", *arguments, "--index", index)
    assert (status, told) == (2, "")
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", errors)


def test_no_index_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    told = f"error: no index at {folder}: make one with zsl-tagger index PHOTOS --index {folder}\n"
    assert run_command("search", "cat", "--index", tmp_path / "none") == (2, "", told)
    assert not (tmp_path / "none").exists()


def test_a_query_may_begin_with_a_minus(index: Path) -> None:
    status, told, _ = run_command("search", "--index", index, "--", "-cat")
    assert status == 0
    assert told.startswith("-cat: 3 of 4 photos\n")


def test_without_index_option_the_data_folder_is_used(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    status, told, errors = run_command("index")
    assert (status, told) == (2, "")
    assert "has no folders of photos yet: give one or more" in errors
    assert run_command("index", examples)[:2] == (0, counts(4, added=4))
    assert (tmp_path / "data" / "zsl-tagger" / "library" / "index.db").is_file()
    assert run_command("index")[:2] == (0, counts(4))
    assert run_command("search", "cat", "--top", 1)[1].startswith("cat: 1 of 4 photos\n")


def test_an_unreadable_photo_is_reported_and_the_rest_is_indexed(tmp_path: Path, examples: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(examples / "cat.jpg", photos / "cat.jpg")
    (photos / "notes.jpg").write_text("no picture")
    status, told, errors = run_command("index", photos, tmp_path / "gone.jpg", "--index", tmp_path / "index")
    assert (status, told) == (1, counts(1, added=1, failed=2))
    assert errors.splitlines() == [
        f"warning: {photos / 'notes.jpg'}: not an image that Pillow can read",
        f"warning: {tmp_path / 'gone.jpg'}: No such file or directory",
    ]


def test_photos_are_not_touched(tmp_path: Path, examples: Path) -> None:
    shutil.copytree(examples, tmp_path / "photos")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "photos").iterdir()}
    run_command("index", tmp_path / "photos", "--index", tmp_path / "index")
    run_command("search", "cat", "--index", tmp_path / "index", "--html", tmp_path / "sheet.html")
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "photos").iterdir()
    } == before


# --- the contact sheet


class Sheet(HTMLParser):
    """Collect what a browser would show."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for found, own in self.tags if found == tag and (value := own.get(name)) is not None]


ODD = ["<b>&\"' #1?.jpg", "zwei\nZeilen.png", "öl %41.jpg", os.fsdecode(b"not utf-8 \xff.jpg")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> tuple[Path, Path]:
    """(photos with odd names, their index)."""
    folder = tmp_path_factory.mktemp("odd") / "<i>photos"
    folder.mkdir()
    for number, name in enumerate(ODD):
        with Image.open(examples / "cat.jpg") as image:
            image.rotate(number).save(folder / name)
    index = folder.parent / "index"
    assert run_command("index", folder, "--index", index)[:2] == (0, counts(4, added=4))
    assert run_command("index", folder, "--index", index)[:2] == (0, counts(4))
    return folder, index


def test_odd_names_are_one_line_each(odd: tuple[Path, Path]) -> None:
    folder, index = odd
    result = subprocess.run(
        [sys.executable, ROOT / "cli.py", "search", "cat", "--index", index],
        capture_output=True,
        cwd=folder,
        check=True,
    )
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 5
    assert {re.sub(r"[01]\.\d\d  █+$", "", line[2:]).strip() for line in lines[1:]} == {
        ODD[0], "zwei\\nZeilen.png", ODD[2], "not utf-8 \\udcff.jpg"
    }  # fmt: skip
    _, told, _ = run_command("search", "cat", "--index", index, "--format", "jsonl")
    assert {Path(one["path"]).name for one in json.loads(told)["found"]} == set(ODD)


def test_the_sheet_needs_no_other_file_and_escapes_all(odd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, index = odd
    page = tmp_path / "sheet.html"
    assert run_command("search", "cat", "<u>-cat", "--index", index, "--html", page)[0] == 2  # no such word
    assert not page.exists()
    assert run_command("search", "cat", "--index", index, "--html", page)[0] == 0
    sheet = Sheet(page)
    assert not {tag for tag, _ in sheet.tags} & {"script", "link", "iframe", "u"}
    assert all(source.startswith("data:image/jpeg;base64,") for source in sheet.values("img", "src"))
    assert len(sheet.values("img", "src")) == 4
    assert "http" not in re.sub(r'http-equiv|base64,[^"]*', "", page.read_text())
    assert "url(" not in page.read_text()
    linked = {unquote_to_bytes(urlparse(link).path) for link in sheet.values("a", "href")}
    assert linked == {os.fsencode(folder / name) for name in ODD}
    assert set(sheet.values("img", "alt")) == {
        ODD[0],
        "zwei\\nZeilen.png",
        ODD[2],
        "not utf-8 \N{REPLACEMENT CHARACTER}.jpg",
    }
    assert ODD[0] in sheet.text
    assert "4 of 4 photos reach the threshold" in sheet.text


def test_the_sheet_shows_missing_photos(tmp_path: Path, examples: Path) -> None:
    shutil.copytree(examples, tmp_path / "photos")
    run_command("index", tmp_path / "photos", "--index", tmp_path / "index")
    (tmp_path / "photos" / "cat.jpg").unlink()
    assert run_command("search", "cat", "--index", tmp_path / "index", "--html", tmp_path / "sheet.html")[0] == 0
    sheet = Sheet(tmp_path / "sheet.html")
    assert "cannot be read now" in sheet.text
    assert len(sheet.values("img", "src")) == 3
    assert html.escape("Below the threshold") in sheet.text


def test_the_index_is_small(index: Path) -> None:
    """At most 25 KB per photo, as docs/search.md says."""
    with sqlite3.connect(index / "index.db") as database:
        sizes = database.execute(
            "SELECT length(tokens) + length(logits) FROM contents JOIN scores ON content = id"
        ).fetchall()
    assert len(sizes) == 4
    assert max(size for (size,) in sizes) <= 25_000

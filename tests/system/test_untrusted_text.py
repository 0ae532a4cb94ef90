"""Text that a stranger chose: one line for people, exact for programs, no formula for spreadsheets."""

from __future__ import annotations

import json
import os

import pytest

from zsl_tagger.system.untrusted_text import json_line, printable, printable_path, spreadsheet_cell

HARMFUL = {
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\x1b[2Jb": "a\\x1b[2Jb",
    "a\x9b31mb": "a\\x9b31mb",  # the same in one character, which terminals obey too
    "two\nlines\r": "two\\nlines\\r",
    "tab\tdel\x7fnul\0": "tab\\tdel\\x7fnul\\x00",
    "a\u2028b\u2029c\x85d": "a\\u2028b\\u2029c\\x85d",
    "photo\u202egpj.exe": "photo\\u202egpj.exe",
    "\u2066a\u2069\u200f\u200e\u061c\u202a": "\\u2066a\\u2069\\u200f\\u200e\\u061c\\u202a",
    "not utf-8 \udcff": "not utf-8 \\udcff",
}
HARMLESS = ["", "塔/café 🐕.jpg", "שלום.jpg", "a\u200cb", "👩\u200d👧", "a\\nb", "'=1"]


@pytest.mark.parametrize("text", HARMFUL)
def test_what_a_terminal_obeys_is_shown_on_one_line(text: str) -> None:
    assert printable(text) == HARMFUL[text]


def test_bytes_of_a_path_that_are_not_utf_8_are_replaced() -> None:
    assert printable_path(os.fsdecode(b"caf\xe9\n/\xc3\xa9.jpg")) == "caf\ufffd\\n/é.jpg"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_stays(text: str) -> None:
    assert printable(text) == text
    assert json_line(text) == json.dumps(text, ensure_ascii=False)
    assert spreadsheet_cell(text) == text


@pytest.mark.parametrize("text", HARMFUL)
def test_json_is_safe_to_print_and_exact(text: str) -> None:
    line = json_line({"path": text})
    assert printable(line) == line
    assert json.loads(line) == {"path": text}


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_spreadsheet_finds_no_formula(first: str) -> None:
    assert spreadsheet_cell(f"{first}cmd|' /C calc'!A0") == f"'{first}cmd|' /C calc'!A0"
    assert spreadsheet_cell(f"a{first}") == f"a{first}"

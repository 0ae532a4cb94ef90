"""Make text that a stranger may have chosen, such as a file name, safe to look at and to open in a spreadsheet."""

from __future__ import annotations

import json
import re
from typing import Any

#: Control characters (a terminal obeys them), line and paragraph separators, marks that change the direction of text
#: (they make ``gpj.exe`` look like ``exe.jpg``), and halves of characters, which no stream can encode.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: What a spreadsheet takes for the start of a formula, also after it has normalised full-width characters.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def printable(text: str) -> str:
    r"""Return text on one line, with what a terminal would obey or not show as Python writes it: ``\n``, ``\u202e``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def json_line(value: Any) -> str:
    r"""Return JSON on one line that is safe to print and reads back as ``value``: ``\u202e``, but ``é`` as it is."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def spreadsheet_cell(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: with an apostrophe in front where it looks like one."""
    return f"'{text}" if _FORMULA.match(text) else text

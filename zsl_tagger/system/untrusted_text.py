"""Make untrusted text, such as a file name, safe to print and to open in a spreadsheet."""

from __future__ import annotations

import json
import os
import re
from typing import Any

#: Control characters (a terminal executes them), line and paragraph separators, bidirectional marks (they make
#: ``gpj.exe`` look like ``exe.jpg``), and lone surrogates, which no stream can encode.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Characters that start a formula in a spreadsheet, including their full-width forms.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def printable(text: str) -> str:
    r"""Return text on one line, with control and invisible characters escaped as in Python: ``\n``, ``\u202e``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_path(path: str) -> str:
    """Return a file's path as :func:`printable` text, with a replacement character for what is not UTF-8."""
    return printable(os.fsencode(path).decode("utf-8", "replace"))


def json_line(value: Any) -> str:
    r"""Return one line of JSON, safe to print, that reads back as ``value``: ``\u202e`` is escaped, ``é`` is not."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def spreadsheet_cell(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: prefixed with an apostrophe if it looks like one."""
    return f"'{text}" if _FORMULA.match(text) else text

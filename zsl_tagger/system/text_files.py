"""Detect the encoding and delimiter of text files written by other programs, such as Excel."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from zsl_tagger.errors import UserError

_MARKS = (  # UTF-32 first: its mark starts with the UTF-16 mark
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip
_BLOCK = 1 << 20  # bytes


def encoding_of(path: Path) -> str:
    """Return the encoding given by the byte order mark of a text file, or UTF-8 without one.

    Raises:
        UserError: the file contains NUL characters, so it is not text, or does not match its mark.
        UnicodeDecodeError: it has another encoding.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        file.seek(0)
        try:
            _check_text(file, path, encoding)
        except UnicodeDecodeError:
            if encoding == "utf-8":
                raise
            raise UserError(
                f"{path} has the byte order mark of {encoding}, but is not valid {encoding} text: it is damaged"
            ) from None
    return encoding


def _check_text(file: BinaryIO, path: Path, encoding: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    while block := file.read(_BLOCK):
        if "\0" in decoder.decode(block):
            raise UserError(
                f"{path} contains NUL bytes: expected text. It is damaged, or UTF-16 without a byte order mark: "
                "save it as UTF-8"
            )
    decoder.decode(b"", final=True)


def delimiter_of(header: str) -> str:
    """Return the delimiter of a table, guessed from its first line: comma, semicolon, tab or vertical bar."""
    return max(",;\t|", key=header.count)

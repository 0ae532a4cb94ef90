"""Lists of labels that people write: in a file or on the command line."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.system.text_files import encoding_of

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def read_labels_file(path: Path) -> list[str]:
    """Return the labels of a text file: one a line or several with commas, ``#`` starts a comment.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark), or a label holds a control character.
    """
    try:
        text = path.read_bytes().decode(encoding_of(path))
    except OSError as error:
        raise UserError(f"cannot read the labels file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the labels file {path} is not UTF-8 text: save it as UTF-8") from None
    try:
        return [name for line in _LINE_BREAK.split(text) for name in split_labels(line.partition("#")[0])]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def split_labels(text: str) -> list[str]:
    """``"dog, beach"`` -> ``["dog", "beach"]``; a line break separates labels as a comma does.

    Raises:
        UserError: a label holds a control character.
    """
    names = [composed(name).strip() for part in _LINE_BREAK.split(text) for name in part.split(",")]
    for name in names:
        if has_control_character(name):
            raise UserError(
                f"the label {name!r} holds a tab or another control character: put a space there, or a comma between "
                "two labels"
            )
    return [name for name in names if name]


def composed(label: str) -> str:
    """Return a label in the Unicode form NFC, so that "\u00e9" in one character and in two is the same label."""
    return unicodedata.normalize("NFC", label)


def has_control_character(label: str) -> bool:
    """Return whether a label holds a tab, a line break or another character that is no text."""
    return any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in label)

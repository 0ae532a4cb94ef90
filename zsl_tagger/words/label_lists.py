"""Lists of labels that people write: in a file or on the command line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.system.text_files import encoding_of

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")


def read_class_list(path: Path) -> list[str]:
    """Return the names of a list of classes: one a line, whole, with every comma and ``#`` in it.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark), or a name holds a control character.
    """
    names = [composed(line).strip() for line in read_lines(path)]
    _check_no_control_character(names, f"{path}: ")
    return [name for name in names if name]


def read_labels_file(path: Path, known: Collection[str] = ()) -> list[str]:
    """Return the labels that a person wrote in a text file: one a line or several with commas.

    ``#`` at the start of a line or after a space starts a comment. A line that is a known name is that one label,
    whatever it holds.

    Args:
        known: names that hold commas or ``#``, see :func:`names_with_marks`.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark), or a label holds a control character.
    """
    whole = {_spelling(name): name for name in known}
    lines = read_lines(path)
    try:
        cut = [
            [whole[_spelling(line)]] if _spelling(line) in whole else split_labels(_COMMENT.sub("", line), known)
            for line in lines
        ]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return [name for names in cut for name in names]


def read_lines(path: Path, what: str = "labels") -> list[str]:
    """Return the lines of a text file that a person wrote.

    Args:
        what: what the file should hold, for the message of an error.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark).
    """
    try:
        return _LINE_BREAK.split(path.read_bytes().decode(encoding_of(path)))
    except OSError as error:
        raise UserError(f"cannot read the {what} file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the {what} file {path} is not UTF-8 text: save it as UTF-8") from None


def split_labels(text: str, known: Collection[str] = ()) -> list[str]:
    """``"dog, beach"`` -> ``["dog", "beach"]``; a line break separates labels as a comma does.

    Args:
        known: names that stay whole although they hold commas, such as ``"tench, Tinca tinca"``, the longest first.

    Raises:
        UserError: a label holds a control character.
    """
    whole = {tuple(map(_spelling, name.split(","))): name for name in known if "," in name}
    names = [name for line in _LINE_BREAK.split(text) for name in _split_at_commas(line, whole)]
    _check_no_control_character(names)
    return [name for name in names if name]


def _split_at_commas(line: str, whole: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    parts = [composed(part).strip() for part in line.split(",")]
    lengths = sorted({len(key) for key in whole}, reverse=True)
    keys = [_spelling(part) for part in parts] if whole else []
    place = 0
    while place < len(parts):
        found = next((n for n in lengths if tuple(keys[place : place + n]) in whole), 0)
        yield whole[tuple(keys[place : place + found])] if found else parts[place]
        place += found or 1


def names_with_marks(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that :func:`split_labels` or :func:`read_labels_file` would cut: those with a comma or ``#``."""
    return tuple(name for name in names if "," in name or "#" in name)


def _spelling(name: str) -> str:
    return " ".join(composed(name).casefold().split())


def _check_no_control_character(names: Iterable[str], where: str = "") -> None:
    for name in names:
        if has_control_character(name):
            raise UserError(
                f"{where}the label {name!r} holds a tab or another control character: put a space there, or a comma "
                "between two labels"
            )


def composed(label: str) -> str:
    """Return a label in the Unicode form NFC, so that "\u00e9" in one character and in two is the same label."""
    return unicodedata.normalize("NFC", label)


def has_control_character(label: str) -> bool:
    """Return whether a label holds a tab, a line break or another character that is no text."""
    return any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in label)

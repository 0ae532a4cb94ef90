"""Parse lists of labels from a file or the command line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.system.text_files import encoding_of

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # Unicode's categories Cc, Zl and Zp

_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")


def read_class_list(path: Path) -> list[str]:
    """Return the class names in a file, one per line, including any commas and ``#``.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark), or a name contains a control character.
    """
    names = [composed(line).strip() for line in read_lines(path)]
    _check_no_control_character(names, f"{path}: ")
    return [name for name in names if name]


def read_labels_file(path: Path, known: Collection[str] = ()) -> list[str]:
    """Return the labels in a text file: one per line, or several separated by commas.

    ``#`` at the start of a line or after a space starts a comment. A line that equals a known name is one
    label, whatever it contains.

    Args:
        known: names that contain commas or ``#``, see :func:`names_with_marks`.

    Raises:
        UserError: it cannot be read or is not UTF-8 (or UTF-16 with its mark), or a label contains a control character.
    """
    whole = {_spelling(name): name for name in known}
    lines, names = read_lines(path), list[str]()
    try:
        for line in lines:
            name = whole.get(_spelling(line)) if whole else None
            names += split_labels(_COMMENT.sub("", line), known) if name is None else [name]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return names


def read_lines(path: Path, what: str = "labels") -> list[str]:
    """Return the lines of a text file written by a person.

    Args:
        what: plural noun for its content, for error messages.

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
    """Split ``"dog, beach"`` into ``["dog", "beach"]``; line breaks separate labels too.

    Args:
        known: names that are not split although they contain commas, e.g. ``"tench, Tinca tinca"``; the longest wins.

    Raises:
        UserError: a label contains a control character.
    """
    whole = {tuple(map(_spelling, name.split(","))): name for name in known if "," in name}
    names = [name for line in _LINE_BREAK.split(text) for name in _split_at_commas(line, whole)]
    _check_no_control_character(names)
    return [name for name in names if name]


def _split_at_commas(line: str, whole: Mapping[tuple[str, ...], str]) -> list[str]:
    parts = [composed(part).strip() for part in line.split(",")]
    if not whole:
        return parts
    lengths = sorted({len(key) for key in whole}, reverse=True)
    keys = [_spelling(part) for part in parts]
    names, place = [], 0
    while place < len(parts):
        found = next((n for n in lengths if tuple(keys[place : place + n]) in whole), 0)
        names.append(whole[tuple(keys[place : place + found])] if found else parts[place])
        place += found or 1
    return names


def names_with_marks(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names with a comma or ``#``, which :func:`split_labels` or :func:`read_labels_file` would split."""
    return tuple(name for name in names if "," in name or "#" in name)


def _spelling(name: str) -> str:
    return " ".join(composed(name).casefold().split())


def _check_no_control_character(names: Iterable[str], where: str = "") -> None:
    for name in names:
        if has_control_character(name):
            raise UserError(
                f"{where}the label {name!r} contains a tab or another control character: replace it by a space, or a "
                "comma between two labels"
            )


def composed(label: str) -> str:
    """Return a label in Unicode form NFC, so that "\u00e9" as one or two code points is the same label."""
    return unicodedata.normalize("NFC", label)


def has_control_character(label: str) -> bool:
    """Return whether a label contains a tab, a line break or another control character."""
    return _CONTROL_CHARACTER.search(label) is not None

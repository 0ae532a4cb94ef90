"""Lists of labels that people write: in a file or on the command line."""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.errors import UserError


def read_labels_file(path: Path) -> list[str]:
    """Labels of a text file: one a line or several with commas, ``#`` starts a comment."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the labels file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the labels file {path} is not UTF-8 text") from None
    return [name for line in lines for name in split_labels(line.partition("#")[0])]


def split_labels(text: str) -> list[str]:
    """``"dog, beach"`` -> ``["dog", "beach"]``."""
    return [name.strip() for name in text.split(",") if name.strip()]

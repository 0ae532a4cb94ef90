"""File names of a prepared data set folder, and the notation of labels and paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import has_control_character

DATASET_FORMAT = 1


DATA_FILE = "data.csv"


#: Fourth column of data.csv, in folders with partial labels only.
NEGATIVES_COLUMN = "negatives"


VECTORS_FILE = "wordvec_array.pth"


INFO_FILE = "dataset.json"


#: Optional copy of the data set under the names of the released code.
RELEASED_FOLDER = "released"


#: Identifies an unfinished run, until ``dataset.json`` exists.
CLAIM_FILE = ".prepare.json"


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class DatasetError(UserError):
    """A data set folder cannot be used; the message names file and line."""


def format_labels(labels: Iterable[str]) -> str:
    """Format ``["sky", "red car"]`` as ``"[sky, red car]"``."""
    return f"[{', '.join(labels)}]"


def parse_labels(cell: str) -> list[str]:
    """Parse ``"[sky, red car]"`` to ``["sky", "red car"]`` like the released code; ``"[]"`` to ``[]``."""
    inside = cell.replace("[", "").replace("]", "")
    return inside.split(", ") if inside else []


def label_fault(label: str) -> str | None:
    """Return why a label cannot be written to ``data.csv``; None if it can."""
    if not label.strip() or label != label.strip():
        return "is empty or has spaces around it"
    if has_control_character(label):
        return "contains a tab, a line break or another control character"
    if re.search(r", |[\[\]]", label):
        return "contains a comma and a space, or a bracket, which separate labels in data.csv"
    return None


def path_fault(path: str) -> str | None:
    """Return why a path is not a valid path below the image root; None if it is."""
    if not path:
        return "the image path is empty"
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) or "\\" in path or "\0" in path:
        return f"expected a path below the image root, with '/', got {path!r}"
    if any(ord(char) < 32 for char in path) or not _is_utf8(path):
        return f"the path {path!r} contains control characters or is not UTF-8"
    if ".." in path.split("/"):
        return f"the path {path!r} leaves the image root"
    if path != PurePosixPath(path).as_posix() or path == ".":
        return f"expected a path without '.' or empty parts, got {path!r}"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

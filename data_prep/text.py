"""Read text files of data sets."""

from __future__ import annotations

import logging
from pathlib import Path

from zsl_tagger.system.text_files import encoding_of

logger = logging.getLogger(__name__)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or in Latin-1, as in old lists.

    A warning is logged for Latin-1, which any bytes could be.

    Raises:
        UserError: the file contains NUL bytes.
    """
    try:
        encoding = encoding_of(path)
    except UnicodeDecodeError:
        encoding = "latin-1"
        logger.warning(
            "%s is not UTF-8 and is read as Latin-1: if letters with accents are wrong, save it as UTF-8", path
        )
    return path.read_bytes().decode(encoding)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the non-blank lines of a list, stripped, with their numbers."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), start=1)]
    return [(number, line) for number, line in lines if line]

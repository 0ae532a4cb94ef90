"""Read NUS-WIDE's text matrices of 0 and 1 in blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.sparse import csr_array

from zsl_tagger.errors import UserError

_CHUNK = 16 << 20  # bytes of the tag matrix read at a time


def read_binary_matrix(path: Path, columns: int, rows: int) -> csr_array:
    """Read a text of 0 and 1, separated by spaces or tabs, into a sparse bool matrix ``(rows, columns)``.

    Raises:
        UserError: a row is too short or too long, a value is neither 0 nor 1, or the number of rows is another one; the
            message names file and line.
    """
    parts, line = [], 1
    with path.open("rb") as file:
        end = _content_end(file)
        while block := file.read(min(_CHUNK, max(end - file.tell(), 0))):
            block += file.readline()
            parts.append(_parse_block(block, columns, path, line))
            line += block.count(b"\n")
    lengths = np.concatenate([counts for counts, _ in parts]) if parts else np.zeros(0, np.int64)
    if len(lengths) != rows:
        raise UserError(f"{path}: expected {rows:,} rows, one for each image of the image list, got {len(lengths):,}")
    indices = np.concatenate([ones for _, ones in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((np.ones(len(indices), bool), indices, starts), shape=(rows, columns))


def _content_end(file: BinaryIO) -> int:
    """Return the offset of the blank lines at the end of a file, and rewind the file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - 4096, 0)
        file.seek(start)
        if content := file.read(end - start).rstrip():
            end = start + len(content)
            break
        end = start
    file.seek(0)
    return end


def _parse_block(block: bytes, columns: int, path: Path, first_line: int) -> tuple[np.ndarray, np.ndarray]:
    """Parse whole lines; return the number of ones in each row and the columns of all ones.

    Values are single characters, so the text need not be split: half a gigabyte is read in seconds.
    """
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    is_value = (text != ord(" ")) & (text != ord("\t")) & (text != ord("\r")) & (text != ord("\n"))
    at = np.flatnonzero(is_value)
    values = text[at]
    ends = np.searchsorted(at, np.flatnonzero(text == ord("\n")))  # values before the end of each line
    widths = np.diff(ends, prepend=0)
    if (widths != columns).any() or (is_value[1:] & is_value[:-1]).any() or ((values | 1) != ord("1")).any():
        raise UserError(_first_fault(block, columns, path, first_line))
    ones = (values == ord("1")).reshape(-1, columns)  # (rows, columns)
    return ones.sum(axis=1), np.flatnonzero(ones).astype(np.int32) % columns


def _first_fault(block: bytes, columns: int, path: Path, first_line: int) -> str:
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        values = line.split()
        if len(values) != columns:
            return f"{path}:{number}: expected {columns:,} values, got {len(values):,}"
        for column, value in enumerate(values, start=1):
            if value not in (b"0", b"1"):
                return f"{path}:{number}: expected 0 or 1 in column {column}, got {value[:20].decode('latin-1')!r}"
    raise AssertionError(f"{path}: no fault found from line {first_line}")

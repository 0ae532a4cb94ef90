"""Read a matrix of scores or targets from any tool, with named rows and columns.

============  ======================================================================================================
``.npz``      arrays ``scores`` (N, K), ``images`` (N,) and ``labels`` (K,) of text; optionally ``kind``, "logits" or
              "probabilities", ``thresholds`` (K,), the minimum score of a tag per label, and ``biases`` (K,), added to
              each label's logits in calibrated figures. Targets are named ``targets``. No pickles
``.csv``      a header ``image,<label>,<label>,...``, then one row per image; UTF-8, or UTF-16 as written by Excel; the
              delimiter may be a semicolon (then numbers may have decimal commas), a tab or a vertical bar
``.parquet``  the same columns
============  ======================================================================================================

Files are read in blocks of images; the matrix is stored in a temporary file, not in memory.
"""

from __future__ import annotations

import contextlib
import csv
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError, first_line, require, some
from zsl_tagger.system.text_files import delimiter_of, encoding_of
from zsl_tagger.words.label_lists import composed

BLOCK = 2048  # images
_LOOKED_AT = 100  # rows of a table checked for decimal commas
KINDS = ("logits", "probabilities")

#: Raised by numpy, pyarrow, csv and zipfile on files that are damaged or of another kind.
UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, RuntimeError, OverflowError, MemoryError,
    zipfile.BadZipFile, zlib.error, csv.Error,
)  # fmt: skip

SUFFIXES = (".npz", ".csv", ".parquet")

Block = tuple[list[str], np.ndarray]  # images (n,), values float32 (n, K)


class MatrixFile:
    """An opened file whose column names have been read.

    Args:
        what: name of the array in an npz file: "scores" or "targets".

    Raises:
        UserError: it cannot be read or lacks this content.
    """

    def __init__(self, path: Path, what: str = "scores"):
        self.path, self.what = path, what
        readers = dict(zip(SUFFIXES, (self._open_npz, self._open_csv, self._open_parquet), strict=True))
        if path.suffix.lower() not in readers:
            raise UserError(f"{path}: expected a file of {what} that ends in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise UserError(f"no file of {what} at {path}")
        self.kind: str | None = None
        with _reading(path):
            names, self._blocks = readers[path.suffix.lower()]()
        self.labels = [composed(name) for name in names]
        repeated = [label for label, count in Counter(self.labels).items() if count > 1]
        if repeated:
            raise UserError(f"{path}: duplicate labels: {some(repeated)}")
        if not self.labels:
            raise UserError(f"{path}: expected one column per label, found none")

    def blocks(self) -> Iterator[Block]:
        """Return the rows, ``BLOCK`` at a time."""
        with _reading(self.path):
            yield from self._blocks

    def _open_npz(self) -> tuple[list[str], Iterator[Block]]:
        if not zipfile.is_zipfile(self.path):
            raise ValueError("it is not an archive of arrays as written by numpy.savez")
        with np.load(self.path, allow_pickle=False) as content:
            missing = [name for name in (self.what, "images", "labels") if name not in content.files]
            if missing:
                raise UserError(
                    f"{self.path}: expected arrays {self.what} (N, K), images (N,) and labels (K,), missing: "
                    f"{', '.join(missing)}: without names, rows and columns cannot be matched"
                )
            images, labels = (_names(self._array(content, name)) for name in ("images", "labels"))
            if "kind" in content.files:
                self.kind = str(self._array(content, "kind"))
        return labels, self._npz_blocks(images, labels)

    def _array(self, content: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        try:
            return content[name]
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
            raise UserError(
                f"{self.path}: {name} is an array of Python objects, which is not opened since it could run code: "
                f"save it as text, {name}=np.array({name}, str)"
            ) from None

    def _npz_blocks(self, images: list[str], labels: list[str]) -> Iterator[Block]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.what}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_column, dtype = read(member)
            if tuple(shape) != (len(images), len(labels)):
                raise UserError(
                    f"{self.path}: expected {self.what} of shape (images, labels) = ({len(images)}, {len(labels)}), "
                    f"got {tuple(shape)}"
                )
            if dtype.kind not in "fiub":
                raise UserError(f"{self.path}: expected {self.what} as numbers, got an array of {dtype}")
            if not by_column:
                for start in range(0, len(images), BLOCK):
                    rows = min(BLOCK, len(images) - start)
                    data = member.read(rows * len(labels) * dtype.itemsize)
                    values = np.frombuffer(data, dtype).reshape(rows, len(labels))
                    yield images[start : start + rows], _float32(values)
                return
        whole = np.load(self.path, allow_pickle=False)[self.what]
        for start in range(0, len(images), BLOCK):
            yield images[start : start + BLOCK], _float32(whole[start : start + BLOCK])

    def _open_csv(self) -> tuple[list[str], Iterator[Block]]:
        require("pyarrow", "train")
        import pyarrow
        from pyarrow import csv as arrow_csv

        try:
            encoding = encoding_of(self.path)
        except UnicodeDecodeError:
            raise UserError(f"{self.path} is not UTF-8, so its names cannot be read: save it as CSV UTF-8") from None
        with self.path.open(encoding=encoding, newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter)
            header = next(rows, [])
            comma = delimiter == ";" and any("," in cell for row in islice(rows, _LOOKED_AT) for cell in row[1:])
        # columns by index: a label may have the name of the first column
        names = [str(column) for column in range(len(header))]
        types = dict.fromkeys(names[1:], pyarrow.float32()) | dict.fromkeys(names[:1], pyarrow.string())
        reader = arrow_csv.open_csv(
            self.path,
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows_after_names=1, encoding=encoding.removesuffix("-sig")
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(column_types=types, decimal_point="," if comma else "."),
        )
        return header[1:], _arrow_blocks(reader)

    def _open_parquet(self) -> tuple[list[str], Iterator[Block]]:
        require("pyarrow", "train")
        from pyarrow import parquet

        file = parquet.ParquetFile(self.path)
        for column in list(file.schema_arrow)[1:]:
            if not _is_number(column.type):
                raise UserError(
                    f"{self.path}: expected {self.what} as numbers, but the column {column.name!r} has {column.type}"
                )
        return list(file.schema_arrow.names[1:]), _arrow_blocks(file.iter_batches(BLOCK))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None


def _is_number(kind) -> bool:  # type: ignore[no-untyped-def]
    """Return whether a pyarrow type is numeric; an empty column may have any type."""
    from pyarrow import types

    tests = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal, types.is_null)
    return any(test(kind) for test in tests)


def _float32(values: np.ndarray) -> np.ndarray:
    """Return values as float32; larger values become infinite and are reported later."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _arrow_blocks(batches) -> Iterator[Block]:  # type: ignore[no-untyped-def]
    for batch in batches:
        images = [str(name) for name in batch.column(0).to_pylist()]
        columns = [_float32(column.to_numpy(zero_copy_only=False)) for column in batch.columns[1:]]
        yield images, np.stack(columns, axis=1)


def _names(array: np.ndarray) -> list[str]:
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "US":
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "no array"
        raise ValueError(f"expected images and labels as arrays of text, got {got}")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in array.tolist()]


def read_scores(
    path: Path, images: Sequence[str], labels: Sequence[str], kind: str | None, notes: list[str]
) -> tuple[np.ndarray, str]:
    """Read the scores of the given images and labels, in their order.

    Args:
        kind: "logits" or "probabilities" if known; otherwise taken from the file or from the range of its scores.
        notes: remarks for the reader are appended.

    Returns:
        float32 ``(N, K)``, memory-mapped from a temporary file, and its kind.

    Raises:
        UserError: images or labels are missing, or a score is not a number or not of the kind.
    """
    file = MatrixFile(path)
    wanted, place = set(map(composed, labels)), {label: column for column, label in enumerate(file.labels)}
    labels = [composed(label) for label in labels]
    missing = [label for label in labels if label not in place]
    if missing:
        raise UserError(f"{path} has no scores of {len(missing)} of the {len(labels)} labels: {some(missing)}")
    extra = [label for label in file.labels if label not in wanted]
    if extra:
        notes.append(f"{path}: {len(extra)} other labels are not evaluated: {some(extra)}")
    elif file.labels != labels:
        notes.append(f"{path} lists the labels in another order: matched by name")
    columns = np.array([place[label] for label in labels])
    row_of = {image: row for row, image in enumerate(images)}
    scores, found, others = scratch(len(images), len(labels)), np.zeros(len(images), bool), 0
    for names, values in file.blocks():
        rows = np.array([row_of.get(name, -1) for name in names], np.int64)
        mine = rows >= 0
        others += int((~mine).sum())
        rows = rows[mine]
        again = names_at(images, rows[found[rows]]) + [n for n, c in Counter(names).items() if c > 1 and n in row_of]
        if again:
            raise UserError(f"{path}: duplicate images: {some(again)}")
        found[rows] = True
        block = values[mine][:, columns]
        _check_finite(path, block, names_at(images, rows), labels)
        scores[rows] = block
    if not found.all():
        absent = names_at(images, np.flatnonzero(~found))
        raise UserError(f"{path} has no scores of {len(absent)} of the {len(images)} images: {some(absent)}")
    if others:
        notes.append(f"{path}: {others} other images are not evaluated")
    return scores, _checked_kind(path, scores, kind or file.kind, notes)


def read_levels(path: Path, labels: Sequence[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the thresholds and biases of labels, float32 ``(K,)`` each; None if the file lacks them.

    Raises:
        UserError: they are not one number per label. A threshold may be infinite.
    """
    if path.suffix.lower() != ".npz":
        return None, None
    file = MatrixFile(path)
    place = {label: column for column, label in enumerate(file.labels)}
    columns = [place[composed(label)] for label in labels]
    found = []
    with _reading(path), np.load(path, allow_pickle=False) as content:
        for name in ("thresholds", "biases"):
            values = file._array(content, name) if name in content.files else None
            if values is not None:
                _check_level(path, name, values, len(file.labels))
            found.append(None if values is None else _float32(values)[columns])
    return found[0], found[1]


def _check_level(path: Path, name: str, values: np.ndarray, count: int) -> None:
    is_number = values.shape == (count,) and values.dtype.kind in "fiu"
    if not is_number or not (~np.isnan(values) if name == "thresholds" else np.isfinite(values)).all():
        raise UserError(
            f"{path}: expected {name} as one number per label, {count} in total; got {values.dtype} of shape "
            f"{values.shape}{', some of them not finite' if is_number else ''}: leave the array out, or fix it"
        )


def names_at(names: Sequence[str], rows: np.ndarray) -> list[str]:
    """Return the names of the given rows, in order."""
    return [names[row] for row in rows.tolist()]


def scratch(images: int, labels: int) -> np.ndarray:
    """Return a float32 matrix ``(images, labels)`` in a file that is deleted when it is no longer referenced."""
    if not images or not labels:
        return np.zeros((images, labels), np.float32)
    with tempfile.TemporaryFile() as file:  # the mapping keeps it alive
        return np.memmap(file, np.float32, "w+", shape=(images, labels))


def _check_finite(path: Path, block: np.ndarray, images: list[str], labels: Sequence[str]) -> None:
    bad = ~np.isfinite(block)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{path}: {int(bad.sum())} scores are not finite numbers, the first is {block[row, column]} "
            f"of {labels[column]!r} on {images[row]}"
        )


def _checked_kind(path: Path, scores: np.ndarray, kind: str | None, notes: list[str]) -> str:
    if kind is not None and kind not in KINDS:
        raise UserError(f"{path}: expected scores of the kind {' or '.join(KINDS)}, got {kind!r}")
    low, high = (float(scores.min()), float(scores.max())) if scores.size else (0.0, 0.0)
    within = low >= 0 and high <= 1
    if kind == "probabilities" and not within:
        raise UserError(f"{path} should contain probabilities, but its scores range from {low:.3g} to {high:.3g}")
    if kind == "logits" and within and low < high:
        raise UserError(
            f"{path} should contain logits, but all its scores are in 0..1 like probabilities: give "
            "--kind probabilities, or give the scores before the sigmoid"
        )
    if kind is None:
        kind = "probabilities" if within else "logits"
        notes.append(f"{path}: scores from {low:.3g} to {high:.3g} are read as {kind} (override with --kind)")
    return kind


def read_targets(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Read (images, labels, targets bool ``(N, K)``, ignored bool ``(N, K)``) from a file of 1, 0 and NaN (unknown).

    An npz file may also use -1 for unknown; empty cells of a table are unknown.
    """
    file = MatrixFile(path, "targets")
    images: list[str] = []
    targets, ignored = [], []
    for names, values in file.blocks():
        unknown = np.isnan(values) | (values == -1)
        odd = ~unknown & (values != 0) & (values != 1)
        if odd.any():
            row, column = np.argwhere(odd)[0]
            raise UserError(
                f"{path}: expected targets 1 (true), 0 (false) or empty (unknown), got {values[row, column]:g} "
                f"for {file.labels[column]!r} on {names[row]}"
            )
        images += names
        targets.append(values == 1)
        ignored.append(unknown)
    repeated = [image for image, count in Counter(images).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: duplicate images: {some(repeated)}")
    if not images:
        raise UserError(f"{path} has no images")
    return images, file.labels, np.concatenate(targets), np.concatenate(ignored)

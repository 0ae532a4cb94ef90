"""Read and check a prepared data set folder."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.format import (
    CLAIM_FILE,
    DATA_FILE,
    DATASET_FORMAT,
    INFO_FILE,
    NEGATIVES_COLUMN,
    SPLITS,
    VECTORS_FILE,
    DatasetError,
    format_labels,
    parse_labels,
    path_fault,
)
from zsl_tagger.errors import UserError, some
from zsl_tagger.system.files import parse_json, sha256_of

#: Problems of one kind that are listed individually; the rest are counted.
SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """A problem of a folder: an error, or a warning about something surprising."""

    where: str  # "data.csv:17"
    what: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'warning' if self.warning else 'error'}: {self.where}: {self.what}"


def load_dataset(folder: str | Path) -> PreparedDataset:
    """Read a prepared folder and check it.

    Raises:
        DatasetError: the folder has errors; the message lists the first few.
    """
    dataset, problems = read_dataset(Path(folder))
    errors = [problem for problem in problems if not problem.warning]
    if dataset is None:
        listed = "; ".join(f"{error.where}: {error.what}" for error in errors[:SHOWN])
        more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise DatasetError(f"{folder} is not a valid data set folder: {listed}{more}")
    return dataset


def read_dataset(folder: Path, image_root: Path | None = None) -> tuple[PreparedDataset | None, list[Problem]]:
    """Read a folder and report every problem.

    Args:
        image_root: check that the images exist there; None: do not check.

    Returns:
        The data set (None if there are errors) and the problems found.
    """
    reader = _Reader(folder)
    dataset = reader.read()
    if dataset is not None and image_root is not None:
        reader.check_images(dataset.paths, image_root)
    sound = all(problem.warning for problem in reader.problems)
    return dataset if sound else None, reader.problems


@dataclass
class _Rows:
    """Rows of data.csv: path, labels, split and line of each, and ``negatives`` if labels are partial."""

    negatives: list[list[str]] | None
    paths: list[str] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def append(self, path: str, split: str, line: int, cells: list[list[str]]) -> None:
        """Add a row; ``cells`` holds its labels, followed by its negatives if labels are partial."""
        self.paths.append(path)
        self.splits.append(split)
        self.lines.append(line)
        self.labels.append(cells[0])
        if self.negatives is not None:
            self.negatives.append(cells[1])


class _Reader:
    """Reads the files one by one and collects problems."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[Problem] = []
        self._told: Counter[str] = Counter()
        self._lines: list[int] = []  # line of each image in data.csv

    def read(self) -> PreparedDataset | None:
        if not self.folder.is_dir():
            self._error(str(self.folder), "no such folder")
            return None
        info = self._read_info()
        data = self._read_data()
        benchmark = self._read_benchmark(info)
        if data is None or benchmark is None:
            return None
        paths, label_lists, splits, self._lines = data.paths, data.labels, data.splits, data.lines
        labels = self._vocabulary(info, benchmark, label_lists)
        unseen = set(benchmark["test class"])
        known = {*benchmark.get("train class", labels), *unseen}
        self._check_labels(label_lists, splits, known, unseen if info else set())
        if data.negatives is not None:
            self._check_negatives(data.negatives, data, known, unseen if info else set())
        self._check_counts(info, splits)
        vectors = self._read_vectors(labels)
        if vectors is None or any(not problem.warning for problem in self.problems):
            return None  # the checks below need valid parts
        root = Path(info["image_root"]) if info.get("image_root") else None
        seen = np.array([label not in unseen for label in labels], bool)
        index = {label: position for position, label in enumerate(labels)}
        indices = _indices(label_lists, index)
        negatives = None if data.negatives is None else _indices(data.negatives, index)
        return PreparedDataset(
            self.folder, root, paths, np.array(splits), indices, tuple(labels), seen, vectors, info, negatives
        )

    def check_images(self, paths: list[str], root: Path) -> None:
        for line, path in zip(self._lines, paths, strict=True):
            if not _is_file(root / path):
                self._many("missing images", f"{DATA_FILE}:{line}", f"no image at {root / path}")
        self._count_rest()

    # Each of the following adds the problems it finds.

    def _read_info(self) -> dict[str, Any]:
        path = self.folder / INFO_FILE
        if not path.exists() and (self.folder / CLAIM_FILE).exists():
            self._error(str(self.folder), "a run of prepare was stopped here: run the same command again to finish")
            return {}
        if not path.exists():
            self._warn(INFO_FILE, "is missing: the folder was not written by zsl-tagger")
            return {}
        info = self._read_json(path)
        if not isinstance(info, dict):
            if not self.problems:  # it was readable
                self._error(INFO_FILE, f"expected an object, got {type(info).__name__}")
            return {}
        kinds = {"image_root": str, "benchmark": str, "labels": list, "images": dict, "sha256": dict}
        odd = [f"{name} to be of type {kind.__name__}" for name, kind in kinds.items()
               if not isinstance(info.get(name), (kind, type(None)))]  # fmt: skip
        if odd:
            self._error(INFO_FILE, f"expected {', '.join(odd)}")
            return {}
        if info.get("format_version") != DATASET_FORMAT:
            self._error(INFO_FILE, f"expected format_version {DATASET_FORMAT}, got {info.get('format_version')!r}")
        for name, expected in (info.get("sha256") or {}).items():
            if not (self.folder / name).is_file():
                self._error(name, "is missing")
            elif sha256_of(self.folder / name) != expected:
                self._error(name, f"its sha256 differs from {INFO_FILE}: it was changed after prepare wrote it")
        return info

    def _read_json(self, path: Path) -> Any:
        try:
            return parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            self._error(path.name, f"cannot be read: {error.strerror}")
        except json.JSONDecodeError as error:
            self._error(f"{path.name}:{error.lineno}", f"is not valid JSON: {error.msg}")
        except UnicodeDecodeError:
            self._error(path.name, "is not UTF-8 text")
        except RecursionError:
            self._error(path.name, "is nested too deeply")
        return None

    def _read_data(self) -> _Rows | None:
        path = self.folder / DATA_FILE
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return self._read_rows(csv.reader(file))
        except OSError as error:
            self._error(DATA_FILE, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._error(f"{DATA_FILE}:{_line_that_is_not_utf8(path)}", "is not UTF-8 text")
        except csv.Error as error:
            self._error(DATA_FILE, f"is not a CSV file: {error}")
        return None

    def _read_rows(self, rows: Any) -> _Rows | None:
        header = next(rows, None)
        if header is None:
            self._error(DATA_FILE, "is empty: expected a header and one row per image")
            return None
        if len(header) == 3 and header[1].startswith("[") and header[2] in SPLITS:
            self._error(
                f"{DATA_FILE}:1", "expected a header such as path,labels,split; got an image, which would be lost"
            )
        if len(header) == 4 and header[3] != NEGATIVES_COLUMN:
            self._error(
                f"{DATA_FILE}:1", f"expected the fourth column to be named {NEGATIVES_COLUMN}, got {header[3]!r}"
            )
            return None
        partial = len(header) == 4
        columns = ["path", "labels", "split", *([NEGATIVES_COLUMN] if partial else [])]
        data = _Rows(negatives=[] if partial else None)
        first_line: dict[str, int] = {}
        for row in rows:
            where = f"{DATA_FILE}:{rows.line_num}"
            if not row:  # a blank line
                continue
            if len(row) != len(columns):
                self._many("row width", where, f"expected {', '.join(columns)}; got {len(row)} columns")
                continue
            path, cell, split, *absent = row
            if fault := path_fault(path):
                self._many("path", where, fault)
            if path in first_line:
                self._many("duplicates", where, f"{path!r} is already listed in line {first_line[path]}")
            for kind, text in zip(("labels", NEGATIVES_COLUMN), (cell, *absent), strict=False):
                if not (text.startswith("[") and text.endswith("]")):
                    self._many(kind, where, f"expected {kind} as [a, b], got {text!r}")
            if split not in SPLITS:
                self._many("split", where, f"expected a split of {', '.join(SPLITS)}; got {split!r}")
            first_line.setdefault(path, rows.line_num)
            data.append(path, split, rows.line_num, [parse_labels(text) for text in (cell, *absent)])
        self._count_rest()
        if not data.paths:
            self._error(DATA_FILE, "has no usable row")
        elif without := [split for split in SPLITS if split not in data.splits]:
            self._warn(DATA_FILE, f"has no images in the split {' and '.join(without)}")
        return data

    def _read_benchmark(self, info: dict[str, Any]) -> dict[str, list[str]] | None:
        named, before = info.get("benchmark"), len(self.problems)
        found = []
        for path in [self.folder / str(named)] if named else sorted(self.folder.glob("*.json")):
            if path.name == INFO_FILE:
                continue
            content = self._read_json(path)
            if isinstance(content, dict) and "test class" in content:
                found.append((path.name, content))
        if found:
            del self.problems[before:]  # from other JSON files in the folder
        if len(found) != 1:
            came = f"got {', '.join(name for name, _ in found)}" if found else "found none"
            self._error("<benchmark>.json", f'expected one JSON file with "test class" (the unseen labels), {came}')
            return None
        name, content = found[0]
        for key in ("train class", "test class"):
            names = content.get(key, [])
            if not isinstance(names, list) or not all(isinstance(label, str) for label in names):
                self._error(name, f"expected {key!r} to be a list of label names")
                return None
            repeated = [label for label, count in Counter(names).items() if count > 1]
            if repeated:
                self._error(name, f"{key!r} contains duplicates: {some(repeated)}")
        both = set(content.get("train class", [])) & set(content["test class"])
        if both:
            self._error(name, f"labels both seen and unseen: {some(sorted(both))}")
        return content

    def _vocabulary(
        self, info: dict[str, Any], benchmark: dict[str, list[str]], label_lists: list[list[str]]
    ) -> list[str]:
        used = {label for row in label_lists for label in row}
        labels = sorted({*benchmark.get("train class", []), *benchmark["test class"], *used})
        if info and info.get("labels") != labels:
            self._error(INFO_FILE, "its labels differ from the sorted labels of the benchmark file")
        unused = sorted(set(labels) - used)
        if unused:
            self._warn(
                DATA_FILE,
                f"labels without images ({len(unused)}): {some(unused)}. The released ML-Decoder code takes its "
                "vocabulary from data.csv and would then read the columns of wordvec_array.pth wrongly",
            )
        return labels

    def _check_labels(
        self, label_lists: list[list[str]], splits: list[str], known: set[str], kept_out: set[str]
    ) -> None:
        """Check that labels are ``known``, and that labels in ``kept_out`` are on test images only."""
        empty = 0
        for row, split, line in zip(label_lists, splits, self._lines, strict=True):
            empty += not row
            self._check_row(f"{DATA_FILE}:{line}", row, known)
            self._check_leaks(f"{DATA_FILE}:{line}", row, split, kept_out, "is on")
        self._count_rest()
        if empty:
            self._warn(
                DATA_FILE,
                f"images without a label: {empty}; the released ML-Decoder code reads that as a label named ''",
            )

    def _check_negatives(self, negatives: list[list[str]], data: _Rows, known: set[str], kept_out: set[str]) -> None:
        """Check the labels verified to be absent, like :meth:`_check_labels` checks those on the images."""
        for row, positives, split, line in zip(negatives, data.labels, data.splits, data.lines, strict=True):
            where = f"{DATA_FILE}:{line}"
            self._check_row(where, row, known)
            self._check_leaks(where, row, split, kept_out, "is a negative of")
            for label in sorted(set(row).intersection(positives)):
                self._many("contradictions", where, f"{label!r} is listed both in labels and in {NEGATIVES_COLUMN}")
        self._count_rest()

    def _check_row(self, where: str, row: list[str], known: set[str]) -> None:
        """Check that the labels of a cell are ``known`` and unique."""
        for label in row:
            if label not in known:
                self._many("unknown labels", where, f"{label!r} is neither a seen nor an unseen label")
        if len(set(row)) < len(row):
            self._many("repeated labels", where, f"a label is repeated: {format_labels(row)}")

    def _check_leaks(self, where: str, row: list[str], split: str, kept_out: set[str], place: str) -> None:
        """Check that no image of train or val mentions a label in ``kept_out``."""
        for label in row:
            if split != "test" and label in kept_out:
                self._many("leaks", where, f"the unseen label {label!r} {place} an image of the split {split}")

    def _check_counts(self, info: dict[str, Any], splits: list[str]) -> None:
        counted = Counter(splits)
        for split, expected in (info.get("images") or {}).items():
            if counted[split] != expected:
                self._error(INFO_FILE, f"says {expected} images in {split}, data.csv has {counted[split]}")

    def _read_vectors(self, labels: list[str]) -> np.ndarray | None:
        from zsl_tagger.errors import require
        from zsl_tagger.words.matrix_files import load_matrix

        require("torch", "train")  # a missing package is not a problem of the folder
        try:
            matrix = load_matrix(self.folder / VECTORS_FILE)
        except UserError as error:
            self._error(VECTORS_FILE, str(error))
            return None
        if matrix.shape[1] != len(labels):
            hint = "; it seems transposed" if matrix.shape[0] == len(labels) else ""
            self._error(
                VECTORS_FILE,
                f"expected a column for each of the {len(labels)} labels, got a tensor of shape {matrix.shape}{hint}",
            )
            return None
        for kind, bad in (("not finite", ~np.isfinite(matrix).all(axis=0)), ("all zero", ~matrix.any(axis=0))):
            if bad.any():
                names = [labels[column] for column in np.flatnonzero(bad)]
                self._error(VECTORS_FILE, f"vectors that are {kind} ({len(names)}): {some(names)}")
        return np.ascontiguousarray(matrix.T)  # (K, word_dim)

    def _error(self, where: str, what: str) -> None:
        self.problems.append(Problem(where, what))

    def _warn(self, where: str, what: str) -> None:
        self.problems.append(Problem(where, what, warning=True))

    def _many(self, kind: str, where: str, what: str) -> None:
        """Add an error of a kind that may occur thousands of times; only the first few are listed."""
        self._told[kind] += 1
        if self._told[kind] <= SHOWN:
            self._error(where, what)

    def _count_rest(self) -> None:
        for kind, count in self._told.items():
            if count > SHOWN:
                self._error(DATA_FILE, f"and {count - SHOWN} more of that kind ({kind})")
        self._told.clear()


def _indices(label_lists: list[list[str]], index: dict[str, int]) -> list[np.ndarray]:
    return [np.array([index[label] for label in row], np.int64) for row in label_lists]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. the name is too long for the file system
        return False


def _line_that_is_not_utf8(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1  # the file has changed since


def summary(folder: Path, dataset: PreparedDataset | None, problems: list[Problem]) -> list[str]:
    """Return the result of :func:`read_dataset` as text: one line per problem, errors first, and a verdict."""
    lines = [str(problem) for problem in sorted(problems, key=lambda problem: problem.warning)]
    if dataset is None:
        return [*lines, f"{folder}: not valid, {sum(not problem.warning for problem in problems)} errors"]
    images = ", ".join(f"{split} {len(dataset.rows(split)):,}" for split in SPLITS)
    seen = int(dataset.seen.sum())
    return [
        *lines,
        f"{folder}: valid. Images: {images}; labels: {seen:,} seen, {len(dataset.labels) - seen:,} unseen; "
        f"word vectors of {dataset.word_vectors.shape[1]} dimensions"
        + ("; labels are partial" if dataset.partial else ""),
    ]

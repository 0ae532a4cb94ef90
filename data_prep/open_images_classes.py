"""Read the classes of OpenImages: ids, names, and which are seen or unseen labels."""

from __future__ import annotations

import csv
import io
import logging
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.text import numbered_lines, read_text
from zsl_tagger.datasets.format import label_fault
from zsl_tagger.errors import UserError, some
from zsl_tagger.system.pickles import load_data
from zsl_tagger.words.label_lists import composed

logger = logging.getLogger(__name__)

#: LESA lists unseen classes by their positions in the list in this file.
LESA_UNSEEN = "unseen_labels.pkl"

_HEADER = ["LabelName", "DisplayName"]
_ID = re.compile(r"/[a-z]+/\S+")


@dataclass(frozen=True)
class Classes:
    """Classes of OpenImages.

    Attributes:
        file: file of class descriptions.
        columns: class id -> index of its label; -1 if the class is not a label. Several ids may share a label.
        labels: names of the seen and unseen classes, sorted.
        unseen: the unseen labels.
    """

    file: Path
    columns: dict[str, int]
    labels: list[str]
    unseen: list[str]

    @classmethod
    def read(cls, descriptions: Path, seen_file: Path, unseen_file: Path | None) -> Classes:
        """Read the names of all classes, and the lists of seen and unseen classes.

        Raises:
            UserError: a file is invalid, a list has an unknown class, or a class is in both lists (file and line).
        """
        names = _read_descriptions(descriptions)
        seen = _read_list(seen_file, names, descriptions)
        unseen = _read_list(unseen_file, names, descriptions) if unseen_file else []
        if both := sorted(set(seen) & set(unseen)):
            raise UserError(
                f"{seen_file} and {unseen_file} overlap in {len(both):,} classes, such as "
                f"{both[0]} ({names[both[0]]!r}): a class is either seen or unseen"
            )
        seen_labels = {names[one] for one in seen}
        unseen_labels = {names[one] for one in unseen}
        if shared := sorted(seen_labels & unseen_labels):
            logger.warning(
                "unseen classes with the name of a seen class (%d) are treated as seen: %s", len(shared), some(shared)
            )
        labels = sorted(seen_labels | unseen_labels)
        place = {label: column for column, label in enumerate(labels)}
        columns = dict.fromkeys(names, -1) | {one: place[names[one]] for one in (*seen, *unseen)}
        return cls(descriptions, columns, labels, sorted(unseen_labels - seen_labels))


def _read_descriptions(file: Path) -> dict[str, str]:
    """Return {class id: label}; version 4 has no header, later versions have one."""
    names: dict[str, str] = {}
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{file}:{reader.line_num}"
            if not row or (row == _HEADER and not names):
                continue
            if len(row) != 2 or not _ID.fullmatch(row[0]):
                raise UserError(
                    f"{where}: expected a class id such as /m/011k07 and its name, got {','.join(row)[:60]!r}"
                )
            if row[0] in names:
                raise UserError(f"{where}: duplicate class {row[0]}")
            names[row[0]] = _label(row[1])
            if fault := label_fault(names[row[0]]):
                raise UserError(f"{where}: the name {row[1]!r} {fault}")
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: is not valid CSV: {error}") from None
    if not names:
        raise UserError(f"{file} has no classes")
    return names


def _label(name: str) -> str:
    """Return a name without the characters that separate labels in data.csv."""
    return " ".join(re.sub(r",(?=\s)|[\[\]]", " ", composed(name)).split())


def _read_list(file: Path, names: dict[str, str], descriptions: Path) -> list[str]:
    """Return the class ids of a list of ids or names, one per line, or of LESA's numbers."""
    if not file.is_file():
        raise UserError(f"there is no file {file}: expected a list of classes, one per line")
    of_name: dict[str, list[str]] = {}
    for one, name in names.items():
        of_name.setdefault(name, []).append(one)
    lines = [(number, line.strip('"')) for number, line in numbered_lines(file)]
    if not lines:
        raise UserError(f"{file} has no classes")
    if all(re.fullmatch(r"[0-9]{1,9}(,.*)?", line) for _, line in lines):
        lines = _by_place(file, [(number, int(line.partition(",")[0])) for number, line in lines])
    chosen: list[str] = []
    for number, line in lines:
        written = [line, line.partition(",")[0].strip('" ')]
        found = next(([one] if one in names else of_name[_label(one)]
                      for one in written if one in names or _label(one) in of_name), None)  # fmt: skip
        if found is None:
            raise UserError(
                f"{file}:{number}: the class {line[:60]!r} is not among the {len(names):,} of {descriptions}: "
                "are they from the same version?"
            )
        chosen += found
    return chosen


def _by_place(file: Path, places: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
    """Return the lines of LESA's list with class ids instead of numbers."""
    listed = file.parent / LESA_UNSEEN
    if not listed.is_file():
        raise UserError(
            f"{file} contains numbers like LESA's list: put LESA's {LESA_UNSEEN} next to it, or list class ids"
        )
    try:
        ids = load_data(listed)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{listed} is not a pickle that can be read safely: {error}") from None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise UserError(f"{listed}: expected a list of class ids, got {type(ids).__name__}")
    for number, place in places:
        if place >= len(ids):
            raise UserError(
                f"{file}:{number}: expected a number below {len(ids):,}, the classes of {listed}, got {place}"
            )
    return [(number, ids[place]) for number, place in places]

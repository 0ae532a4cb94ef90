"""The prepared folder: a sound one is read to the value, a damaged one is refused with file and line.

Folders are made by hand here, as ``zsl-tagger prepare`` writes them ("ours") and as the released ML-Decoder code has
them ("elsewhere": three files only, splits train and val, unseen labels on training images too).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.format import DatasetError, format_labels, label_fault, parse_labels, path_fault
from zsl_tagger.datasets.read import SHOWN, load_dataset, read_dataset, summary
from zsl_tagger.errors import UserError

# 11 images, 7 labels, vectors 5 wide: no axis can be taken for another.
LABELS = ["10", "Zebra", "beach", "red car", "sky", "tree", "été"]  # as Python sorts them: by code point
SEEN, UNSEEN = ["10", "beach", "sky", "tree"], ["Zebra", "red car", "été"]
MATRIX = torch.arange(35.0).reshape(5, 7)  # column k is (k, k + 7, ...); one zero in it is no fault
OUR_LINES = [
    "path,labels,split",
    'a/1.jpg,"[sky, beach]",train',
    "a/2.jpg,[tree],train",
    '"b/ä, 3.jpg","[10, tree, sky]",train',
    "a/4.jpg,[beach],train",
    'a/5.jpg,"[sky, tree]",train',
    "v/1.jpg,[sky],val",
    'v/2.jpg,"[beach, 10]",val',
    't/1.jpg,"[Zebra, sky]",test',
    't/2.jpg,"[red car, Zebra, beach, été]",test',
    "t/3.jpg,[été],test",
    't/4.jpg,"[10, red car]",test',
]
TRIO = ("data.csv", "benchmark_3.json", "wordvec_array.pth")
NOT_OURS = "dataset.json: is missing: the folder was not written by zsl-tagger"
NO_TEST = "data.csv: has no images in the split test"


@dataclass
class Made:
    """A folder that is sound when written as it is; a test damages one part of it, before or after."""

    folder: Path
    lines: list[str]
    benchmark: Any
    info: dict[str, Any] | None  # of dataset.json, less the sha256; None: there is none
    matrix: Any = field(default_factory=MATRIX.clone)

    def write(self) -> Path:
        self.folder.mkdir()
        (self.folder / "data.csv").write_bytes("".join(line + "\n" for line in self.lines).encode())
        (self.folder / "benchmark_3.json").write_text(json.dumps(self.benchmark), encoding="utf-8")
        torch.save(self.matrix, self.folder / "wordvec_array.pth")
        if self.info is not None:
            digests = {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in TRIO}
            (self.folder / "dataset.json").write_text(json.dumps({"sha256": digests, **self.info}), encoding="utf-8")
        return self.folder


def ours(folder: Path) -> Made:
    info = {
        "format_version": 1, "image_root": "/photos", "benchmark": "benchmark_3.json", "labels": LABELS,
        "images": {"train": 5, "val": 2, "test": 4},
    }  # fmt: skip
    return Made(folder / "ours", list(OUR_LINES), {"train class": list(SEEN), "test class": list(UNSEEN)}, info)


def elsewhere(folder: Path) -> Made:
    lines = [line.replace(",test", ",val") for line in OUR_LINES]
    lines[2] = 'a/2.jpg,"[tree, Zebra]",train'
    lines[4] = "a/4.jpg,[red car],train"
    return Made(folder / "elsewhere", lines, {"test class": list(UNSEEN)}, None)


KINDS = pytest.mark.parametrize("make", [ours, elsewhere])
Make = Callable[[Path], Made]


def problems(folder: Path, root: Path | None = None) -> tuple[list[str], list[str]]:
    """(errors, warnings) as "where: what"; there is a dataset where there is no error."""
    dataset, found = read_dataset(folder, root)
    sides: tuple[list[str], list[str]] = ([], [])
    for problem in found:
        sides[problem.warning].append(f"{problem.where}: {problem.what}")
    assert (dataset is None) == bool(sides[0])
    return sides


def errors(folder: Path, root: Path | None = None) -> list[str]:
    return problems(folder, root)[0]


# --- a sound folder -------------------------------------------------------------------------------------------


def test_a_folder_of_ours_is_read_to_the_value(tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    dataset = load_dataset(folder)
    assert problems(folder) == ([], [])
    assert (dataset.folder, dataset.image_root) == (folder, Path("/photos"))
    assert dataset.paths == ["a/1.jpg", "a/2.jpg", "b/ä, 3.jpg", "a/4.jpg", "a/5.jpg", "v/1.jpg", "v/2.jpg",
                             "t/1.jpg", "t/2.jpg", "t/3.jpg", "t/4.jpg"]  # fmt: skip
    assert dataset.splits.tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 4
    assert dataset.labels == tuple(LABELS)
    assert [row.tolist() for row in dataset.label_indices] == [
        [4, 2], [5], [0, 5, 4], [2], [4, 5], [4], [2, 0], [1, 4], [3, 1, 2, 6], [6], [0, 3],
    ]  # fmt: skip
    assert dataset.seen.tolist() == [True, False, True, False, True, True, False]
    assert dataset.seen.dtype == bool
    assert {split: dataset.rows(split).tolist() for split in ("train", "val", "test")} == {
        "train": [0, 1, 2, 3, 4],
        "val": [5, 6],
        "test": [7, 8, 9, 10],
    }
    assert dataset.info["images"] == {"train": 5, "val": 2, "test": 4}


def test_a_folder_from_elsewhere_is_read_to_the_value(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    dataset = load_dataset(str(folder))
    assert problems(folder) == ([], [NOT_OURS, NO_TEST])
    assert (dataset.folder, dataset.image_root, dataset.info) == (folder, None, {})
    assert dataset.splits.tolist() == ["train"] * 5 + ["val"] * 6
    assert dataset.labels == tuple(LABELS)
    assert dataset.label_indices[1].tolist() == [5, 1]
    assert dataset.seen.tolist() == [True, False, True, False, True, True, False]  # seen: all that is not unseen
    assert dataset.rows("test").tolist() == []


@KINDS
def test_a_word_vector_is_the_column_of_its_label_in_sorted_order(make: Make, tmp_path: Path) -> None:
    made = make(tmp_path)
    made.benchmark = {key: names[::-1] for key, names in made.benchmark.items()}  # the order of the file says nothing
    dataset = load_dataset(made.write())
    assert dataset.word_vectors.shape == (7, 5)
    assert dataset.word_vectors.dtype == np.float32
    for row, label in enumerate(sorted({*SEEN, *UNSEEN})):
        assert dataset.labels[row] == label
        assert dataset.word_vectors[row].tolist() == [row, row + 7, row + 14, row + 21, row + 28]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_any_number_type_of_vectors_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.matrix = MATRIX.to(dtype)
    vectors = load_dataset(made.write()).word_vectors
    assert vectors.dtype == np.float32
    assert vectors[2].tolist() == [2, 9, 16, 23, 30]


@KINDS
@pytest.mark.parametrize("rows", [[10], [3, 0, 8, 3, 1], list(range(11)), []])
def test_targets(rows: list[int], make: Make, tmp_path: Path) -> None:
    made = make(tmp_path)
    targets = load_dataset(made.write()).targets(np.array(rows, int))
    assert (targets.shape, targets.dtype) == ((len(rows), 7), bool)
    for place, row in enumerate(rows):
        cell = made.lines[row + 1].split("[")[1].split("]")[0]
        for column, label in enumerate(LABELS):
            assert targets[place, column] == (label in cell.split(", "))


def test_a_train_class_list_from_elsewhere_says_what_is_seen(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.benchmark["train class"] = SEEN[::-1]
    folder = made.write()
    assert problems(folder) == ([], [NOT_OURS, NO_TEST])
    assert load_dataset(folder).seen.tolist() == [True, False, True, False, True, True, False]


def test_no_label_need_be_unseen(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.benchmark = {"test class": []}
    assert load_dataset(made.write()).seen.all()


@KINDS
def test_line_ends_of_windows_are_read_alike(make: Make, tmp_path: Path) -> None:
    (tmp_path / "windows").mkdir()
    made, windows = make(tmp_path), make(tmp_path / "windows")
    windows.lines = [line + "\r" for line in windows.lines]
    dataset, same = load_dataset(made.write()), load_dataset(windows.write())
    assert b"\r\n" in (windows.folder / "data.csv").read_bytes()
    assert same.paths == dataset.paths
    assert same.splits.tolist() == dataset.splits.tolist()
    assert [row.tolist() for row in same.label_indices] == [row.tolist() for row in dataset.label_indices]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[0] = "\ufeff" + made.lines[0]
    assert errors(made.write()) == []


def test_a_summary_has_errors_first_and_a_verdict(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    folder = made.write()
    assert summary(folder, *read_dataset(folder)) == [
        f"warning: {NOT_OURS}",
        f"warning: {NO_TEST}",
        f"{folder}: valid. Images: train 5, val 6, test 0; labels: 4 seen, 3 unseen; word vectors of 5 dimensions",
    ]
    (folder / "data.csv").write_text("path,labels,split\n,[sky],train\n")
    lines = summary(folder, *read_dataset(folder))
    assert lines[0] == "error: data.csv:2: the image path is empty"
    kinds = [line.partition(":")[0] for line in lines[:-1]]
    assert kinds == sorted(kinds)  # "error" comes before "warning"
    assert lines[-1] == f"{folder}: not valid, {kinds.count('error')} errors"


# --- against the rules of the released code -------------------------------------------------------------------


def released(folder: Path, sides: dict[str, str]) -> dict[str, Any]:
    """What the released ML-Decoder code makes of a folder, by its rules and not by ours.

    Args:
        sides: {split: "train" or "test"}, the class list whose classes an image of the split must show.
    """
    with (folder / "data.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))[1:]
    shown = ["".join(char for char in row[1] if char not in "[]").split(", ") for row in table]
    vocabulary = sorted({label for labels in shown for label in labels})
    [benchmark] = [path for path in folder.glob("*.json") if path.name != "dataset.json"]
    lists = json.loads(benchmark.read_text(encoding="utf-8"))
    ids: dict[str, list[int]] = {"train": [], "test": []}
    for number, label in enumerate(vocabulary):
        if label in lists["test class"]:
            ids["test"].append(number)
        if label in lists["train class"] if "train class" in lists else label not in lists["test class"]:
            ids["train"].append(number)
    vectors = torch.load(folder / "wordvec_array.pth", weights_only=True)
    kept: dict[str, list[tuple[str, list[str]]]] = {split: [] for split in sides}
    for row, labels in zip(table, shown, strict=True):
        classes = [vocabulary[number] for number in ids[sides.get(row[2], "train")] if vocabulary[number] in labels]
        if row[2] in sides and classes:
            kept[row[2]].append((row[0], classes))
    return {
        "vocabulary": vocabulary,
        "ids": ids,
        "vectors": {side: vectors[:, numbers].T.tolist() for side, numbers in ids.items()},
        "images": kept,
    }


def as_the_released_code_has_it(dataset: PreparedDataset, sides: dict[str, str]) -> dict[str, Any]:
    of_side = {"train": dataset.seen, "test": ~dataset.seen}
    kept = {}
    for split, side in sides.items():
        shown = dataset.targets(dataset.rows(split)) & of_side[side]
        kept[split] = [
            (dataset.paths[row], [dataset.labels[column] for column in np.flatnonzero(columns)])
            for row, columns in zip(dataset.rows(split), shown, strict=True)
            if columns.any()
        ]
    return {
        "vocabulary": list(dataset.labels),
        "ids": {side: np.flatnonzero(mask).tolist() for side, mask in of_side.items()},
        "vectors": {side: dataset.word_vectors[mask].tolist() for side, mask in of_side.items()},
        "images": kept,
    }


@pytest.mark.parametrize("listed", [False, True], ids=["test class only", "train class too"])
def test_a_folder_from_elsewhere_means_what_it_means_to_the_released_code(listed: bool, tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    if listed:
        made.benchmark["train class"] = SEEN[::-1]
    sides = {"train": "train", "val": "test"}
    expected = released(made.write(), sides)
    assert as_the_released_code_has_it(load_dataset(made.folder), sides) == expected
    assert [len(expected["images"][split]) for split in sides] == [4, 4]  # a/4.jpg shows no seen, v/* no unseen label


def test_the_released_code_reads_a_folder_of_ours(tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    sides = {"train": "train", "test": "test"}
    expected = released(folder, sides)
    assert as_the_released_code_has_it(load_dataset(folder), sides) == expected
    assert [len(expected["images"][split]) for split in sides] == [5, 4]


#: Any text, and texts of the characters that separate labels, without what a label must not have.
TEXT = st.text(max_size=6) | st.text('ab, "', min_size=1, max_size=6)
FORBIDDEN = re.compile(r", |[\[\]\r\n\0]")
LABEL = TEXT.map(lambda text: FORBIDDEN.sub("", f"{text}a").strip()).filter(lambda text: label_fault(text) is None)


@st.composite
def folders(draw: st.DrawFn) -> tuple[list[tuple[list[str], str]], list[str]]:
    """(labels and split of each image, unseen labels): any names, each on an image."""
    labels = draw(st.lists(LABEL, min_size=2, max_size=7, unique=True))
    unseen = draw(st.lists(st.sampled_from(labels), unique=True))
    some = st.lists(st.sampled_from(labels), min_size=1, unique=True)
    images = draw(st.lists(st.tuples(some, st.sampled_from(["train", "val"])), max_size=9))
    rest = [label for label in labels if not any(label in shown for shown, _ in images)]
    return [*images, *(([label], "train") for label in rest)], unseen


@settings(max_examples=40, deadline=None)
@given(folders())
def test_any_folder_means_what_it_means_to_the_released_code(
    made: tuple[list[tuple[list[str], str]], list[str]],
) -> None:
    images, unseen = made
    width = len({label for shown, _ in images for label in shown})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(f"{number}.jpg", f"[{', '.join(shown)}]", split) for number, (shown, split) in enumerate(images)]
            csv.writer(file).writerows([("", "", ""), *rows])
        (folder / "any.json").write_text(json.dumps({"test class": unseen}))
        torch.save(torch.arange(1.0, 3 * width + 1).reshape(3, width), folder / "wordvec_array.pth")
        sides = {"train": "train", "val": "test"}
        assert as_the_released_code_has_it(load_dataset(folder), sides) == released(folder, sides)


# --- the rows of data.csv -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a/2.jpg,[tree]", "expected path, labels, split; got 2 columns"),
        ("a/2.jpg,[tree],train,more", "expected path, labels, split; got 4 columns"),
        ("a/2.jpg,[tree, sky],train", "expected path, labels, split; got 4 columns"),  # its commas are not quoted
        ("./a/2.jpg,[tree],train", "expected a path without '.' or empty parts, got './a/2.jpg'"),
        ("a//2.jpg,[tree],train", "expected a path without '.' or empty parts, got 'a//2.jpg'"),
        (",[tree],train", "the image path is empty"),
        ("/a/2.jpg,[tree],train", "expected a path below the image root, with '/', got '/a/2.jpg'"),
        ("~/2.jpg,[tree],train", "expected a path below the image root, with '/', got '~/2.jpg'"),
        ("C:/2.jpg,[tree],train", "expected a path below the image root, with '/', got 'C:/2.jpg'"),
        (r"a\2.jpg,[tree],train", r"expected a path below the image root, with '/', got 'a\\2.jpg'"),
        ("../2.jpg,[tree],train", "the path '../2.jpg' leaves the image root"),
        ("a/../../2.jpg,[tree],train", "the path 'a/../../2.jpg' leaves the image root"),
        ("a/1.jpg,[tree],train", "'a/1.jpg' is already listed in line 2"),
        ("a/2.jpg,tree,train", "expected labels as [a, b], got 'tree'"),
        ("a/2.jpg,[tree,train", "expected labels as [a, b], got '[tree'"),
        ("a/2.jpg,tree],train", "expected labels as [a, b], got 'tree]'"),
        ("a/2.jpg,,train", "expected labels as [a, b], got ''"),
        ("a/2.jpg,[tree],Train", "expected a split of train, val, test; got 'Train'"),
        ("a/2.jpg,[tree],", "expected a split of train, val, test; got ''"),
        ('a/2.jpg,"[tree, sky, tree]",train', "a label is repeated: [tree, sky, tree]"),
    ],
)
def test_a_bad_row(line: str, expected: str, tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[2] = line
    assert errors(made.write()) == [f"data.csv:3: {expected}"]
    made = ours(tmp_path)
    made.lines[2] = line
    assert f"data.csv:3: {expected}" in errors(made.write())


def test_the_line_is_that_of_the_file_where_a_name_holds_a_line_break(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[1] = '"a/1\n.jpg","[sky, beach]",train'
    made.lines[4] = "a/4.jpg,[red car],Train"
    assert errors(made.write()) == [
        "data.csv:3: the path 'a/1\\n.jpg' contains control characters or is not UTF-8",
        "data.csv:6: expected a split of train, val, test; got 'Train'",
    ]


def test_a_run_that_was_stopped_is_no_sound_folder(tmp_path: Path) -> None:
    """Though its three files are whole: they may be of two data sets."""
    folder = elsewhere(tmp_path).write()
    (folder / ".prepare.json").write_text("{}")
    stopped = "a run of prepare was stopped here: run the same command again to finish"
    assert errors(folder) == [f"{folder}: {stopped}"]


def test_a_path_listed_often_names_its_first_line(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines += ["a/4.jpg,[sky],train", "a/4.jpg,[sky],val"]
    assert errors(made.write()) == [f"data.csv:{line}: 'a/4.jpg' is already listed in line 5" for line in (13, 14)]


def test_one_row_may_have_several_faults(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[3] = "/b/3.jpg,tree,all"
    assert errors(made.write()) == [
        "data.csv:4: expected a path below the image root, with '/', got '/b/3.jpg'",
        "data.csv:4: expected labels as [a, b], got 'tree'",
        "data.csv:4: expected a split of train, val, test; got 'all'",
    ]


@pytest.mark.parametrize("bad", [SHOWN, SHOWN + 2])
def test_of_many_faults_of_a_kind_the_first_are_shown_and_the_rest_counted(bad: int, tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines = [line.replace(",val", ",dev") for line in made.lines]
    made.lines += [f"more/{number}.jpg,[sky],dev" for number in range(bad - 6)]
    made.lines = made.lines[: 6 + bad]  # so many of the split "dev", from line 7 on
    shown = [
        f"data.csv:{line}: expected a split of train, val, test; got 'dev'" for line in range(7, 7 + min(bad, SHOWN))
    ]
    rest = ["data.csv: and 2 more of that kind (split)"] if bad > SHOWN else []
    assert [error for error in errors(made.write()) if "wordvec" not in error] == shown + rest


def test_a_label_that_no_list_has(tmp_path: Path) -> None:
    expected = "data.csv:3: 'oak' is neither a seen nor an unseen label"
    for made in (ours(tmp_path), elsewhere(tmp_path)):
        made.lines[2] = "a/2.jpg,[oak],train"
        made.benchmark["train class"] = list(SEEN)
        assert expected in errors(made.write())


def test_a_new_label_from_elsewhere_is_seen_and_lacks_its_column(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[2] = 'a/2.jpg,"[tree, oak]",train'
    assert errors(made.write()) == [
        "wordvec_array.pth: expected a column for each of the 8 labels, got a tensor of shape (5, 7)"
    ]


@pytest.mark.parametrize(("line", "split"), [(3, "train"), (8, "val")])
def test_an_unseen_label_must_not_be_on_an_image_that_trains(line: int, split: str, tmp_path: Path) -> None:
    made = ours(tmp_path)
    made.lines[line - 1] = f'x/1.jpg,"[tree, red car]",{split}'
    assert errors(made.write()) == [f"data.csv:{line}: the unseen label 'red car' is on an image of the split {split}"]


def test_data_csv_that_is_empty_or_only_a_header(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    (folder / "data.csv").write_bytes(b"")
    assert errors(folder) == ["data.csv: is empty: expected a header and one row per image"]
    (folder / "data.csv").write_bytes(b"path,labels,split\n")
    assert errors(folder)[0] == "data.csv: has no usable row"


def test_data_csv_that_is_not_utf8(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    lines = (folder / "data.csv").read_bytes().split(b"\n")
    lines[4] = b"caf\xe9.jpg,[red car],train"  # Latin-1
    (folder / "data.csv").write_bytes(b"\n".join(lines))
    assert errors(folder) == ["data.csv:5: is not UTF-8 text"]


def test_data_csv_that_is_not_utf8_far_down(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    rows = b"".join(b"%05d.jpg,[sky],train\n" % number for number in range(2000))
    (folder / "data.csv").write_bytes(b"path,labels,split\n" + rows + b"caf\xe9.jpg,[sky],train\n")
    assert errors(folder) == ["data.csv:2002: is not UTF-8 text"]


def test_data_csv_without_a_header_would_lose_its_first_image(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    del made.lines[0]
    expected = "data.csv:1: expected a header such as path,labels,split; got an image, which would be lost"
    assert errors(made.write())[0] == expected


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines += ["", ""]
    assert errors(made.write()) == []


def test_data_csv_whose_quotes_never_end(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    rows = [f"{number:04d}.jpg,[sky],train" for number in range(7000)]  # more than a field may hold
    made.lines = ["path,labels,split", *rows]
    made.lines[2] = '"' + made.lines[2]
    [error] = errors(made.write())
    assert error.startswith("data.csv: is not a CSV file: field larger than field limit")


# --- what is missing or is not what it should be -----------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    assert errors(tmp_path / "gone") == [f"{tmp_path / 'gone'}: no such folder"]
    (tmp_path / "file").write_text("")
    assert errors(tmp_path / "file") == [f"{tmp_path / 'file'}: no such folder"]


@KINDS
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data.csv", "data.csv: cannot be read: No such file or directory"),
        ("wordvec_array.pth", "wordvec_array.pth: no word-vector file at {folder}/wordvec_array.pth"),
        (
            "benchmark_3.json",
            '<benchmark>.json: expected one JSON file with "test class" (the unseen labels), found none',
        ),
    ],
)
def test_a_file_is_missing(name: str, expected: str, make: Make, tmp_path: Path) -> None:
    folder = make(tmp_path).write()
    (folder / name).unlink()
    found = errors(folder)
    assert expected.format(folder=folder) in found
    assert (f"{name}: is missing" in found) == (make is ours)


def test_an_unfinished_folder_of_ours_is_one_from_elsewhere(tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    (folder / "dataset.json").unlink()
    assert problems(folder) == ([], [NOT_OURS])


def test_json_that_is_broken_is_named_with_its_line(tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    (folder / "dataset.json").write_text('{\n"format_version": 1,\n"labels" []\n}\n')
    assert errors(folder)[0].startswith("dataset.json:3: is not valid JSON: ")
    folder = elsewhere(tmp_path).write()
    (folder / "benchmark_3.json").write_text('{"test class":\n["Zebra" "red car"]\n}\n')
    assert errors(folder)[0].startswith("benchmark_3.json:2: is not valid JSON: ")


@pytest.mark.parametrize("content", [b"{", b"caf\xe9"])
def test_dataset_json_that_cannot_be_read_is_one_error(content: bytes, tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    (folder / "dataset.json").write_bytes(content)
    assert len(errors(folder)) == 1


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    (folder / "benchmark_3.json").write_bytes('{"test class": ["été"]}'.encode("latin-1"))
    assert errors(folder)[0] == "benchmark_3.json: is not UTF-8 text"


@pytest.mark.parametrize("content", ["[]", '["Zebra"]', '"test class"', "3", "null", "{}", '{"unseen": []}'])
def test_json_that_is_no_benchmark(content: str, tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    (folder / "benchmark_3.json").write_text(content)
    assert errors(folder) == [
        '<benchmark>.json: expected one JSON file with "test class" (the unseen labels), found none'
    ]


@pytest.mark.parametrize("content", ["[]", '"labels"', "3", "null"])
def test_dataset_json_that_is_no_object(content: str, tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    (folder / "dataset.json").write_text(content)
    assert errors(folder)[0].startswith("dataset.json: ")


@pytest.mark.parametrize(
    "damage", [{"sha256": ["data.csv"]}, {"sha256": "3f"}, {"images": [5, 2, 4]}, {"images": 11}, {"image_root": 3}]
)
def test_dataset_json_with_values_of_another_kind(damage: dict[str, Any], tmp_path: Path) -> None:
    made = ours(tmp_path)
    assert made.info is not None
    made.info |= damage
    assert errors(made.write())[0].startswith("dataset.json: ")


def test_other_json_beside_it_is_no_benchmark(tmp_path: Path) -> None:
    for made in (ours(tmp_path), elsewhere(tmp_path)):
        folder = made.write()
        (folder / "split_report.json").write_text('{"twins": []}')
        assert errors(folder) == []


def test_two_benchmark_files(tmp_path: Path) -> None:
    for made in (ours(tmp_path), elsewhere(tmp_path)):
        folder = made.write()
        (folder / "another.json").write_text('{"test class": ["sky"]}')
    assert errors(tmp_path / "ours") == []  # dataset.json says which it is
    assert errors(tmp_path / "elsewhere") == [
        '<benchmark>.json: expected one JSON file with "test class" (the unseen labels), '
        "got another.json, benchmark_3.json"
    ]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"test class": "Zebra"}, "expected 'test class' to be a list of label names"),
        ({"test class": None}, "expected 'test class' to be a list of label names"),
        ({"test class": ["Zebra", 10]}, "expected 'test class' to be a list of label names"),
        ({"train class": {"sky": 1}}, "expected 'train class' to be a list of label names"),
        (
            {"test class": ["été", "Zebra", "red car", "été", "Zebra"]},
            "'test class' contains duplicates: 'été', 'Zebra'",
        ),
        ({"train class": ["tree", *SEEN]}, "'train class' contains duplicates: 'tree'"),
        ({"test class": [*UNSEEN, "tree", "beach"]}, "labels both seen and unseen: 'beach', 'tree'"),
        (
            {"train class": [*SEEN, *SEEN, *"stuvwxyz", *"stuvwxyz"]},
            "'train class' contains duplicates: '10', 'beach', 'sky', 'tree', 's' and 7 more",
        ),
    ],
)
def test_a_bad_class_list(damage: dict[str, Any], expected: str, tmp_path: Path) -> None:
    for made in (ours(tmp_path), elsewhere(tmp_path)):
        made.benchmark = {"train class": list(SEEN), "test class": list(UNSEEN), **damage}
        assert f"benchmark_3.json: {expected}" in errors(made.write())


# --- word vectors -------------------------------------------------------------------------------------------------


def with_value(column: int, value: float) -> torch.Tensor:
    matrix = MATRIX.clone()
    matrix[3, column] = value
    return matrix


def with_zeros(*columns: int) -> torch.Tensor:
    matrix = MATRIX.clone()
    matrix[:, list(columns)] = 0
    return matrix


@KINDS
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (torch.ones(5, 6), "expected a column for each of the 7 labels, got a tensor of shape (5, 6)"),
        (torch.ones(5, 8), "expected a column for each of the 7 labels, got a tensor of shape (5, 8)"),
        (MATRIX.T, "expected a column for each of the 7 labels, got a tensor of shape (7, 5); it seems transposed"),
        (with_value(4, float("nan")), "vectors that are not finite (1): 'sky'"),
        (with_value(6, float("-inf")), "vectors that are not finite (1): 'été'"),
        (with_zeros(1), "vectors that are all zero (1): 'Zebra'"),
        (
            with_zeros(0, 1, 2, 3, 4, 6),
            "vectors that are all zero (6): '10', 'Zebra', 'beach', 'red car', 'sky' and 1 more",
        ),
    ],
)
def test_bad_word_vectors(matrix: torch.Tensor, expected: str, make: Make, tmp_path: Path) -> None:
    made = make(tmp_path)
    made.matrix = matrix
    assert errors(made.write()) == [f"wordvec_array.pth: {expected}"]


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (torch.ones(7), "shape (7,)"),
        (torch.ones(1, 5, 7), "shape (1, 5, 7)"),
        ({"vectors": MATRIX}, "dict"),
        ([MATRIX], "list"),
    ],
)
def test_what_is_no_matrix(content: Any, came: str, tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.matrix = content
    [error] = errors(made.write())
    assert error.startswith("wordvec_array.pth: ")
    assert error.endswith(f"expected one tensor of shape (word_dim, labels), got {came}")


def test_a_trained_matrix_is_read(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.matrix = torch.nn.Parameter(MATRIX)  # numpy does not take it as it is
    assert load_dataset(made.write()).word_vectors[2].tolist() == [2, 9, 16, 23, 30]


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_a_sparse_matrix_is_refused(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.matrix = MATRIX.to_sparse()
    [error] = errors(made.write())
    assert "wordvec_array.pth: expected one tensor of shape (word_dim, labels), got " in error


class Harm:
    """What a malicious pickle is made of."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def save_pickle(path: Path, harm: Harm) -> None:
    path.write_bytes(pickle.dumps(harm))


def save_torch(path: Path, harm: Harm) -> None:
    torch.save(harm, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [save_pickle, save_torch])
def test_a_pickle_is_refused_and_not_run(save: Callable[[Path, Harm], None], tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    save(folder / "wordvec_array.pth", Harm(tmp_path / "harm"))
    [error] = errors(folder)
    assert "is not a tensor that torch.load(..., weights_only=True) reads" in error
    assert not (tmp_path / "harm").exists()
    with contextlib.suppress(Exception):
        torch.load(folder / "wordvec_array.pth", weights_only=False)
    assert (tmp_path / "harm").exists()  # it would have been run


@pytest.mark.parametrize("content", [b"", b"no tensor", b"PK\x03\x04 half an archive"])
def test_a_broken_tensor_file(content: bytes, tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    (folder / "wordvec_array.pth").write_bytes(content)
    [error] = errors(folder)
    assert "wordvec_array.pth is not a tensor that torch.load(..., weights_only=True) reads" in error


# --- dataset.json against the other files -------------------------------------------------------------------------


def test_a_file_that_was_changed_after_it_was_prepared(tmp_path: Path) -> None:
    """Though what is changed means the same."""
    folder = ours(tmp_path).write()
    data, benchmark, vectors = (folder / name for name in TRIO)
    for path, change in (
        (data, lambda: data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n"))),
        (benchmark, lambda: benchmark.write_text(json.dumps(json.loads(benchmark.read_text()), indent=1))),
        (vectors, lambda: torch.save(MATRIX * 2, vectors)),
    ):
        before = path.read_bytes()
        assert errors(folder) == []
        change()
        assert errors(folder) == [
            f"{path.name}: its sha256 differs from dataset.json: it was changed after prepare wrote it"
        ]
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"format_version": 2}, "expected format_version 1, got 2"),
        ({"format_version": None}, "expected format_version 1, got None"),
        ({"format_version": "1"}, "expected format_version 1, got '1'"),
        ({"images": {"train": 6, "val": 2, "test": 4}}, "says 6 images in train, data.csv has 5"),
        ({"images": {"train": 5, "val": 2, "test": 4, "extra": 3}}, "says 3 images in extra, data.csv has 0"),
        ({"labels": LABELS[::-1]}, "its labels differ from the sorted labels of the benchmark file"),
        ({"labels": LABELS[:-1]}, "its labels differ from the sorted labels of the benchmark file"),
    ],
)
def test_dataset_json_that_says_something_else(damage: dict[str, Any], expected: str, tmp_path: Path) -> None:
    made = ours(tmp_path)
    assert made.info is not None
    made.info |= damage
    assert errors(made.write()) == [f"dataset.json: {expected}"]


def test_dataset_json_without_a_version_is_none_of_ours(tmp_path: Path) -> None:
    folder = elsewhere(tmp_path).write()
    (folder / "dataset.json").write_text("{}")
    assert errors(folder) == ["dataset.json: expected format_version 1, got None"]


# --- warnings and missing images ----------------------------------------------------------------------------------


def test_labels_on_no_image_are_a_warning(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines = [line for line in made.lines if "été" not in line]
    found, warnings = problems(made.write())
    assert found == []
    assert warnings[2:] == [
        "data.csv: labels without images (1): 'été'. The released ML-Decoder code takes its vocabulary from data.csv "
        "and would then read the columns of wordvec_array.pth wrongly"
    ]
    assert load_dataset(made.folder).word_vectors[6].tolist() == [6, 13, 20, 27, 34]


def test_many_labels_on_no_image_are_counted(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.benchmark["test class"] += ["u1", "u2", "u3", "u4", "u5", "u6", "u7"]
    made.matrix = torch.ones(5, 14)
    _, warnings = problems(made.write())
    assert warnings[2].startswith("data.csv: labels without images (7): 'u1', 'u2', 'u3', 'u4', 'u5' and 2 more. The")


def test_images_without_a_label_and_absent_splits_are_warnings(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines = [line.replace(",val", ",train") for line in made.lines]
    made.lines += ["none/1.jpg,[],train", "none/2.jpg,[],train"]
    folder = made.write()
    assert problems(folder) == (
        [],
        [
            NOT_OURS,
            "data.csv: has no images in the split val and test",
            "data.csv: images without a label: 2; the released ML-Decoder code reads that as a label named ''",
        ],
    )
    assert not load_dataset(folder).targets(np.array([11, 12])).any()


@pytest.mark.parametrize("missing", [0, 1, SHOWN, SHOWN + 3])
def test_missing_images_are_shown_and_counted(missing: int, tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    root = tmp_path / "photos"
    paths = load_dataset(folder).paths
    for path in paths[missing:]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    expected = [f"data.csv:{line}: no image at {root / path}" for line, path in enumerate(paths[:missing], start=2)]
    if missing > SHOWN:
        expected = [*expected[:SHOWN], "data.csv: and 3 more of that kind (missing images)"]
    assert errors(folder, root) == expected
    assert errors(folder) == []  # not looked for


def test_a_folder_in_an_images_place_is_a_missing_image(tmp_path: Path) -> None:
    folder = ours(tmp_path).write()
    for path in load_dataset(folder).paths:
        (tmp_path / "photos" / path).mkdir(parents=True)
    assert errors(folder, tmp_path / "photos")[-1] == "data.csv: and 6 more of that kind (missing images)"


def test_a_name_that_is_too_long_for_a_file_is_a_missing_image(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[2] = f"{'a' * 300}.jpg,[tree],train"
    assert any("no image at" in error for error in errors(made.write(), tmp_path))


# --- load and its error ------------------------------------------------------------------------------------------


def test_load_names_what_is_wrong(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    made.lines[2] = "a/2.jpg,[tree],Train"
    made.write()
    with pytest.raises(
        DatasetError,
        match=r"elsewhere is not a valid data set folder: data\.csv:3: expected a split of .*; got 'Train'$",
    ):
        load_dataset(made.folder)
    with pytest.raises(UserError, match=r"gone is not a valid data set folder: .*gone: no such folder$"):
        load_dataset(tmp_path / "gone")


def test_load_names_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    made = elsewhere(tmp_path)
    for row in (1, 2, 3):
        made.lines[row] = f"/{row}.jpg,[tree],all"
    made.lines[4] = ",[red car],train"
    made.write()
    with pytest.raises(
        DatasetError, match=r"folder: data\.csv:2: .*; data\.csv:2: .*; .*; .*; data\.csv:4: .*; and 2 more$"
    ) as caught:
        load_dataset(made.folder)
    assert str(caught.value).count("data.csv:") == SHOWN


# --- labels and paths --------------------------------------------------------------------------------------------


@given(st.lists(TEXT.filter(lambda text: label_fault(text) is None)))
def test_labels_without_a_fault_come_back(labels: list[str]) -> None:
    assert parse_labels(format_labels(labels)) == labels


def test_labels_in_a_cell() -> None:
    assert format_labels(["sky", "red car"]) == "[sky, red car]"
    assert parse_labels("[sky, red car]") == ["sky", "red car"]
    assert parse_labels("[a,b, c]") == ["a,b", "c"]  # only a comma and a space separate
    assert parse_labels("[]") == []
    assert format_labels([]) == "[]"


@pytest.mark.parametrize("label", ["sky", "red car", "T-Shirt", "a,b", "10", "été", "it's", '7" disc', "a;b", "x,"])
def test_a_label_without_fault(label: str) -> None:
    assert label_fault(label) is None


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("", "is empty"), ("  ", "is empty"), (" sky", "spaces around"), ("sky\t", "spaces around"),
        ("sky\n", "spaces around"), ("red, car", "a comma and a space"), ("sky [blue", "a bracket"),
        ("sky]", "a bracket"), ("red\ncar", "a line break"), ("red\rcar", "a line break"),
    ],
)  # fmt: skip
def test_a_label_with_a_fault(label: str, fault: str) -> None:
    assert fault in str(label_fault(label))


@pytest.mark.parametrize("path", ["1.jpg", "a/b/1.jpg", "a..b/1..jpg", "a b/ä.jpg", "a~/1.jpg", ".hidden/1.jpg"])
def test_a_path_without_fault(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "is empty"), ("/1.jpg", "expected a path below"), ("~me/1.jpg", "expected a path below"),
        ("c:1.jpg", "expected a path below"), ("a\\1.jpg", "expected a path below"), ("a\0.jpg", "expected a path"),
        ("..", "leaves the image root"), ("a/../1.jpg", "leaves the image root"), ("a/..", "leaves the image root"),
    ],
)  # fmt: skip
def test_a_path_with_a_fault(path: str, fault: str) -> None:
    assert fault in str(path_fault(path))


def test_a_missing_torch_is_no_fault_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ours(tmp_path).write()
    monkeypatch.setattr("zsl_tagger.errors.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r'^torch is not installed: .*, run pip install "\.\[train\]"$'):
        read_dataset(folder)


# --- partial labels -------------------------------------------------------------------------------------------


def partial(folder: Path) -> Made:
    """Make a folder of ours with a column of verified negatives: two of them in the first row, none in the others."""
    made = ours(folder)
    header, first, *rest = made.lines
    made.lines = [header + ",negatives", first + ',"[tree, 10]"', *(line + ",[]" for line in rest)]
    return made


def test_negatives_are_read_and_all_else_is_unknown(tmp_path: Path) -> None:
    dataset = load_dataset(partial(tmp_path).write())
    assert dataset.partial
    assert [row.tolist() for row in dataset.negative_indices or []] == [[5, 0], *([] for _ in range(10))]
    unknown = dataset.unknown(np.array([3, 0]))
    assert unknown is not None
    assert np.flatnonzero(~unknown[0]).tolist() == [2]
    assert np.flatnonzero(~unknown[1]).tolist() == [0, 2, 4, 5]
    assert np.flatnonzero(dataset.targets(np.array([0]))[0]).tolist() == [2, 4]


def test_images_of_each_label_are_counted_by_split(tmp_path: Path) -> None:
    dataset = load_dataset(ours(tmp_path).write())
    for split in ("train", "val", "test"):
        assert dataset.images_per_label(split).tolist() == dataset.targets(dataset.rows(split)).sum(axis=0).tolist()


def test_labels_are_complete_without_the_column(tmp_path: Path) -> None:
    dataset = load_dataset(ours(tmp_path).write())
    assert not dataset.partial
    assert dataset.unknown(np.array([3, 0])) is None


def test_one_label_an_image_is_no_single_label_data_where_others_are_unknown(tmp_path: Path) -> None:
    made = partial(tmp_path)
    made.lines = [made.lines[0], *(f"{number}.jpg,[sky],train,[]" for number in range(5))]
    made.info = {**(made.info or {}), "images": {"train": 5, "val": 0, "test": 0}}
    assert not load_dataset(made.write()).single_label


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a/2.jpg,[tree],train", "expected path, labels, split, negatives; got 3 columns"),
        ("a/2.jpg,[tree],train,sky", "expected negatives as [a, b], got 'sky'"),
        ("a/2.jpg,[tree],train,", "expected negatives as [a, b], got ''"),
        ("a/2.jpg,[tree],train,[oak]", "'oak' is neither a seen nor an unseen label"),
        ("a/2.jpg,[tree],train,[tree]", "'tree' is listed both in labels and in negatives"),
        ('a/2.jpg,[tree],train,"[sky, sky]"', "a label is repeated: [sky, sky]"),
        ("a/2.jpg,[tree],val,[Zebra]", "the unseen label 'Zebra' is a negative of an image of the split val"),
    ],
)
def test_a_bad_row_of_partial_labels(line: str, expected: str, tmp_path: Path) -> None:
    made = partial(tmp_path)
    made.lines[2] = line
    assert f"data.csv:3: {expected}" in errors(made.write())


def test_a_fourth_column_of_another_name(tmp_path: Path) -> None:
    made = partial(tmp_path)
    made.lines[0] = "path,labels,split,absent"
    assert errors(made.write()) == ["data.csv:1: expected the fourth column to be named negatives, got 'absent'"]


def test_the_released_code_reads_a_folder_with_partial_labels(tmp_path: Path) -> None:
    sides = {"train": "train", "test": "test"}
    (tmp_path / "complete").mkdir()
    complete = ours(tmp_path / "complete").write()
    assert released(partial(tmp_path).write(), sides) == released(complete, sides)

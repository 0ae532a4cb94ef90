"""Tables as Excel and other programs write them: encodings, semicolons, decimal commas, and what is no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.tables import Columns, _read
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.score_files import MatrixFile, read_targets
from zsl_tagger.words.label_lists import read_labels_file

SCORES = "image,cat,caf\u00e9\na.jpg,0.25,0.5\nb.jpg,0.75,1\n"
TAGS = 'path,tags\na.jpg,"cat,caf\u00e9"\nb.jpg,dog\n'
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


def values_of(path: Path) -> tuple[list[str], list[list[float]]]:
    file = MatrixFile(path)
    return file.labels, np.concatenate([values for _, values in file.blocks()]).tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_unicode_encoding_is_read(encoding: str, tmp_path: Path) -> None:
    scores, tags, labels = (tmp_path / name for name in ("scores.csv", "tags.csv", "labels.txt"))
    scores.write_bytes(SCORES.encode(encoding))
    assert values_of(scores) == (["cat", "caf\u00e9"], [[0.25, 0.5], [0.75, 1.0]])
    tags.write_bytes(TAGS.encode(encoding))
    assert _read(tags, Columns())[1] == [["caf\u00e9", "cat"], ["dog"]]
    labels.write_bytes("cat\r\ncaf\u00e9\r\n".encode(encoding))
    assert read_labels_file(labels) == ["cat", "caf\u00e9"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_score_file_is_found(delimiter: str, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(SCORES.replace(",", delimiter), encoding="utf-8")
    assert values_of(tmp_path / "scores.csv") == (["cat", "caf\u00e9"], [[0.25, 0.5], [0.75, 1.0]])


def test_with_semicolons_numbers_may_have_decimal_commas(tmp_path: Path) -> None:
    text = SCORES.replace(",", ";").replace("0.", "0,")
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    assert values_of(tmp_path / "scores.csv")[1] == [[0.25, 0.5], [0.75, 1.0]]
    (tmp_path / "targets.csv").write_text("image;cat;dog\na.jpg;1;\n", encoding="utf-8")
    _, _, targets, ignored = read_targets(tmp_path / "targets.csv")
    assert (targets.tolist(), ignored.tolist()) == ([[True, False]], [[False, True]])


def test_a_cut_file_in_utf_16_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("cat\n".encode("utf-16")[:-1])
    with pytest.raises(
        UserError,
        match=r"labels\.txt has the byte order mark of utf-16, but is not valid utf-16 text: it is damaged",
    ):
        read_labels_file(tmp_path / "labels.txt")


def test_an_unknown_code_page_is_told(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    scores, tags, labels = (tmp_path / name for name in ("scores.csv", "tags.csv", "labels.txt"))
    scores.write_bytes(SCORES.encode("latin-1"))
    with pytest.raises(
        UserError, match=r"scores\.csv is not UTF-8, so its names cannot be read: save it as CSV UTF-8$"
    ):
        MatrixFile(scores)
    tags.write_bytes(TAGS.encode("latin-1"))
    assert _read(tags, Columns())[1][0] == ["caf\u00e9", "cat"]
    message = "is not UTF-8 and is read as Latin-1: if letters with accents are wrong, save it as UTF-8"
    assert [(record.levelname, record.message) for record in logged.records] == [("WARNING", f"{tags} {message}")]
    labels.write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"labels\.txt is not UTF-8 text: save it as UTF-8$"):
        read_labels_file(labels)


def test_nul_bytes_are_explained(tmp_path: Path) -> None:
    scores, tags, labels = (tmp_path / name for name in ("scores.csv", "tags.csv", "labels.txt"))
    message = "contains NUL bytes: expected text. It is damaged, or UTF-16 without a byte order mark: save it as UTF-8$"
    scores.write_bytes(SCORES.replace("\u00e9", "e").encode("utf-16-le"))
    tags.write_bytes(TAGS.replace("dog", "d\0g").encode())
    labels.write_bytes(b"cat\0\n")
    with pytest.raises(UserError, match=message):
        MatrixFile(scores)
    with pytest.raises(UserError, match=message):
        _read(tags, Columns())
    with pytest.raises(UserError, match=message):
        read_labels_file(labels)


@pytest.mark.parametrize("name", ["images", "labels", "kind"])
def test_object_arrays_are_explained(name: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"scores": np.zeros((1, 1)), "images": ["a"], "labels": ["cat"], "kind": "logits"}
    np.savez(tmp_path / "s.npz", **{**arrays, name: np.array(arrays[name], object)})
    with pytest.raises(UserError, match=rf"{name} is an array of Python objects.*save it as text, {name}=np.array"):
        MatrixFile(tmp_path / "s.npz")

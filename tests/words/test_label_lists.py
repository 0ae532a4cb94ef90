"""Lists of labels: what separates them, what they may hold, and when two are one."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_prep.folders import _walk
from data_prep.pipeline import Options, vectors_for
from data_prep.splits import choose_unseen
from data_prep.tables import Columns, _read
from zsl_tagger.bulk.labels import requested_labels
from zsl_tagger.bulk.options import TagRun
from zsl_tagger.datasets.format import label_fault
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import data_of_targets
from zsl_tagger.evaluation.score_files import MatrixFile, read_scores
from zsl_tagger.images.finding import Selection
from zsl_tagger.search.query import parse_query
from zsl_tagger.serve.tagging import read_labels
from zsl_tagger.words.label_lists import names_with_marks, read_class_list, read_labels_file, split_labels
from zsl_tagger.words.table import ClassTable, WordTable

TWO, ONE = "cafe\u0301", "caf\u00e9"
BREAKS = ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029"]
CONTROLS = ["\t", "\x00", "\x0b", "\x1b", "\x1f", "\x7f", "\x9b"]


@pytest.mark.parametrize("line_break", BREAKS)
def test_a_line_break_separates_as_a_comma_does(line_break: str, tmp_path: Path) -> None:
    text = line_break.join(["dog", " red car ,beach", "", "cat"])
    assert split_labels(text) == ["dog", "red car", "beach", "cat"]
    assert parse_query(text).labels == ("dog", "red car", "beach", "cat")
    (tmp_path / "labels.txt").write_bytes(text.replace("cat", "cat # a comment").encode())
    assert read_labels_file(tmp_path / "labels.txt") == ["dog", "red car", "beach", "cat"]


@pytest.mark.parametrize("char", CONTROLS)
def test_a_control_character_inside_a_label_is_an_error(char: str, tmp_path: Path) -> None:
    message = (
        "the label .* contains a tab or another control character: replace it by a space, or a comma between two labels"
    )
    for read in (split_labels, parse_query):
        with pytest.raises(UserError, match=f"^{message}$"):
            read(f"cat,red{char}car")
    (tmp_path / "labels.txt").write_bytes(f"cat\nred{char}car\n".encode())
    in_file = r"labels\.txt contains NUL bytes" if char == "\0" else rf"labels\.txt: {message}$"
    with pytest.raises(UserError, match=in_file):
        read_labels_file(tmp_path / "labels.txt")
    assert label_fault(f"red{char}car") == "contains a tab, a line break or another control character"


@pytest.mark.parametrize("line_break", BREAKS)
def test_a_label_of_a_data_set_holds_no_line_break(line_break: str) -> None:
    assert label_fault(f"red{line_break}car") == "contains a tab, a line break or another control character"


#: Class names of ImageNet, of Stack Overflow and of a shop.
CLASSES = ["tench, Tinca tinca", "C#", "#1 fan", "dog", "great white shark, white shark, man-eater"]


def test_a_class_list_has_one_whole_name_a_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("".join(f"{name} \r\n\n" for name in CLASSES))
    assert read_class_list(tmp_path / "classes.txt") == CLASSES
    (tmp_path / "classes.txt").write_text("dog\nred\tcar\n")
    with pytest.raises(UserError, match=r"classes\.txt: the label 'red\\tcar' contains a tab"):
        read_class_list(tmp_path / "classes.txt")


def test_a_known_name_with_commas_stays_whole() -> None:
    known = names_with_marks(CLASSES)
    assert known == ("tench, Tinca tinca", "C#", "#1 fan", "great white shark, white shark, man-eater")
    text = "dog,Tench,tinca  tinca, C#,great white shark, white shark"
    assert split_labels(text, known) == [
        "dog", "tench, Tinca tinca", "C#", "great white shark", "white shark",
    ]  # fmt: skip
    assert split_labels(", ".join(CLASSES), known) == CLASSES
    assert read_labels("dog,tench, Tinca tinca", known) == ("dog", "tench, Tinca tinca")
    assert parse_query("tench, Tinca tinca, water -dog", known).wanted == (("tench, Tinca tinca",), ("water",))
    assert choose_unseen("a,b, c", ["a,b", "c", "d"], 0) == ["a,b", "c"]


@pytest.mark.parametrize("option", ["labels", "labels_file"])
def test_a_class_with_commas_can_be_asked(option: str, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    tagger: Any = SimpleNamespace(words=ClassTable(CLASSES))
    (tmp_path / "labels.txt").write_text("dog, tench, Tinca tinca\nC#\n")
    given: dict[str, Any] = {"labels": "dog, tench, Tinca tinca, C#", "labels_file": tmp_path / "labels.txt"}
    run = TagRun(paths=["a.jpg"], **{option: given[option]})
    assert requested_labels(tagger, run) == ["dog", "tench, Tinca tinca", "C#"]
    assert not logged.messages


def test_a_labels_file_keeps_known_names_and_drops_comments(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("# my classes\n" + "\n".join(CLASSES) + "\ncat, bird # two\n#fish\n")
    assert read_labels_file(path, names_with_marks(CLASSES)) == [*CLASSES, "cat", "bird"]
    path.write_text("C#\nF# # a comment\n")
    assert read_labels_file(path) == ["C#", "F#"]


def test_unseen_classes_of_a_targets_file_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "targets.csv").write_text('image,"tench, Tinca tinca",C#,dog\na.jpg,1,0,1\n')
    (tmp_path / "unseen.txt").write_text("C#\ntench, Tinca tinca\n")
    data = data_of_targets(tmp_path / "targets.csv", tmp_path / "unseen.txt", None)
    assert dict(zip(data.labels, data.seen.tolist(), strict=True)) == {
        "tench, Tinca tinca": False, "C#": False, "dog": True,
    }  # fmt: skip


def test_spaces_and_tabs_around_a_label_are_taken_off() -> None:
    assert split_labels("\tdog \t, cat\t") == ["dog", "cat"]


def test_a_word_in_two_unicode_forms_is_one_label(tmp_path: Path) -> None:
    assert split_labels(f"{TWO},{ONE}") == [ONE, ONE]
    table = tmp_path / "tags.csv"
    table.write_text(f'path,tags\na.jpg,"{TWO},cat"\nb.jpg,{ONE}\n', encoding="utf-8")
    assert _read(table, Columns())[1] == [[ONE, "cat"], [ONE]]


def test_scores_are_found_under_a_label_in_another_unicode_form(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=np.array([[0.2, 0.7]]), images=["a.jpg"], labels=["cat", TWO])
    notes: list[str] = []
    for asked in (ONE, TWO):
        scores, _ = read_scores(tmp_path / "s.npz", ["a.jpg"], [asked, "cat"], "probabilities", notes)
        assert scores.tolist() == [[pytest.approx(0.7), pytest.approx(0.2)]]
    np.savez(tmp_path / "s.npz", scores=np.array([[0.2, 0.7]]), images=["a.jpg"], labels=[ONE, TWO])
    with pytest.raises(UserError, match="duplicate labels: 'café'"):
        MatrixFile(tmp_path / "s.npz")


def test_labels_that_differ_only_in_capitals_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    vectors_for(["Dog", "cat", "dog"], Options())
    assert caplog.messages == ["labels that differ only in capitals stay different labels (1): 'Dog' and 'dog'"]


def test_no_character_but_a_line_break_ends_a_word_of_a_table(tmp_path: Path) -> None:
    words = ["a\u2028b", "c\x85d", "e\x0bf\x1cg", "h"]
    WordTable(words, np.eye(4, dtype=np.float32)).save(tmp_path)
    assert WordTable.load(tmp_path).words == words
    (tmp_path / "words.txt").write_bytes(b"a\r\nb\r\nc\r\nd\r\n")  # written on Windows
    assert WordTable.load(tmp_path).words == ["a", "b", "c", "d"]
    with pytest.raises(UserError, match=r"expected words without line breaks, got 'a\\nb'"):
        WordTable(["a\nb"], np.ones((1, 2), np.float32)).save(tmp_path)


def test_class_folders_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    """Write a name as macOS and as other systems do; the paths stay as they are on the disk."""
    for folder in (TWO, ONE):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").touch()
    assert set(_walk(tmp_path, tmp_path, Selection())) == {(f"{TWO}/a.jpg", ONE, None), (f"{ONE}/a.jpg", ONE, None)}

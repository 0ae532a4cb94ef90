"""Check several vectors a label: files of names and sentences, and the mean of their vectors."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.pipeline import Options
from data_prep.wordvecs import prepare_wordvecs, word_vectors
from zsl_tagger.errors import UserError
from zsl_tagger.words.phrases import Phrases, mean_vectors, read_phrases, vectors_by_phrases
from zsl_tagger.words.prompts import TextEncoderSource

#: Lengths 5, 2, 3, 13, 10.
TABLE = {"dog": (3, 4, 0), "cat": (0, 0, 2), "kitty": (1, 2, 2), "couch": (3, 12, 4), "red": (8, 0, 6)}

CSV = 'label,name,sentence\ncat,kitty,\ncat,,"It has soft fur, and whiskers."\ndog,puppy,\n\ncat,kitty,\n'
LINES = [
    {"label": "cat", "names": ["kitty"], "sentences": ["It has soft fur, and whiskers."]},
    {"label": "dog", "names": ["puppy"]},
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    rows = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in TABLE.items())
    (tmp_path / "table.txt").write_text(rows)
    return f"gensim:{tmp_path / 'table.txt'}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "phrases.csv") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def unit(row: Sequence[float]) -> np.ndarray:
    return np.array(row) / np.linalg.norm(row)


class Letters(TextEncoderSource):
    """Encode a text as a vector that depends on all of it; lengths are not 1."""

    word_dim = 5
    templates = ("a photo of a {}.", "art of the {}")

    def encode(self, sentences: Sequence[str], unit: bool) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in sentences]
        rows = np.stack([np.random.default_rng(seed).normal(size=5) + 1 for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows).astype(np.float32)


# --- files --------------------------------------------------------------------------------------------------------


def test_both_kinds_of_files_say_the_same(write: Callable[..., Path]) -> None:
    expected = {"cat": Phrases(("kitty",), ("It has soft fur, and whiskers.",)), "dog": Phrases(("puppy",))}
    assert read_phrases(write(CSV)) == expected
    assert read_phrases(write("\n".join(map(json.dumps, LINES)) + "\n\n", "phrases.jsonl")) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "cat\n", r"expected phrases in a \.csv or \.jsonl file, got .*p\.txt"),
        ("p.csv", "", r"p\.csv: expected the columns label and name or sentence, got nothing"),
        (
            "p.csv",
            "label,word\ncat,kitty\n",
            r"p\.csv: expected the columns label and name or sentence, got label,word",
        ),
        ("p.csv", "label,name\ncat,kitty,cat\n", r"p\.csv:2: expected 2 columns \(quote phrases with commas\)"),
        ("p.csv", "label,name\ncat,kitty\ncat\n", r"p\.csv:3: expected 2 columns"),
        ("p.csv", "label,name\n,kitty\n", r"p\.csv:2: expected a label and phrases on one line each, got ''"),
        ("p.csv", 'label,name\ncat,"kit\nty"\n', r"p\.csv:3: expected a label and phrases on one line each"),
        ("p.csv", 'label,name\ncat,"kitty\n', r"p\.csv:[23]: is not valid CSV"),
        ("p.csv", "label,name\ncat,\n", r"p\.csv contains no phrases"),
        ("p.jsonl", '{"label": "cat"', r"p\.jsonl:1: is not valid JSON"),
        (
            "p.jsonl",
            '\n["cat"]',
            r'p\.jsonl:2: expected an object with "label", "names" and "sentences", got \["cat"\]',
        ),
        ("p.jsonl", '{"label": "cat", "synonyms": []}', r'p\.jsonl:1: expected an object with "label"'),
        ("p.jsonl", '{"label": "cat", "names": "kitty"}', r"p\.jsonl:1: names: expected a list of strings, got kitty"),
        ("p.jsonl", "", r"p\.jsonl contains no phrases"),
    ],
)
def test_files_that_are_not_what_they_should_be(name: str, text: str, message: str, write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=message):
        read_phrases(write(text, name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the phrases file .*gone\.csv: No such file"):
        read_phrases(tmp_path / "gone.csv")


# --- vectors of words -----------------------------------------------------------------------------------------------


def test_a_label_is_the_mean_of_the_unit_vectors_of_its_names(source: str, write: Callable[..., Path]) -> None:
    phrases = write("label,name\ncat,kitty\ncat,Couch\nsofa,couch\nsofa,red\n")
    vectors = word_vectors(["cat", "dog", "sofa"], source, phrases=phrases)
    expected = [
        unit(unit(TABLE["cat"]) + unit(TABLE["kitty"]) + unit(TABLE["couch"])),
        unit(TABLE["dog"]),
        unit(2 * unit(TABLE["couch"]) + unit(TABLE["red"])),  # sofa itself is found as its synonym, couch
    ]
    np.testing.assert_allclose(vectors.matrix, expected, atol=1e-6)
    assert vectors.how == {
        "cat": ("phrases", ("cat", "kitty", "Couch")), "dog": ("as is", ("dog",)),
        "sofa": ("phrases", ("sofa", "couch", "red")),
    }  # fmt: skip


def test_lengths_are_kept_where_asked(source: str, write: Callable[..., Path]) -> None:
    phrases = write("label,name\ncat,kitty\n")
    vectors = word_vectors(["cat", "dog"], source, normalize=False, phrases=phrases)
    assert vectors.matrix.tolist() == [[0.5, 1, 2], [3, 4, 0]]


def test_a_label_without_a_vector_is_known_by_its_names(
    source: str, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    phrases = write("label,name\nqxzwv,kitty\nqxzwv,qqzzq\nelephant,grey\n")
    vectors = word_vectors(["dog", "qxzwv"], source, phrases=phrases)
    np.testing.assert_allclose(vectors.matrix[1], unit(TABLE["kitty"]), atol=1e-6)
    assert vectors.how["qxzwv"] == ("phrases", ("kitty",))
    assert f"names without a vector in {source} are ignored (1): 'qqzzq'" in caplog.text
    assert "phrases for names that are not labels are ignored (1)" in caplog.text
    with pytest.raises(UserError, match="labels without a vector"):
        word_vectors(["dog", "qxzwv"], source, phrases=write("label,name\nqxzwv,qqzzq\n"))


def test_phrases_that_do_not_go_with_the_labels_or_the_source(source: str, write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="has phrases for none of the labels: its first label is 'lion'"):
        word_vectors(["cat", "dog"], source, phrases=write("label,name\nlion,cat\n"))
    with pytest.raises(UserError, match=r"has sentences, which need word vectors from a text encoder.*give names"):
        word_vectors(["cat", "dog"], source, phrases=write(CSV))


def test_the_report_names_the_phrases(source: str, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    prepare_wordvecs(tmp_path / "labels.txt", source, tmp_path / "v.pth", phrases=write("label,name\ncat,kitty\n"))
    report = json.loads((tmp_path / "v.json").read_text())["word_vectors"]
    assert report["labels"] == {"cat": {"how": "phrases", "words": ["cat", "kitty"]}}
    assert report["found"] == {"phrases": 1, "as is": 1}


def test_other_phrases_are_another_data_set(write: Callable[..., Path]) -> None:
    plain = Options().identity()
    assert "phrases" not in plain
    first = Options(phrases=write("label,name\ncat,kitty\n")).identity()
    assert first == Options(phrases=write("label,name\ncat,kitty\n", "other.csv")).identity() != plain
    assert first != Options(phrases=write("label,name\ncat,tom\n")).identity()


# --- vectors of a text encoder --------------------------------------------------------------------------------------


def test_names_go_into_the_templates_and_sentences_stand_as_they_are(write: Callable[..., Path]) -> None:
    source = Letters()
    labels = {label: source.resolve(label) for label in ("cat", "dog", "fish")}
    means, told = vectors_by_phrases(write(CSV), labels, source, "st:letters", find=source.resolve)

    def by_templates(name: str) -> np.ndarray:
        return unit(source.encode([f"a photo of a {name}.", f"art of the {name}"], True).mean(axis=0).tolist())

    sentence = source.encode(["It has soft fur, and whiskers."], True)[0]
    np.testing.assert_allclose(means["cat"], unit(by_templates("cat") + by_templates("kitty") + sentence), atol=1e-6)
    np.testing.assert_allclose(means["dog"], unit(by_templates("dog") + by_templates("puppy")), atol=1e-6)
    assert set(means) == {"cat", "dog"}
    assert told["cat"] == ("cat", "kitty", "It has soft fur, and whiskers.")


def test_a_label_alone_keeps_its_vector() -> None:
    source = Letters()
    resolved = source.resolve("cat")
    assert resolved is not None
    means = mean_vectors(source, {"cat": [resolved], "dog": []}, {})
    np.testing.assert_allclose(means["cat"], source.vectors_of([resolved])[0], atol=1e-6)
    assert set(means) == {"cat"}

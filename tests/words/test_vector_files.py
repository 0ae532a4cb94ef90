"""Files of word vectors that are unusual, broken or hostile."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gensim.downloader
import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import save_facebook_model
from paths import ROOT

from data_prep.wordvecs import word_vectors
from zsl_tagger.errors import UserError
from zsl_tagger.words.sources import open_word_source
from zsl_tagger.words.vector_files import read_vector_file

pytestmark = pytest.mark.slow


class Attack:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def keyed() -> KeyedVectors:
    vectors = KeyedVectors(3)
    vectors.add_vectors(["dog", "cat"], np.ones((2, 3), np.float32))
    return vectors


def fasttext_file(path: Path) -> Path:
    model = FastText(vector_size=5, min_count=1, bucket=37, epochs=1)
    model.build_vocab([["dog", "cat", "bus"]])
    model.train([["dog", "cat", "bus"]], total_examples=1, epochs=1)
    save_facebook_model(model, str(path))
    return path


def test_a_pickle_beside_a_kv_is_not_run(tmp_path: Path) -> None:
    vectors = keyed()
    vectors.__dict__["__scipys"] = ["payload"]
    (tmp_path / "a.kv").write_bytes(pickle.dumps(vectors))
    (tmp_path / "a.kv.payload.npy").write_bytes(pickle.dumps(Attack(tmp_path / "marker")))
    with pytest.raises(UserError, match=r"a\.kv: it refers to other pickles, which are not opened"):
        open_word_source(f"gensim:{tmp_path / 'a.kv'}")
    assert not (tmp_path / "marker").exists()


def test_nor_one_beside_a_nested_object(tmp_path: Path) -> None:
    vectors, inner = keyed(), keyed()
    inner.__dict__["__scipys"] = ["payload"]
    vectors.inner = inner
    vectors.__dict__["__recursive_saveloads"] = ["inner"]
    (tmp_path / "a.kv").write_bytes(pickle.dumps(vectors))
    (tmp_path / "a.kv.inner.payload.npy").write_bytes(pickle.dumps(Attack(tmp_path / "marker")))
    with pytest.raises(UserError, match=r"a\.kv: it refers to other pickles, which are not opened"):
        open_word_source(f"gensim:{tmp_path / 'a.kv'}")
    assert not (tmp_path / "marker").exists()


def test_a_kv_cannot_change_gensims_class(tmp_path: Path) -> None:
    """BUILD on the class itself makes gensim's loader unpickle the file beside it, whatever the object says."""
    (tmp_path / "a.kv.payload").write_bytes(pickle.dumps(Attack(tmp_path / "marker")))
    (tmp_path / "a.kv.payload.npy").write_bytes(pickle.dumps(Attack(tmp_path / "marker")))
    named = b"cgensim.models.keyedvectors\nKeyedVectors\n"
    sets = pickle.dumps((None, {"__scipys": ["payload"]}), 2)[2:-1]
    (tmp_path / "a.kv").write_bytes(b"\x80\x02" + named + sets + b"b0" + pickle.dumps(keyed(), 2)[2:])
    try:
        with pytest.raises(UserError, match=r"a\.kv: it changes a class, which is not data: not opened"):
            open_word_source(f"gensim:{tmp_path / 'a.kv'}")
    finally:
        if "__scipys" in vars(KeyedVectors):
            delattr(KeyedVectors, "__scipys")
    assert not (tmp_path / "marker").exists()


def test_the_array_beside_a_kv_is_not_unpickled(tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "a.kv"), separately=["vectors"])
    np.save(tmp_path / "a.kv.vectors.npy", np.array([Attack(tmp_path / "marker")]))
    with pytest.raises(UserError, match=r"a\.kv: Object arrays cannot be loaded when allow_pickle=False"):
        open_word_source(f"gensim:{tmp_path / 'a.kv'}")
    assert not (tmp_path / "marker").exists()


def test_a_kv_names_no_file_of_another_folder(tmp_path: Path) -> None:
    vectors = keyed()
    vectors.__dict__["__numpys"] = ["/../../vectors"]
    del vectors.vectors
    (tmp_path / "a.kv").write_bytes(pickle.dumps(vectors))
    with pytest.raises(UserError, match=r"a\.kv: it has no vectors"):
        open_word_source(f"gensim:{tmp_path / 'a.kv'}")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("layout", ["C", "F"])
def test_a_kv_of_any_protocol_and_layout_is_read(protocol: int, layout: Any, tmp_path: Path) -> None:
    vectors = KeyedVectors(3)
    vectors.add_vectors([np.int64(7), "dog"], np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    vectors.vectors = np.asarray(vectors.vectors, order=layout)
    (tmp_path / "a.kv").write_bytes(pickle.dumps(vectors, protocol))
    words, read = read_vector_file(tmp_path / "a.kv")
    assert words == ["7", "dog"]
    assert read.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_kv_of_gensim_3_is_read(tmp_path: Path) -> None:
    old = KeyedVectors.__new__(KeyedVectors)
    old.__dict__.update(index2word=["dog", "cat"], syn0=np.array([[1, 2], [3, 4]], ">f4"), vocab={}, vector_size=2)
    (tmp_path / "a.kv").write_bytes(pickle.dumps(old, 2))
    words, read = read_vector_file(tmp_path / "a.kv")
    assert words == ["dog", "cat"]
    assert read.tolist() == [[1, 2], [3, 4]]


def test_a_fasttext_file_cut_in_its_words_is_refused_in_time(tmp_path: Path) -> None:
    fasttext_file(tmp_path / "a.bin")
    whole = (tmp_path / "a.bin").read_bytes()
    program = "import sys; from zsl_tagger.words.vector_files import *"
    program += """
for name in sys.argv[1:]:
    try:
        read_vector_file(Path(name))
    except UserError as error:
        print(error)
"""
    cuts = [tmp_path / f"{length}.bin" for length in (30, 70, whole.index(b"cat\0") + 2, whole.index(b"cat\0") + 7)]
    for path in cuts:
        path.write_bytes(whole[: int(path.stem)])
    result = subprocess.run(
        [sys.executable, "-c", program, *cuts], timeout=60, capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert len(result.stdout.splitlines()) == len(cuts)
    for path, told in zip(cuts, result.stdout.splitlines(), strict=True):
        assert told.startswith(f"cannot read word vectors from {path}")
        assert "its word list is truncated" in told


def test_a_word_twice_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("3 2\ncat 1 2\ncat 5 6\ndog 3 4\n")
    vectors = word_vectors(["Dog", "Cats"], f"gensim:{tmp_path / 'a.txt'}", normalize=False)
    assert vectors.matrix.tolist() == [[1, 2], [3, 4]]


def test_glove_840b_has_words_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("dog 4 5 6\n. . . 0.5 0.25 -1\nat name@domain.com 1 2 3\ncat 7 8 9\n")
    assert word_vectors(["cat"], f"gensim:{tmp_path / 'a.txt'}", normalize=False).matrix.tolist() == [[7, 8, 9]]


@pytest.mark.parametrize("content", ["dog\ncat\n", "\n\n\n"])
def test_a_list_of_words_is_no_file_of_vectors(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=r"cannot read word vectors from .*expected a (word and its|vector for each)"):
        open_word_source(f"gensim:{tmp_path / 'a.txt'}")


def test_fewer_vectors_than_words(tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "a.kv"), separately=["vectors"])
    np.save(tmp_path / "a.kv.vectors.npy", np.ones((1, 3), np.float32))
    with pytest.raises(UserError, match=r"expected a vector for each word, got 2 words and vectors of shape \(1, 3\)"):
        open_word_source(f"gensim:{tmp_path / 'a.kv'}")


def test_a_phrase_with_a_word_of_zeros_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("red 3 4\nnothing 0 0\n")
    with pytest.raises(UserError, match="red nothing"):
        word_vectors(["red nothing"], f"gensim:{tmp_path / 'a.txt'}")


def test_packed_kinds_that_are_not_opened_are_said(tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "a.kv.gz"))
    fasttext_file(tmp_path / "a.bin")
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress((tmp_path / "a.bin").read_bytes()))
    for name in ("a.kv.gz", "a.bin.gz"):
        with pytest.raises(UserError, match=rf"{re.escape(name)}: unpack it first"):
            open_word_source(f"gensim:{tmp_path / name}")


def test_a_folder_is_no_name_of_the_downloader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gensim.downloader, "info", lambda: pytest.fail("the downloader was asked"))
    with pytest.raises(UserError, match=r"is a folder: expected a file of word vectors"):
        open_word_source(f"gensim:{tmp_path}")


@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_text_as_it_comes(header: str, tmp_path: Path) -> None:
    """Tabs, several spaces, a byte order mark, blank lines and Windows line ends."""
    text = "\ufeff" + header + "dog\t1\t2\r\n\r\ncat  3 4 \r\nred car 5 -6e-1"
    (tmp_path / "a.txt").write_bytes(text.encode())
    vectors = word_vectors(["cat", "dog", "red car"], f"gensim:{tmp_path / 'a.txt'}", normalize=False)
    assert np.allclose(vectors.matrix, np.array([[3, 4], [1, 2], [5, -0.6]]))
    assert set(vectors.how.values()) == {("as is", ("cat",)), ("as is", ("dog",)), ("as is", ("red car",))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog 1 2\ncat 3\n", r"line 2: expected a word and its 2 numbers, got 'cat 3'"),
        ("dog 1 2\ncat 3 x\n", r"line 2: expected a word and its 2 numbers, got 'cat 3 x'"),
        ("3 2\ndog 1 2\ncat 3 4\n", r"its header says 3 words, but it has 2"),
        ("", r"expected a vector for each word, got 0 words"),
    ],
)
def test_a_broken_text_file_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=rf"^cannot read word vectors from .*a\.txt: {message}"):
        open_word_source(f"gensim:{tmp_path / 'a.txt'}")


def many_vectors(junk: dict[int, str]) -> str:
    """1,000 lines of a word and two numbers, but for some lines."""
    lines = [junk.get(number, f"word{number} {number} 1") for number in range(1, 1001)]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("header", ["", "1000 2\n"])
@pytest.mark.parametrize("place", [1, 500, 1000])
def test_a_junk_line_among_many_is_skipped_and_counted(
    place: int, header: str, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(header + many_vectors({place: "<html>", 700: "dog 1 x"}))
    words, vectors = read_vector_file(path)
    assert (len(words), vectors.shape) == (998, (998, 2))
    number = min(place, 700) + bool(header)
    line = f"line {number}: expected a word and its 2 numbers, got '{'<html>' if place < 700 else 'dog 1 x'}'"
    assert logged.messages == [f"{path}: 2 of 1,000 lines skipped, the first is {line}"]


def test_a_junk_line_is_noted_by_what_opens_the_source(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text(many_vectors({3: "junk"}))
    word_vectors(["word7"], f"gensim:{tmp_path / 'a.txt'}")
    assert sum("1 of 1,000 lines skipped" in message for message in logged.messages) == 1


def test_a_file_of_much_junk_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(many_vectors(dict.fromkeys(range(20, 60), "junk")))
    with pytest.raises(UserError, match=r"a\.txt: line 20: expected a word and its 2 numbers, got 'junk'$"):
        read_vector_file(path)
    path.write_text(many_vectors({}) + "last 1")
    with pytest.raises(UserError, match=r"a\.txt: its last line is truncated: line 1001: .* got 'last 1'$"):
        read_vector_file(path)


def test_empty_lines_at_the_end_of_glove(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("dog 3 4\ncat 1 1\n\n")
    assert word_vectors(["dog"], f"gensim:{tmp_path / 'a.txt'}", normalize=False).matrix.tolist() == [[3, 4]]


def test_int_keys(tmp_path: Path) -> None:
    vectors = KeyedVectors(3)
    vectors.add_vectors([3, 5], np.ones((2, 3), np.float32))
    vectors.save(str(tmp_path / "a.kv"))
    assert word_vectors(["3"], f"gensim:{tmp_path / 'a.kv'}").matrix.shape == (1, 3)
    with pytest.raises(UserError, match="unknown label 'Dog'"):
        word_vectors(["Dog"], f"gensim:{tmp_path / 'a.kv'}")

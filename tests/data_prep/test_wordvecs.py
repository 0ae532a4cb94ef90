"""A label set's vectors: policies for the unknown ones, synonyms, the report, and the file that is written."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT

from data_prep.results import FoundLabel
from data_prep.wordvecs import MISSING_POLICIES, prepare_wordvecs, word_vectors
from zsl_tagger.errors import UserError
from zsl_tagger.system.files import sha256_of
from zsl_tagger.words.sources import open_word_source

#: Lengths 5, 2, 3, 13, 0, 10, 1.
TABLE: dict[str, Sequence[float]] = {
    "dog": (3, 4, 0), "cat": (0, 0, 2), "hair_dryer": (1, 2, 2), "couch": (3, 12, 4), "nothing": (0, 0, 0),
    "Red": (8, 0, 6), "scissors": (0, -1, 0),
}  # fmt: skip


def write_glove(path: Path, table: Mapping[str, Sequence[float]]) -> str:
    """The table as a text file without a header; its specification."""
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in table.items()), encoding="utf-8")
    return f"gensim:{path}"


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_glove(tmp_path / "table.txt", TABLE)


# --- vectors ----------------------------------------------------------------------------------------------


def test_vectors_come_in_sorted_order_and_have_length_1(source: str) -> None:
    vectors = word_vectors(["dog", "Red", "couch", "Cats"], source)
    assert vectors.labels == ["Cats", "Red", "couch", "dog"]
    assert vectors.matrix.dtype == np.float32
    expected: list[list[float]] = [[0, 0, 1], [0.8, 0, 0.6], [3 / 13, 12 / 13, 4 / 13], [0.6, 0.8, 0]]
    assert np.allclose(vectors.matrix, expected, atol=1e-6)
    assert (vectors.dropped, vectors.source, vectors.normalized) == ([], source, True)


def test_lengths_are_kept_where_asked(source: str) -> None:
    vectors = word_vectors(["dog", "Red", "couch", "Cats", "red dog"], source, normalize=False)
    assert vectors.labels == ["Cats", "Red", "couch", "dog", "red dog"]
    assert vectors.matrix.tolist() == [[0, 0, 2], [8, 0, 6], [3, 12, 4], [3, 4, 0], [5.5, 2, 3]]
    assert vectors.normalized is False


def test_a_phrase_is_the_direction_of_its_words_directions(source: str) -> None:
    # unit vectors (0.8, 0, 0.6) and (0.6, 0.8, 0): their sum (1.4, 0.8, 0.6) has the length sqrt(2.96)
    matrix = word_vectors(["red dog"], source).matrix
    assert np.allclose(matrix, np.array([[1.4, 0.8, 0.6]]) / 2.96**0.5, atol=1e-6)


def test_each_label_says_how_it_was_found(source: str) -> None:
    labels = ["dog", "DOG", "Dogs", "scissor", "red", "a red dog", "hair drier"]
    assert word_vectors(labels, source).how == {
        "dog": ("as is", ("dog",)),
        "DOG": ("lower-cased", ("dog",)),
        "Dogs": ("singular", ("dog",)),
        "scissor": ("plural", ("scissors",)),
        "red": ("lower-cased", ("Red",)),
        "a red dog": ("averaged", ("Red", "dog")),
        "hair drier": ("synonym", ("hair_dryer",)),
    }


def test_the_packaged_words_have_no_lengths_to_keep() -> None:
    with pytest.raises(UserError, match=r"^the packaged word vectors are directions without lengths: leave --no-norm"):
        word_vectors(["dog"], "packaged", normalize=False)


# --- synonyms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("hair drier", "hair dryer"),
        ("Hair-Drier", "hair_dryer"),
        ("tv", "Television"),
        ("donut", "doughnut"),
        ("sofa", "couch"),  # from here on of WordNet
        ("aeroplane", "airplane"),
        ("airplane", "aeroplane"),
        ("sneaker", "tennis_shoe"),
        ("Sneaker", "gym shoe"),
    ],
)
def test_a_synonym_stands_in(label: str, word: str, tmp_path: Path) -> None:
    torch.save(torch.tensor([[0.0, 3], [1, 4]]), tmp_path / "matrix.pth")
    report = {"labels": ["bus", word], "sha256": {"matrix.pth": sha256_of(tmp_path / "matrix.pth")}}
    (tmp_path / "matrix.json").write_text(json.dumps(report))
    vectors = word_vectors([label, "bus"], f"file:{tmp_path / 'matrix.pth'}", normalize=False)
    assert vectors.how == {label: ("synonym", (word,)), "bus": ("as is", ("bus",))}
    assert vectors.matrix[vectors.labels.index(label)].tolist() == [3, 4]


def test_a_synonym_stands_in_for_no_word_that_is_there(tmp_path: Path) -> None:
    table = {"hair_dryer": (1, 0), "hair": (0, 1), "drier": (0, 1), "couch": (1, 0), "sofas": (0, 1)}
    vectors = word_vectors(["hair drier", "sofa"], write_glove(tmp_path / "a.txt", table))
    assert vectors.how == {"hair drier": ("averaged", ("hair", "drier")), "sofa": ("plural", ("sofas",))}
    assert np.allclose(vectors.matrix, [[0, 1], [0, 1]])


# --- unknown labels ---------------------------------------------------------------------------------------


def test_all_unknown_labels_are_told_with_near_spellings(source: str) -> None:
    with pytest.raises(
        UserError,
        match=rf"^labels without a vector in {re.escape(source)} \(3\): unknown label 'catt', did you mean 'cat'\?; "
        r"unknown label 'scisors', did you mean 'scissors'\?; unknown label 'zebra'\. Correct them, use another "
        r"source, or give --missing drop \(leaves them out\) or --missing random \(a random vector for each\)$",
    ):
        word_vectors(["scisors", "dog", "zebra", "catt"], source)


def test_of_many_unknown_labels_ten_are_named_and_the_rest_counted(source: str) -> None:
    with pytest.raises(
        UserError, match=r"^labels without a vector in .* \(13\): .*; and 3 more\. Correct them"
    ) as caught:
        word_vectors(["dog", *(f"qqzx{number:02d}" for number in range(13))], source)
    assert re.findall(r"qqzx\d\d", str(caught.value)) == [f"qqzx{number:02d}" for number in range(10)]


def test_drop_leaves_unknown_labels_out(source: str) -> None:
    vectors = word_vectors(["zebra", "dog", "Aardvark", "cat", "nothing"], source, "drop")
    assert vectors.labels == ["cat", "dog"]
    assert np.allclose(vectors.matrix, [[0.0, 0, 1], [0.6, 0.8, 0]], atol=1e-6)
    assert vectors.dropped == ["Aardvark", "nothing", "zebra"]
    assert set(vectors.how) == {"cat", "dog"}


def test_random_gives_each_unknown_label_a_unit_vector_of_its_own(source: str) -> None:
    vectors = word_vectors(["zebra", "dog", "Aardvark", "nothing"], source, "random")
    assert vectors.labels == ["Aardvark", "dog", "nothing", "zebra"]
    assert vectors.dropped == []
    assert vectors.how == {
        "dog": ("as is", ("dog",)),
        **dict.fromkeys(["Aardvark", "nothing", "zebra"], ("random", ())),
    }
    assert np.allclose(vectors.matrix[1], [0.6, 0.8, 0], atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors.matrix, axis=1), 1, atol=1e-6)
    cosines = vectors.matrix @ vectors.matrix.T
    assert (cosines[~np.eye(4, dtype=bool)] < 0.999).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_random_vector_depends_on_nothing_but_its_label(source: str, normalize: bool) -> None:
    alone = word_vectors(["zebra"], source, "random", normalize).matrix[0]
    among = word_vectors(["dog", "zebra", "lynx", "ant"], source, "random", normalize)
    assert np.array_equal(among.matrix[among.labels.index("zebra")], alone)
    assert np.isclose(np.linalg.norm(alone), 1, atol=1e-6)


def test_random_vectors_point_everywhere(tmp_path: Path) -> None:
    """211 of them in 7 dimensions: as many on either side of each axis, and no pair alike."""
    spec = write_glove(tmp_path / "a.txt", {"dog": (1, 0, 0, 0, 0, 0, 0)})
    matrix = word_vectors([f"qqzx{number}" for number in range(211)], spec, "random").matrix
    assert (np.abs((matrix > 0).mean(axis=0) - 0.5) < 0.15).all()  # 4 standard deviations
    assert np.allclose((matrix**2).mean(axis=0), 1 / 7, atol=0.05)
    assert np.triu(matrix @ matrix.T, 1).max() < 0.999


def test_random_vectors_are_the_same_in_every_process() -> None:
    program = (
        "import data_prep.wordvecs as w; w._synsets = dict\n"  # spares loading timm
        "print(w.word_vectors(['qqzx', 'dog'], 'packaged', 'random').matrix[1].tolist())"
    )
    rows = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        rows.append(json.loads(result.stdout))
    assert len(rows[0]) == 256
    assert rows[0] == rows[1]
    assert np.array_equal(word_vectors(["qqzx"], "packaged", "random").matrix[0], np.array(rows[0], np.float32))


def test_an_unknown_policy_is_answered_with_the_three(source: str) -> None:
    assert MISSING_POLICIES == ("error", "drop", "random")
    with pytest.raises(UserError, match=r"^expected --missing to be one of error, drop, random; got 'zeros'$"):
        word_vectors(["dog"], source, "zeros")  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [[], ["zebra"], ["nothing", "zebra"]])
def test_no_vector_at_all_is_said(labels: list[str], source: str) -> None:
    with pytest.raises(UserError, match=rf"^no label has a vector in {re.escape(source)}$"):
        word_vectors(labels, source, "drop")


# --- vectors that are none --------------------------------------------------------------------------------


def test_a_vector_of_zeros_is_none(source: str) -> None:
    with pytest.raises(UserError, match=r"^labels without a vector in .* \(2\): .*'Nothing'; .*'nothing'\."):
        word_vectors(["dog", "nothing", "Nothing"], source)
    for normalize in (True, False):
        vectors = word_vectors(["dog", "nothing"], source, "random", normalize)
        assert vectors.matrix.any(axis=1).all()
        assert vectors.how["nothing"] == ("random", ())


@pytest.mark.parametrize("missing", MISSING_POLICIES)
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_vectors_that_are_not_finite_are_told(bad: Any, missing: Any, tmp_path: Path) -> None:
    spec = write_glove(tmp_path / "a.txt", {"dog": (1, 2), "cat": (bad, 2), "bus": (3, bad)})
    with pytest.raises(UserError, match=rf"^{re.escape(spec)} has vectors that are not finite: 'bus', 'cats'$"):
        word_vectors(["cats", "dog", "bus"], spec, missing, normalize=False)


def test_a_vector_that_is_not_finite_is_told_where_lengths_go_too(tmp_path: Path) -> None:
    spec = write_glove(tmp_path / "a.txt", {"dog": (1, 2), "cat": ("nan", 2)})  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r" has vectors that are not finite: 'cat'$"):
        word_vectors(["cat", "dog"], spec)
    assert word_vectors(["dog"], spec).labels == ["dog"]  # nobody asked for the other


# --- the report -------------------------------------------------------------------------------------------

#: 13 labels, of each kind another number: 1 + 2 + 3 + 1 + 1 + 2 + 3.
MIXED = [
    "dog", "DOG", "Cat", "Dogs", "cats", "couches", "scissor", "hair drier", "red cat", "a red dog", "zebra", "lynx",
    "nothing",
]  # fmt: skip
COUNTS = {"as is": 1, "lower-cased": 2, "singular": 3, "plural": 1, "synonym": 1, "averaged": 2}


@pytest.mark.parametrize(("missing", "kind"), [("drop", "not found, dropped"), ("random", "random")])
def test_counts_of_the_report_add_up(missing: Any, kind: str, source: str) -> None:
    vectors = word_vectors(MIXED, source, missing)
    report = vectors.report()
    assert report.found == {**COUNTS, kind: 3}
    assert sum(report.found.values()) == len(vectors.labels) + len(vectors.dropped) == 13
    assert (report.source, report.word_dim, report.normalized) == (source, 3, True)
    assert report.dropped == (["lynx", "nothing", "zebra"] if missing == "drop" else [])
    told = dict(report.labels)
    assert told.pop("red cat") == FoundLabel(how="averaged", words=["Red", "cat"])
    assert told.pop("hair drier") == FoundLabel(how="synonym", words=["hair_dryer"])
    assert "dog" not in told  # it is as it is written
    assert len(told) == 13 - 1 - 2 - len(report.dropped)
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


def test_the_summary_has_a_line_for_each_label_that_was_not_found_as_written(source: str) -> None:
    vectors = word_vectors(["dog", "cats", "red dog", "zebra", "lynx"], source, "drop")
    first, *rest = vectors.summary(Path("out.pth"))
    assert first.startswith(f"out.pth: 3 labels, 3 wide, from {source}: not found, dropped 2, ")
    assert set(first.rpartition(": ")[2].split(", ")) == {
        "not found", "dropped 2", "as is 1", "singular 1", "averaged 1",
    }  # fmt: skip
    assert rest == [
        "  cats: singular (cat)",
        "  red dog: averaged (Red + dog)",
        "  lynx: not found, dropped",
        "  zebra: not found, dropped",
    ]
    assert "  zebra: random" in word_vectors(["dog", "zebra"], source, "random").summary(Path("out.pth"))


# --- the file ---------------------------------------------------------------------------------------------


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("dog\ncouch\nCats\nred dog\n\ndog\n")
    return path


EXPECTED = np.array([[0, 0, 2], [3, 12, 4], [3, 4, 0], [5.5, 2, 3]])  # Cats, couch, dog, red dog


@pytest.mark.parametrize("normalize", [True, False])
def test_prepare_writes_a_tensor_of_a_column_a_label(
    normalize: bool, source: str, labels_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "vectors.pth"
    output.parent.mkdir()
    returned = prepare_wordvecs(labels_file, source, output, normalize=normalize)
    tensor = torch.load(output, weights_only=True)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 4)
    if normalize:
        assert np.allclose(tensor.norm(dim=0), 1, atol=1e-6)
        assert np.allclose(tensor.T[:3], EXPECTED[:3] / [[2], [13], [5]], atol=1e-6)
    else:
        assert tensor.T.tolist() == EXPECTED.tolist()
    assert returned.labels == ["Cats", "couch", "dog", "red dog"]
    assert np.array_equal(returned.matrix, tensor.T)
    report = json.loads((output.with_suffix(".json")).read_text(encoding="utf-8"))
    assert report == {
        "labels": ["Cats", "couch", "dog", "red dog"],
        "word_vectors": returned.report().to_json(),
        "sha256": {"vectors.pth": sha256_of(output)},
    }
    assert sorted(path.name for path in output.parent.iterdir()) == ["vectors.json", "vectors.pth"]


def test_what_was_written_is_a_source_for_any_of_its_labels(source: str, labels_file: Path, tmp_path: Path) -> None:
    prepare_wordvecs(labels_file, source, tmp_path / "all.pth", normalize=False)
    spec = f"file:{tmp_path / 'all.pth'}"
    some = word_vectors(["red dog", "zebra", "Cats"], spec, "drop", normalize=False)
    assert some.labels == ["Cats", "red dog"]
    assert some.matrix.tolist() == EXPECTED[[0, 3]].tolist()
    assert some.dropped == ["zebra"]
    assert some.how["red dog"] == ("as is", ("red dog",))
    with pytest.raises(
        UserError, match=r"^labels without a vector in file:.* \(1\): .*'coach', did you mean 'couch'\?"
    ):
        word_vectors(["dog", "coach"], spec)
    (tmp_path / "all.json").unlink()  # without it nothing says what the columns are
    with pytest.raises(UserError, match=r"all\.pth: expected 2 columns, .* got a tensor of shape \(3, 4\)$"):
        word_vectors(["dog", "couch"], spec)


def test_policies_reach_the_file(source: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(MIXED))
    with pytest.raises(UserError, match=r"^labels without a vector in .* \(3\)"):
        prepare_wordvecs(tmp_path / "labels.txt", source, tmp_path / "a.pth")
    assert not list(tmp_path.glob("a.*"))
    prepare_wordvecs(tmp_path / "labels.txt", source, tmp_path / "a.pth", missing="drop")
    assert torch.load(tmp_path / "a.pth", weights_only=True).shape == (3, 10)
    prepare_wordvecs(tmp_path / "labels.txt", source, tmp_path / "b.pth", missing="random")
    assert torch.load(tmp_path / "b.pth", weights_only=True).shape == (3, 13)


def test_a_file_that_exists_is_left_alone_unless_asked(source: str, labels_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.pth"
    output.write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"^{output} already exists: give another name, or --overwrite$"):
        prepare_wordvecs(labels_file, source, output)
    assert output.read_bytes() == b"mine"
    assert not output.with_suffix(".json").exists()
    prepare_wordvecs(labels_file, source, output, overwrite=True, normalize=False)
    assert torch.load(output, weights_only=True).T.tolist() == EXPECTED.tolist()


def test_written_anew_it_is_believed_anew(source: str, labels_file: Path, tmp_path: Path) -> None:
    prepare_wordvecs(labels_file, source, tmp_path / "a.pth")
    labels_file.write_text("scissors\nRed")
    prepare_wordvecs(labels_file, source, tmp_path / "a.pth", overwrite=True)
    opened = open_word_source(f"file:{tmp_path / 'a.pth'}")
    assert opened.resolve("scissors") is not None
    assert opened.resolve("couch") is None


@pytest.mark.parametrize("name", ["vectors.pt", "vectors", "vectors.pth.gz", "vectors.npy"])
def test_the_file_must_be_named_pth(name: str, source: str, labels_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^expected --output to name a \.pth file, got {tmp_path / name}$"):
        prepare_wordvecs(labels_file, source, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"^the labels file .*labels\.txt has no labels$"),
        (" \n\n", r"^the labels file .*labels\.txt has no labels$"),
        ("tench, Tinca tinca\n", r"^.*labels\.txt: the label 'tench, Tinca tinca' contains a comma and a space"),
        ("dog\n[cat]\n", r"^.*labels\.txt: the label '\[cat\]' contains a comma and a space, or a bracket"),
        ("dog\ncat]\n", r"^.*labels\.txt: the label 'cat\]' contains a comma and a space, or a bracket"),
    ],
)
def test_a_labels_file_that_will_not_do_is_said(content: str, message: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare_wordvecs(tmp_path / "labels.txt", source, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_a_line_is_one_label(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("C# 1 2\n#1 3 4\na,b 5 6\n")
    (tmp_path / "labels.txt").write_text("C#\n#1\na,b\n")
    vectors = prepare_wordvecs(tmp_path / "labels.txt", f"gensim:{tmp_path / 'vectors.txt'}", tmp_path / "a.pth")
    assert vectors.labels == ["#1", "C#", "a,b"]


def test_a_labels_file_that_is_not_there_is_said(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot read the labels file .*gone\.txt: No such file or directory$"):
        prepare_wordvecs(tmp_path / "gone.txt", source, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("output", "reason"), [("gone/a.pth", "No such file or directory"), ("labels.txt/a.pth", "Not a directory")]
)
def test_a_place_that_cannot_be_written_is_said(
    output: str, reason: str, source: str, labels_file: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / output}: {reason}\. ") as caught:
        prepare_wordvecs(labels_file, source, tmp_path / output)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_what_was_there(
    source: str, labels_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_wordvecs(labels_file, source, tmp_path / "a.pth", normalize=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / 'a.pth'}: No space left on device\. "):
        prepare_wordvecs(labels_file, source, tmp_path / "a.pth", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- as large as the real one -----------------------------------------------------------------------------


def test_a_matrix_of_the_size_of_nus_wide(tmp_path: Path) -> None:
    """300 x 1006: a matrix from elsewhere, its columns in sorted order, through to one of ours and back."""
    random = np.random.default_rng(925)
    syllables = [consonant + vowel for consonant in "bdfgklmnprtvz" for vowel in "aeiou"]
    made = {" ".join("".join(random.choice(syllables, 2)) for _ in range(1 + number % 2)) for number in range(1300)}
    labels = sorted(made)[:1006]
    assert len(labels) == 1006
    tensor = torch.from_numpy(random.standard_normal((300, 1006)).astype(np.float32))
    torch.save(tensor, tmp_path / "wordvec_array.pth")
    (tmp_path / "labels.txt").write_text("\n".join(random.permutation(labels)))
    spec = f"file:{tmp_path / 'wordvec_array.pth'}"

    written = prepare_wordvecs(tmp_path / "labels.txt", spec, tmp_path / "same.pth", normalize=False)
    assert written.labels == labels
    assert written.report().found == {"as is": 1006}
    assert torch.equal(torch.load(tmp_path / "same.pth", weights_only=True), tensor)

    seen = random.permutation(labels)[:919].tolist()  # some of them, from the file of ours
    vectors = word_vectors(seen, f"file:{tmp_path / 'same.pth'}")
    rows = tensor.T[[labels.index(label) for label in sorted(seen)]]
    assert vectors.labels == sorted(seen)
    assert np.allclose(vectors.matrix, rows / rows.norm(dim=1, keepdim=True), atol=1e-6)


def test_the_report_does_not_overwrite_another_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("dog\n")
    (tmp_path / "dataset.json").write_text("mine")
    with pytest.raises(UserError, match=r"dataset\.json already exists: give another name, or --overwrite"):
        prepare_wordvecs(tmp_path / "labels.txt", "packaged", tmp_path / "dataset.pth")
    assert (tmp_path / "dataset.json").read_text() == "mine"
    (tmp_path / "labels.json").write_text("dog\n")
    with pytest.raises(UserError, match=r"the report .*labels\.json would overwrite the labels file"):
        prepare_wordvecs(tmp_path / "labels.json", "packaged", tmp_path / "labels.pth", overwrite=True)
    assert (tmp_path / "labels.json").read_text() == "dog\n"


@pytest.mark.parametrize(
    ("label", "word"),
    [("couch", "sofa"), ("sofa", "couch"), ("cell phone", "mobile_phone"), ("television", "tv"), ("car", "automobile")],
)
def test_synonyms_work_both_ways(label: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{word} 3 4\nzzz 1 1\n")
    assert word_vectors([label], f"gensim:{tmp_path / 'a.txt'}").how[label] == ("synonym", (word,))

"""The lookup policy step by step, and the vectors it leads to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import read_labels_file, split_labels
from zsl_tagger.words.spelling import normalize_label, plural_forms, singular_forms
from zsl_tagger.words.table import UnknownLabelError, WordTable

WORDS = (
    "dog", "dining table", "t shirt", "weekend", "week", "end", "traffic light", "red", "bicycle", "leaf", "church",
    "glass", "glasses", "puppy", "cookie", "shoe", "tomato", "bus", "sun flower", "sunflowers", "men's shoe", "塔",
)  # fmt: skip
DIM = 5
ROWS = np.random.default_rng(0).integers(1, 128, (len(WORDS), DIM)).astype(np.int8)
TABLE = WordTable(WORDS, ROWS)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("dog", "dog"),
        (" Café-Bar ", "cafe bar"),
        ("T_SHIRT", "t shirt"),
        ("dining\t \nTable", "dining table"),
        ("salt/pepper", "salt pepper"),
        ("Men\u2019s", "men's"),
        ("Straße", "strasse"),
        ("\uff44\uff4f\uff47", "dog"),
        ("--_/ ", ""),
    ],
)
def test_normalize_label(label: str, expected: str) -> None:
    assert normalize_label(label) == expected


@given(st.text())
@example("Lego™")  # a letter that is upper-case only after its compatibility form is taken apart
def test_normalize_label_is_idempotent(label: str) -> None:
    once = normalize_label(label)
    assert normalize_label(once) == once


@pytest.mark.parametrize(
    ("label", "words", "how"),
    [
        ("dog", ["dog"], "as is"),
        ("Dining-Table", ["dining table"], "lower-cased"),
        ("T-Shirt", ["t shirt"], "lower-cased"),
        ("Men\u2019s shoe", ["men's shoe"], "lower-cased"),
        ("塔", ["塔"], "as is"),
        ("glasses", ["glasses"], "as is"),  # not: the singular "glass"
        ("DOGS", ["dog"], "singular"),
        ("traffic lights", ["traffic light"], "singular"),
        ("leaves", ["leaf"], "singular"),
        ("churches", ["church"], "singular"),
        ("puppies", ["puppy"], "singular"),
        ("cookies", ["cookie"], "singular"),
        ("shoes", ["shoe"], "singular"),
        ("tomatoes", ["tomato"], "singular"),
        ("buses", ["bus"], "singular"),
        ("sun flowers", ["sun flower"], "singular"),  # not: joined "sunflowers"
        ("week-end", ["weekend"], "joined"),  # not: averaged "week" and "end"
        ("red bicycle", ["red", "bicycle"], "averaged"),
        ("red bicycles", ["red", "bicycle"], "averaged"),
        ("a dog on the Bus", ["dog", "bus"], "averaged"),
    ],
)
def test_lookup_policy(label: str, words: list[str], how: str) -> None:
    found = TABLE.resolve(label)
    assert found is not None
    assert (found.label, list(found.words), found.how) == (label, words, how)
    assert label in TABLE


@pytest.mark.parametrize("word", ["glass", "cactus", "tennis", "gas", "dog"])
def test_these_do_not_look_like_plurals(word: str) -> None:
    assert singular_forms(word) == []


@pytest.mark.parametrize("label", ["zebra", "", " -", "the", "of the", "a zebra", "red zebra", "glas", "bu"])
def test_unknown_to_every_step(label: str) -> None:
    assert TABLE.resolve(label) is None
    assert label not in TABLE


PHRASES = st.lists(st.sampled_from([*WORDS, "dogs", "the", "zebra", "-", "É"]), max_size=5).map(" ".join)


@given(PHRASES | st.text(st.characters()))
def test_any_text_is_resolved_to_words_of_the_table_or_to_none(label: str) -> None:
    found = TABLE.resolve(label)
    if found is not None:
        assert np.isclose(np.linalg.norm(TABLE.vectors([label])), 1, atol=1e-6)


# --- plurals of the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "plurals"),
    [
        ("dog", ["dogs"]),  # not: "doges", whose singular is "doge"
        ("scissor", ["scissors"]),
        ("box", ["boxs", "boxes"]),
        ("puppy", ["puppys", "puppies"]),
        ("leaf", ["leaves", "leafs"]),
        ("die", ["dice", "dies"]),
        ("traffic light", ["traffic lights"]),
        ("glas", ["glases"]),  # not: "glass"
        ("bu", []),  # not: "bus"
        ("ga", []),  # not: "gas", too short to be a plural
        ("", []),
    ],
)
def test_plural_forms(word: str, plurals: list[str]) -> None:
    assert plural_forms(word) == plurals


@given(st.text("abcdefhilnoprstuvxyz ", max_size=9))
@example("knife")
@example("tomato")
def test_a_plural_form_reads_back_as_its_word(word: str) -> None:
    for form in plural_forms(word):
        assert form != word
        assert word in singular_forms(form)


PLURALS = WordTable(
    ["scissors", "leaves", "glass", "traffic signs", "sun flowers", "sunflower", "mens", "man", "tie", "tights"],
    np.eye(10, dtype=np.float32),
)


@pytest.mark.parametrize(
    ("label", "words", "how"),
    [
        ("scissor", ["scissors"], "plural"),
        ("Scissor", ["scissors"], "plural"),
        ("leaf", ["leaves"], "plural"),
        ("Traffic-Sign", ["traffic signs"], "plural"),
        ("the leaf", ["leaves"], "plural"),
        ("sun flower", ["sun flowers"], "plural"),  # not: joined "sunflower"
        ("men", ["man"], "singular"),  # not: the plural "mens"
        ("tight leaf", ["tights", "leaves"], "averaged"),
    ],
)
def test_the_plural_is_found_after_the_singular_and_before_joined(label: str, words: list[str], how: str) -> None:
    found = PLURALS.resolve(label)
    assert found is not None
    assert (found.label, list(found.words), found.how) == (label, words, how)


@pytest.mark.parametrize("label", ["glas", "tigh", "traffics sign", "flower"])
def test_a_plural_is_no_way_to_another_word(label: str) -> None:
    assert PLURALS.resolve(label) is None


# --- tables that spell words in their own way ---------------------------------------------------------------

OWN_WORDS = ["Apple", "apple", "New_York", "dogs", "Dog", "T-Shirt", "Été"]
OWN_ROWS = np.random.default_rng(5).standard_normal((len(OWN_WORDS), 3)).astype(np.float32)
OWN = WordTable(OWN_WORDS, OWN_ROWS)


@pytest.mark.parametrize(
    ("label", "word", "how"),
    [
        ("Apple", "Apple", "as is"),
        ("apple", "apple", "as is"),
        ("New_York", "New_York", "as is"),
        ("Été", "Été", "as is"),
        ("dogs", "dogs", "as is"),
        ("APPLE", "Apple", "lower-cased"),  # neither is it: the first of the two
        ("new york", "New_York", "lower-cased"),
        ("New-York", "New_York", "lower-cased"),
        ("t shirt", "T-Shirt", "lower-cased"),
        ("ete", "Été", "lower-cased"),
        ("dog", "Dog", "lower-cased"),  # not: the plural "dogs"
        ("DOGS", "dogs", "lower-cased"),  # not: the singular "Dog"
        ("apples", "Apple", "singular"),
        ("T-Shirts", "T-Shirt", "singular"),
    ],
)
def test_a_table_with_capitals_and_underscores(label: str, word: str, how: str) -> None:
    found = OWN.resolve(label)
    assert found is not None
    assert (found.words, found.how) == ((word,), how)
    assert np.array_equal(OWN.vectors_of([found], unit=False), OWN_ROWS[[OWN_WORDS.index(word)]])


def test_a_plural_of_a_table_with_capitals() -> None:
    found = WordTable(["Apple", "apple", "New_York", "dogs"], np.eye(4)).resolve("Dog")
    assert found is not None
    assert (found.words, found.how) == (("dogs",), "plural")


def test_words_that_differ_in_case_have_their_own_vectors_and_keys() -> None:
    assert np.array_equal(OWN.vectors_of(OWN.resolve_all(["apple", "Apple"]), unit=False), OWN_ROWS[[1, 0]])
    assert [found.key for found in OWN.resolve_all(["apple", "Apple", "APPLE"])] == ["apple", "Apple", "Apple"]


@pytest.mark.parametrize("words", [["apple", "Apple"], ["Apple", "apple"], ["APPLES", "ápple", "apple"]])
def test_the_first_of_several_spellings_is_taken(words: list[str]) -> None:
    found = WordTable(words, np.eye(len(words))).resolve("APple")
    assert found is not None
    assert found.words == (next(word for word in words if len(word) == 5),)


@given(PHRASES | st.sampled_from(["T-Shirt", "Week-End", "sun flowers", "Men\u2019s shoe"]))
def test_a_table_known_to_be_normalised_resolves_the_same(label: str) -> None:
    assert WordTable(WORDS, ROWS, normalized=True).resolve(label) == TABLE.resolve(label)


# --- vectors ----------------------------------------------------------------------------------------------


def test_vectors_are_the_unit_vectors_of_the_rows() -> None:
    vectors = TABLE.vectors(["bicycle", "dogs"])
    rows = ROWS[[WORDS.index("bicycle"), WORDS.index("dog")]].astype(float)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_int8_rows_equal_the_same_rows_scaled(dtype: type) -> None:
    scale = np.linspace(0.01, 3, len(WORDS))[:, None]  # another scale for each row
    scaled = WordTable(WORDS, (ROWS * scale).astype(dtype))
    labels = [*WORDS, "red bicycle"]
    assert np.allclose(scaled.vectors(labels), TABLE.vectors(labels), atol=2e-3 if dtype is np.float16 else 1e-6)


def test_averaged_phrase_equals_the_hand_computation() -> None:
    table = WordTable(["red", "bicycle"], np.array([[3, 4], [100, 0]], np.int8))
    # unit vectors (0.6, 0.8) and (1, 0); their mean (0.8, 0.4) has the length sqrt(0.8)
    assert np.allclose(table.vectors(["red bicycle"]), np.array([[0.8, 0.4]]) / 0.8**0.5, atol=1e-6)


def test_without_unit_vectors_are_as_long_as_the_table_has_them() -> None:
    table = WordTable(["red", "bicycle"], np.array([[3, 4], [100, 0]], np.int8))
    resolved = table.resolve_all(["bicycles", "red", "red bicycle"])
    raw = table.vectors_of(resolved, unit=False)
    assert raw.dtype == np.float32
    assert raw.tolist() == [[100, 0], [3, 4], [51.5, 2]]  # the mean of (3, 4) and (100, 0), not of their directions
    assert np.array_equal(table.vectors_of(resolved), table.vectors(["bicycles", "red", "red bicycle"]))
    assert table.vectors_of([], unit=False).shape == (0, 2)
    kept = WordTable(table.words, table.raw_vectors, unit=False)  # a table may say that for itself
    assert np.array_equal(kept.vectors(["bicycles", "red", "red bicycle"]), raw)
    assert np.array_equal(kept.vectors_of(resolved), raw)
    assert np.array_equal(kept.vectors_of(resolved, unit=True), table.vectors_of(resolved))


def test_a_vector_does_not_depend_on_which_others_are_asked() -> None:
    labels = ["red bicycle", "dogs", "week-end", "dog"]
    together = TABLE.vectors(iter(labels))
    assert np.array_equal(together, np.concatenate([TABLE.vectors([label]) for label in labels]))


def test_a_label_given_twice_has_two_rows() -> None:
    assert np.array_equal(TABLE.vectors(["dog", "bus", "dog"]), TABLE.vectors(["dog", "bus"])[[0, 1, 0]])


def test_no_labels_no_rows() -> None:
    assert TABLE.vectors([]).shape == (0, DIM)
    assert TABLE.word_dim == DIM


# --- unknown labels ---------------------------------------------------------------------------------------


def test_every_unknown_label_is_named_with_the_nearest_spellings() -> None:
    with pytest.raises(
        UnknownLabelError, match=r"'Bicycel', did you mean 'bicycle'\?; unknown label 'zebra'$"
    ) as caught:
        TABLE.vectors(["Bicycel", "dog", "zebra"])
    assert caught.value.suggestions == {"Bicycel": ["bicycle"], "zebra": []}
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("label", "nearest"),
    [("dogg", "dog"), ("CHRUCH", "church"), ("tomáto", "tomato"), ("dining-tabel", "dining table")],
)
def test_the_nearest_spelling_is_suggested_first(label: str, nearest: str) -> None:
    assert TABLE.suggest(label)[0] == nearest


@pytest.fixture(scope="module")
def packaged() -> WordTable:
    return WordTable.load(PACKAGED)


@pytest.mark.parametrize(
    ("label", "nearest"), [("dgo", "dog"), ("bycicle", "bicycle"), ("elefant", "elephant"), ("Zebrra", "zebra")]
)
def test_of_100000_words_the_one_that_was_meant_is_suggested_first(
    packaged: WordTable, label: str, nearest: str
) -> None:
    assert packaged.suggest(label)[0] == nearest


def test_common_words_and_those_with_the_same_first_letter_count_as_nearer() -> None:
    many = [f"word {number}" for number in range(1009)]
    assert WordTable(["marbxe", *many, "marblx"], np.eye(1011)).suggest("marble") == ["marbxe", "marblx"]
    assert WordTable(["marxxe", *many, "marblx"], np.eye(1011)).suggest("marble") == ["marxxe", "marblx"]
    assert WordTable(["marxxe", "marblx"], np.eye(2)).suggest("marble") == ["marblx", "marxxe"]
    assert WordTable(["garble", "marblx"], np.eye(2)).suggest("marble") == ["marblx", "garble"]


def test_short_words_may_have_one_mistake_and_others_two() -> None:
    table = WordTable(["lamb", "lambda"], np.eye(2))
    assert table.suggest("lxmx") == []
    assert table.suggest("lxmbdx") == ["lambda"]
    assert table.suggest("alxbdx") == []


def test_suggestions_are_no_more_than_asked() -> None:
    assert TABLE.suggest("glasse", count=2) == ["glass", "glasses"]
    assert TABLE.suggest("glasse", count=1) == ["glass"]


# --- table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [np.ones((3, DIM)), np.ones((2, DIM, 1)), np.ones(2)])
def test_words_and_vectors_must_fit(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected one vector per word, got 2 words and vectors \("):
        WordTable(["dog", "cat"], rows)


def test_save_and_load_keep_words_and_values(tmp_path: Path) -> None:
    TABLE.save(tmp_path)
    loaded = WordTable.load(tmp_path)
    assert list(loaded.words) == list(WORDS)
    assert np.array_equal(np.load(tmp_path / "word_vectors.npy"), ROWS)
    labels = [*WORDS, "red bicycles"]
    assert np.array_equal(loaded.vectors(labels), TABLE.vectors(labels))


def test_a_loaded_table_can_be_saved_where_it_lies(tmp_path: Path) -> None:
    table = WordTable(["dog", "cat"], np.arange(2 * 8192).reshape(2, 8192).astype(np.float32))
    table.save(tmp_path)
    try:
        WordTable.load(tmp_path).save(tmp_path)
    except OSError:  # no traceback: showing the torn memory map would end the whole run
        pytest.fail("the file was truncated while its rows were still to be read from it", pytrace=False)
    assert np.array_equal(WordTable.load(tmp_path).vectors(["dog", "cat"]), table.vectors(["dog", "cat"]))


# --- labels files -----------------------------------------------------------------------------------------


def test_a_labels_file_is_read_as_a_person_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    lines = "# what to look for\r\ndog, traffic light,,beach ,\r\n\r\n  café\t# not a bar, a drink\n塔\n#cat\ndog"
    path.write_bytes(f"\ufeff{lines}".encode())
    assert read_labels_file(path) == ["dog", "traffic light", "beach", "café", "塔", "dog"]


def test_a_labels_file_of_comments_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("# dog\n , ,\n\n")
    assert read_labels_file(tmp_path / "labels.txt") == []


def test_split_labels() -> None:
    assert split_labels(" dog,red car , ,T-Shirt,") == ["dog", "red car", "T-Shirt"]


def test_a_labels_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the labels file .*gone\.txt: No such file or directory$"):
        read_labels_file(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"cannot read the labels file .*: Is a directory$"):
        read_labels_file(tmp_path)
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"the labels file .*latin\.txt is not UTF-8 text: save it as UTF-8$"):
        read_labels_file(tmp_path / "latin.txt")


def test_suggestions_look_past_capitals_and_underscores() -> None:
    assert WordTable(["New_York", "dogs"], np.eye(2)).suggest("New Yrok") == ["New_York"]

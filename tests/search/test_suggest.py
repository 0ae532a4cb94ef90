"""zsl-tagger suggest: photos without a tag, near-duplicates, words that are not tagged yet."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import run_command
from paths import ROOT
from PIL import Image

from zsl_tagger import Library, Tagger, UserError
from zsl_tagger.search import near_duplicates as near_duplicates_module
from zsl_tagger.search import suggest as suggest_module
from zsl_tagger.search.near_duplicates import SIMILAR, near_duplicates
from zsl_tagger.search.packing import pack_logits, unpack_logits
from zsl_tagger.search.run import SuggestRun, run_suggest
from zsl_tagger.search.store import INDEX_FILE, IndexMeta, Store
from zsl_tagger.tagging.taught import FOLDER_VARIABLE


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Return three crops of each example photo, one of them also saved again, and another also as a copied file."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(examples.glob("*.jpg")):
        with Image.open(path) as image:
            side = min(image.size) // 2
            for number in range(3):
                left, top = number * (image.width - side) // 2, number % 2 * (image.height - side)
                image.crop((left, top, left + side, top + side)).save(folder / f"{path.stem} {number}.png")
    with Image.open(folder / "cat 0.png") as image:
        image.save(folder / "saved again.png", compress_level=1)
    shutil.copy(folder / "coffee 1.png", folder / "copy.png")
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("index")
    with Library.open(folder) as library:
        assert library.add(photos).added == 14
    return folder


@pytest.fixture
def library(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    with Library.open(index) as library:
        yield library


# --- photos without any tag


@pytest.mark.slow
def test_photos_without_a_tag_are_those_without_output_of_tag(library: Library, photos: Path) -> None:
    """Thresholds are high, or every photo would have a tag."""
    tagger = library.tagger
    best = {str(path): tagger.scores(tagger.encode(path), tagger.vocabulary)[0].max() for path in photos.iterdir()}
    bound = float(np.median(list(best.values())))
    tagger.vocabulary.thresholds[:] = bound
    found = library.suggest(top=99)
    sure = {path for path, score in best.items() if score < bound - 0.01}
    unsure = {path for path, score in best.items() if abs(score - bound) <= 0.01}
    listed = {one.path for one in found.untagged}
    assert sure
    assert sure <= listed <= sure | unsure
    assert found.photos == 14
    assert found.untagged_photos == len(found.untagged)
    for one in found.untagged:
        assert one.score == pytest.approx(best[one.path], abs=0.01)
    assert len(library.suggest(top=2).untagged) == 2


@pytest.mark.slow
@pytest.mark.parametrize("like", [None, "automobile"])
def test_a_taught_tag_is_a_tag(library: Library, photos: Path, like: str | None) -> None:
    """The second tag uses a word that is not stored in the index."""
    tagger = library.tagger
    assert "automobile" not in tagger.default_labels
    tag = tagger.teach("our cup", [str(photos / f"coffee {number}.png") for number in range(3)], like=like)
    assert tag.reader.word == like
    tagger.vocabulary.thresholds[:-1] = 1.0
    with_it = {one.path for one in library.search("our cup", 99) if one.passes}
    assert with_it
    assert {one.path for one in library.suggest(top=99).untagged} == {str(path) for path in photos.iterdir()} - with_it


# --- near-duplicates


def made_rows(count: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return packed rows, of which the first ``2 * groups`` are pairs that are nearly the same."""
    random = np.random.default_rng(3)
    rows = random.random((count, 64), dtype=np.float32) ** 3
    rows[1 : 2 * groups : 2] = rows[0 : 2 * groups : 2] + 0.03 * random.random((groups, 64), dtype=np.float32)
    return unpack_logits([pack_logits(row) for row in rows], 64)


def test_near_duplicates_are_those_found_by_comparing_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    compare = near_duplicates_module._similar

    def counted(rows: near_duplicates_module._Rows, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal compared
        compared += len(photos) ** 2
        return compare(rows, photos)

    monkeypatch.setattr(near_duplicates_module, "_similar", counted)
    levels, step, low = packed = made_rows(4000, 50)
    rows = levels * step[:, None] + low[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = np.argwhere(np.triu(rows @ rows.T >= SIMILAR, 1))
    found = near_duplicates(packed)
    assert {tuple(group.tolist()) for group, _ in found} == {tuple(pair) for pair in pairs.tolist()}
    assert len(found) == 50
    for (one, other), cosine in found:
        assert cosine == pytest.approx(rows[one] @ rows[other], abs=1e-5)
    assert compared < 4000**2 / 2


@pytest.mark.parametrize("count", [0, 1, 65])
def test_few_photos_have_no_near_duplicates(count: int) -> None:
    assert near_duplicates(made_rows(count, 0) if count else (np.zeros((0, 64), np.uint8), *np.zeros((2, 0)))) == []


def groups_of(pairs: dict[tuple[int, int], float]) -> dict[tuple[int, ...], float]:
    """Join pairs one after another, best first: the slow, obvious way."""
    group_of: dict[int, frozenset[int]] = {}
    lowest: dict[frozenset[int], float] = {}
    for (one, other), cosine in sorted(pairs.items(), key=lambda item: -item[1]):
        a, b = (group_of.get(number, frozenset([number])) for number in (one, other))
        if a != b:
            group_of |= dict.fromkeys(a | b, a | b)
            lowest[a | b] = cosine
    return {tuple(sorted(group)): lowest[group] for group in set(group_of.values())}


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 22), st.integers(0, 22), st.sampled_from([0.98, 0.985, 0.99, 1.0])), max_size=60),
    st.sampled_from([1, 3, 1000]),
)
def test_pairs_are_joined_as_by_joining_one_after_another(found: list[tuple[int, int, float]], at_once: int) -> None:
    """Pairs come in either order, repeated and in portions; the last cosine of a pair counts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near_duplicates_module, "_PAIRS_AT_ONCE", at_once)
        patched.setattr(near_duplicates_module, "_PAIRS_PER_SEARCH", at_once)
        found = [(one, other, float(np.float32(cosine))) for one, other, cosine in found if one != other]
        pairs = near_duplicates_module._Pairs(23)
        for one, other, cosine in found:
            pairs.add(np.array([one]), np.array([other]), np.array([cosine], np.float32))
        joined = near_duplicates_module._joined(*pairs.best_first())
    expected = {(min(one, other), max(one, other)): cosine for one, other, cosine in found}
    assert {tuple(members.tolist()): lowest for members, lowest in joined} == groups_of(expected)


def test_many_copies_are_one_group() -> None:
    """There are more copies than are compared at a time."""
    levels, step, low = made_rows(300, 0)
    levels = levels.copy()
    levels[50:], step[50:], low[50:] = levels[50], step[50], low[50]
    ((group, cosine),) = near_duplicates((levels, step, low))
    assert group.tolist() == list(range(50, 300))
    assert cosine == pytest.approx(1)


@pytest.mark.slow
def test_photos_saved_again_and_copies_are_near_duplicates(library: Library) -> None:
    found = library.suggest(top=99)
    groups = [{Path(path).name for path in group.paths} for group in found.duplicates]
    again = next(group for group, names in zip(found.duplicates, groups, strict=True) if "saved again.png" in names)
    copies = next(group for group, names in zip(found.duplicates, groups, strict=True) if "copy.png" in names)
    assert {Path(path).name for path in again.paths} >= {"cat 0.png", "saved again.png"}
    assert {Path(path).name for path in copies.paths} >= {"coffee 1.png", "copy.png"}
    assert not again.same_file  # its pixels are the same, the file is not
    assert copies.same_file == (len(copies.paths) == 2)
    assert found.duplicate_groups == len(groups)
    assert all(group.similarity >= SIMILAR for group in found.duplicates)
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)


# --- words


@pytest.mark.slow
def test_words_are_listed_with_the_photos_that_pass(
    library: Library, tagger: Tagger, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a library this small, any word has the same photos as some tag."""
    monkeypatch.setattr(suggest_module, "SAME_PHOTOS", 1.1)
    found = library.suggest(top=5, least=2).words
    assert 0 < len(found) <= 5
    defaults = {tagger.key(label) for label in tagger.default_labels}
    encoded = {str(path): tagger.encode(path) for path in photos.iterdir()}
    for one in found:
        assert tagger.key(one.word) not in defaults
        labels = tagger.label_set([one.word])
        scores = {path: float(tagger.scores(said, labels)[0, 0]) for path, said in encoded.items()}
        assert 2 <= one.photos <= sum(score >= labels.thresholds[0] - 0.01 for score in scores.values())
        assert scores[one.example] == pytest.approx(max(scores.values()), abs=0.01)
    assert [one.photos for one in found] == sorted((one.photos for one in found), reverse=True)
    assert library.suggest(top=1, least=2).words == found[:1]
    assert library.suggest(least=15).words == []  # there are 14 photos


@pytest.mark.slow
def test_a_word_that_was_taught_is_not_suggested(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggest_module, "SAME_PHOTOS", 1.1)
    word = library.suggest(least=2).words[0].word
    library.tagger.teach(word, [str(photos / f"coffee {number}.png") for number in range(3)])
    assert word not in {one.word for one in library.suggest(top=99, least=1).words}


@pytest.mark.slow
def test_a_word_with_the_meaning_of_a_tag_is_not_suggested(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {one.word for one in library.suggest(top=99, least=1).words}
    monkeypatch.setattr(suggest_module, "SAME_PHOTOS", 1.1)
    assert few < {one.word for one in library.suggest(top=99, least=1).words}


# --- the command


@pytest.mark.slow
def test_the_table_fits_80_columns_and_json_follows_its_schema(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest_module, "SAME_PHOTOS", 1.1)
    status, out, errors = run_command("suggest", "--index", index, "--least", 2)
    assert (status, errors) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith(" of 14 photos have no tag; the nearest tag of each:")
    assert "  2 photos, the same file" in lines
    assert any(line.startswith("to tag with them: zsl-tagger tag PHOTOS --labels ") for line in lines)
    status, out, errors = run_command("suggest", "--index", index, "--least", 2, "--format", "json")
    assert (status, errors) == (0, "")
    with Library.open(index) as library:
        assert json.loads(out) == library.suggest(least=2).to_json()
    jsonschema.validate(json.loads(out), json.loads((ROOT / "docs/schemas/suggestions.json").read_text()))


# --- what cannot be done


def test_no_index_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index at .*none: make one with zsl-tagger index PHOTOS --index .*none"):
        run_suggest(SuggestRun(index=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_an_index_without_photos_is_one_line(tmp_path: Path) -> None:
    with Library.open(tmp_path / "new") as library:
        meta: IndexMeta = library._meta
    (tmp_path / "index").mkdir()
    Store(tmp_path / "index", meta).close()
    with pytest.raises(UserError, match=r"the index .*index has no photos: add some first"):
        run_suggest(SuggestRun(index=tmp_path / "index"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["DROP TABLE pooled; PRAGMA user_version = 2", "DELETE FROM pooled WHERE content = 3"]
)
def test_an_index_without_pooled_tokens_has_to_be_completed(index: Path, tmp_path: Path, change: str) -> None:
    (tmp_path / INDEX_FILE).write_bytes((index / INDEX_FILE).read_bytes())
    with sqlite3.connect(tmp_path / INDEX_FILE) as database:
        database.executescript(change)
    database.close()
    with pytest.raises(UserError, match=r"lacks the features for near-duplicates.* run zsl-tagger index on it again"):
        run_suggest(SuggestRun(index=tmp_path))
    with Library.open(tmp_path) as library:
        library.add()
        assert library.suggest().photos == 14


@pytest.mark.parametrize(
    ("limits", "message"), [({"top": 0}, "top of at least 1"), ({"least": 0}, "least of at least 1")]
)
def test_the_library_checks_limits(tmp_path: Path, limits: dict[str, int], message: str) -> None:
    with Library.open(tmp_path / "none") as library, pytest.raises(UserError, match=f"expected {message}, got 0"):
        library.suggest(**limits)

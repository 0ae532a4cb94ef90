"""zsl-tagger teach, with and without an index, and taught tags in search."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import pretend_another_model, run_command, write_crops

from zsl_tagger import Library, Tagger, UserError
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.search import library as library_module
from zsl_tagger.search.store import INDEX_FILE, Store, default_folder
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.taught import FOLDER_VARIABLE, TaughtFolder
from zsl_tagger.teach.from_library import _spread
from zsl_tagger.teach.run import TeachRun, run_teach

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Return a folder with ten crops of each example photo, at its original size."""
    return write_crops(tmp_path_factory.mktemp("crops"), examples)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, crops: Path) -> Path:
    folder = tmp_path_factory.mktemp("index")
    with Library.open(folder) as library:
        library.add(crops)
    return folder


@pytest.fixture(autouse=True)
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaughtFolder:
    """Use an empty folder of taught tags, and no default index."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return TaughtFolder(tmp_path / "taught")


def cups(crops: Path, count: int = 4) -> list[str]:
    return [str(crops / f"coffee {number:02d}.png") for number in range(count)]


def test_a_tag_is_taught_listed_exported_removed_and_imported(crops: Path, tmp_path: Path) -> None:
    status, told, errors = run_command("teach", "our cup", *cups(crops))
    assert (status, errors) == (0, "")
    assert re.fullmatch(
        "our cup: taught with 4 photos\n"
        "found [34] of 4 of your own examples when left out one at a time\n"
        "it can be used like any other word: zsl-tagger tag PHOTOS --labels 'our cup'\n",
        told,
    )
    status, told, _ = run_command("tag", crops / "coffee 07.png", "--labels", "our cup,dog", "--threshold", 0)
    assert status == 0
    assert re.search(r"our cup +0\.\d\d", told)
    assert re.search(r"our cup +4 +0 +[34] of 4", run_command("teach", "--list")[1])
    file = tmp_path / "tags.safetensors"
    assert run_command("teach", "--export", file) == (0, f"{file}: our cup\n", "")
    assert run_command("teach", "--remove", "Our Cup") == (0, "removed: our cup, taught with 4 photos\n", "")
    assert run_command("teach", "--list")[1].startswith("no tag was taught yet")
    assert run_command("teach", "--import", file) == (0, "imported: our cup\n", "")
    assert re.search(r"our cup +4 +0 +[34] of 4", run_command("teach", "--list")[1])


def test_an_index_shows_how_many_photos_would_get_the_tag(crops: Path, index: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    status, told, errors = run_command("teach", "our cup", *cups(crops), "--index", index, "--output", sheet)
    assert (status, errors) == (0, "")
    found = re.search(rf"^(\d+) of 40 photos of your library would get it: look at them in {sheet}$", told, re.M)
    assert found is not None
    assert 4 <= int(found[1]) <= 20
    page = sheet.read_text()
    assert page.count("coffee") >= 5
    assert f"{found[1]} of 40 photos reach the threshold" in page
    status, told, _ = run_command("search", "our cup -sky", "--index", index, "--top", 3)
    assert status == 0
    assert told.count("coffee") >= 3


def test_scores_in_the_index_are_those_of_tag(crops: Path, index: Path) -> None:
    """This includes tags with a word that is not stored."""
    run_teach(TeachRun(name="xyzzy", photos=cups(crops), like="porcelain saucer"))
    run_teach(TeachRun(name="cup", photos=cups(crops)))
    run_teach(TeachRun(name="abcde", photos=cups(crops)))
    tagger = Tagger()
    with Library.open(index) as library:
        for label in ("xyzzy", "cup", "abcde"):
            found = library.search(label, top=1000)
            assert len(found) == 40
            labels = tagger.label_set([label])
            for path, score, _ in found[::6]:
                assert score == pytest.approx(tagger.scores(tagger.encode(path), labels)[0, 0], abs=0.02)


class EncodedAgain:
    """A library that stores no features of its photos."""

    def __init__(self, library: Library):
        self.random_photos = library.random_photos

    def stored_photos(self, *_: Any) -> dict[str, tuple[np.ndarray, float]]:
        return {}


def encoded_photos(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return a list to which the pixels of every photo encoded from now on are appended."""
    encoded: list[np.ndarray] = []
    encode = Tagger.encode_pixels

    def noted(self: Tagger, pixels: np.ndarray) -> Encoded:
        encoded.append(pixels)
        return encode(self, pixels)

    monkeypatch.setattr(Tagger, "encode_pixels", noted)
    return encoded


@pytest.mark.parametrize("name", ["our cup", "cup", "scuba diving"])  # no word, a stored one, one that is not stored
def test_photos_of_the_index_are_not_encoded_again(
    crops: Path, index: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    others = [str(crops / f"cat {number:02d}.png") for number in range(5)]
    with Library.open(index) as library:
        expected = library.tagger.teach(name, cups(crops, 6), others, library=EncodedAgain(library))
        scores = {one.path: one.score for one in library.rank([name], 40)[0].found}
        library.tagger.taught_folder.remove(name)
        encoded = encoded_photos(monkeypatch)
        tag = library.tagger.teach(name, cups(crops, 6), others, library=library)
        assert encoded == []
        new_scores = {one.path: one.score for one in library.rank([name], 40)[0].found}
    assert [one.pixels for one in tag.examples] == [one.pixels for one in expected.examples]
    assert [one.word for one in tag.examples] == pytest.approx([one.word for one in expected.examples], abs=0.05)
    assert tag.found == expected.found
    ours, theirs = (one.reader.weights / one.reader.scale for one in (tag, expected))
    assert ours @ theirs > 0.9995 * np.linalg.norm(ours) * np.linalg.norm(theirs)
    assert new_scores == pytest.approx(scores, abs=0.01)


def test_photos_with_outdated_or_inexact_features_are_encoded_again(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(crops, tmp_path / "photos", copy_function=shutil.copy2)
    with Library.open(tmp_path / "index") as library:
        library.add(tmp_path / "photos")
        photos = cups(tmp_path / "photos", 5)
        assert set(library.stored_photos([*photos, "/no/such.png"], None)) == set(photos)
        shutil.copy(crops / "coffee 09.png", photos[0])  # another photo in its place
        with sqlite3.connect(tmp_path / "index" / INDEX_FILE) as database:
            of_photo = "content = (SELECT content FROM photos WHERE path = ?)"
            one = (os.fsencode(photos[1]),)
            classes = bytearray(database.execute(f"SELECT classes FROM scores WHERE {of_photo}", one).fetchone()[0])
            classes[7] = 255  # more probable than a byte can say
            database.execute(f"UPDATE scores SET classes = ? WHERE {of_photo}", (bytes(classes), *one))
        database.close()
        assert set(library.stored_photos(photos, None)) == set(photos[2:])
        encoded = encoded_photos(monkeypatch)
        library.tagger.teach("our cup", photos, library=library)
    expected = [load_array(path, library.tagger.preprocessing) for path in photos[:2]]
    assert sorted(one.tobytes() for one in encoded) == sorted(one.tobytes() for one in expected)


def test_photos_of_the_index_that_are_examples_are_not_compared_with(
    crops: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coffee photos are in the index as well; as negatives they would hide what was taught."""
    with Library.open(index) as library:
        everything = library.random_photos("cup")
        assert everything.features.shape[0] == everything.word.shape[0] == 40
        monkeypatch.setattr(library_module, "TO_COMPARE", 7)
        assert len(library.random_photos(None).features) == 7
    run_teach(TeachRun(name="our cup", photos=cups(crops, 10), index=index))
    assert Tagger().taught["our cup"].found >= 8


def test_an_index_of_the_previous_version_is_read_and_completed(crops: Path, index: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / INDEX_FILE).write_bytes((index / INDEX_FILE).read_bytes())
    with sqlite3.connect(old / INDEX_FILE) as database:
        database.execute("DROP TABLE pooled")
        database.execute("PRAGMA user_version = 2")
    database.close()
    run_teach(TeachRun(name="our cup", photos=cups(crops)))
    with Library.open(index) as library:
        expected = dict(one[:2] for one in library.search("our cup", 40))
    with Library.open(old) as library:
        assert dict(one[:2] for one in library.search("our cup", 40)) == pytest.approx(expected, abs=0.005)
        assert library.add().added == 0
        assert dict(one[:2] for one in library.search("our cup", 40)) == pytest.approx(expected, abs=0.005)
    with Store(old) as store:
        assert store.without_pooled() == []
        levels, step, low = store.pooled([1, 3])
        assert levels.shape == (2, 512)
        assert np.isfinite([*step, *low]).all()


def test_the_index_does_not_depend_on_taught_tags(crops: Path, tmp_path: Path) -> None:
    """Otherwise it could not be searched after they are removed."""
    run_teach(TeachRun(name="our cup", photos=cups(crops)))
    with Library.open(tmp_path / "index") as library:
        library.add(crops / "cat 00.png")
    run_teach(TeachRun(remove="our cup"))
    with Library.open(tmp_path / "index") as library:
        assert "our cup" not in library._meta.labels
        assert len(library.search("cat")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, 'expected a name and photos that show it: zsl-tagger teach "our cat"'),
        ({"name": "our cup"}, "expected at least 3 different photos of 'our cup' that can be read, got 0"),
        ({"name": "our cup", "list_tags": True}, "--list takes no name, no photos and none of their options"),
        ({"remove": "our cup", "export": Path("x")}, "give --remove or --export, not both"),
        ({"remove": "our cup"}, "no tag 'our cup' was taught; taught tags: none"),
        ({"export": Path("x")}, "no tag was taught yet: there is nothing to export"),
        ({"import_": Path("gone.safetensors")}, "gone.safetensors cannot be read"),
        ({"name": "our cup", "output": Path("sheet.jpg")}, "--output sheet.jpg has the name of an image"),
        ({"name": "our cup", "output": Path("sheet.html")}, "no index at .*: make one with zsl-tagger index PHOTOS"),
        ({"name": "our cup", "index": Path("gone")}, "no index at gone: .* zsl-tagger index PHOTOS --index gone"),
        ({"name": "."}, r"\. is a file or folder; the name comes first"),
    ],
)
def test_contradictory_options_are_refused(options: dict, message: str, taught: TaughtFolder) -> None:
    with pytest.raises(UserError, match=message):
        run_teach(TeachRun(**options))
    assert taught.tags() == []


def test_bad_examples_end_the_command_with_status_2(crops: Path) -> None:
    status, told, errors = run_command("teach", "our cup", cups(crops)[0], crops / "gone.png")
    assert (status, told) == (2, "")
    warning, error = errors.splitlines()
    assert re.fullmatch(r"warning: .*gone\.png: no such file; skipped", warning)
    assert error.startswith("error: expected at least 3 different photos of 'our cup' that can be read, got 1")


def test_refining_a_known_word_is_announced(crops: Path) -> None:
    assert run_command("teach", "cup", *cups(crops))[2] == (
        "note: the model knows the word 'cup', which is refined; --new keeps it and teaches 'cup (taught)'\n"
    )
    assert run_command("teach", "cup", "--new", *cups(crops))[2] == (
        "note: the model knows the word 'cup', which is kept; the new tag is 'cup (taught)'\n"
    )


def test_an_index_of_another_model_is_not_used(crops: Path, index: Path, logged: pytest.LogCaptureFixture) -> None:
    default_folder().mkdir(parents=True)
    (default_folder() / INDEX_FILE).write_bytes((index / INDEX_FILE).read_bytes())
    pretend_another_model(default_folder())
    run_teach(TeachRun(name="our cup", photos=cups(crops)))
    assert "the index is not used: " in logged.text
    assert Tagger().taught


# --- keywords that are there already


@pytest.fixture
def tagged_photos(crops: Path, tmp_path: Path) -> Path:
    """Photos with sidecars: "our cup" on five, "rockets" on four, "seldom" on one, an invalid name on three."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        for name, words in (("coffee", ["our cup"]), ("rocket", ["rockets"] if number else ["seldom"])):
            photo = folder / f"{name} {number}.png"
            photo.write_bytes((crops / f"{name} {number:02d}.png").read_bytes())
            more = ["a # b"] if name == "coffee" and number < 3 else []
            items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words + more)
            photo.with_name(f"{photo.name}.xmp").write_text(
                '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
                '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
                f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
            )
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def test_keywords_of_a_library_are_taught(tagged_photos: Path, crops: Path) -> None:
    status, told, errors = run_command("teach", "--from-library", tagged_photos, "--least", 3)
    assert status == 0
    first, *rows = told.splitlines()
    assert first == "10 photos, 10 with keywords; taught: 2, with too few photos: 1, refused: 1"
    assert [row.split("  ")[0] for row in rows] == ["our cup", "rockets"]
    assert "broken.jpg: not an image" in errors
    assert "warning: keyword 'a # b' is not taught: the name 'a # b' contains a comma, a #" in errors
    tags = [tag.label for tag in Tagger().tag(crops / "coffee 07.png", ["our cup", "rocket"])]
    assert tags == ["our cup"]


def test_a_library_with_too_few_photos_of_each(tagged_photos: Path, tmp_path: Path, taught: TaughtFolder) -> None:
    message = r"no keyword of at least 6 photos could be taught; the most common are: 'our cup \(5\)', 'rockets \(4\)'"
    with pytest.raises(UserError, match=message):
        run_teach(TeachRun(from_library=tagged_photos, least=6))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no readable photos in"):
        run_teach(TeachRun(from_library=tmp_path / "empty"))
    with pytest.raises(UserError, match="expected --least of at least 3, got 2"):
        run_teach(TeachRun(from_library=tagged_photos, least=2))
    assert taught.tags() == []


def test_at_most_20_photos_of_a_keyword_are_examples() -> None:
    paths = list(map(str, range(47)))
    chosen = list(_spread(paths))
    assert len(chosen) == len(set(chosen)) == 20
    assert chosen[0] == "0"
    assert int(chosen[-1]) > 40
    assert list(_spread(paths[:4])) == paths[:4]

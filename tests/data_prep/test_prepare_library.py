"""zsl-tagger prepare library: photos with the keywords that people gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_data import run_command, write_photo

from data_prep.library import PhotoLibrary
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError

WORDS = {0: ["Dogs", "Oma"], 1: ["dog"], 2: ["dog", "Oma"], 3: ["beach", "odd, name"], 4: ["Beach"], 5: []}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, words in WORDS.items():
        photo = tmp_path / "photos" / ("a" if number < 3 else "b") / f"{number}.jpg"
        write_photo(photo, number)
        items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
        photo.with_name(f"{photo.name}.xmp").write_text(
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
        )
    return tmp_path / "photos"


def test_keywords_are_labels_and_what_lacks_one_is_unknown(photos: Path, tmp_path: Path) -> None:
    found = PhotoLibrary(source=photos, least=2).read(tmp_path / "out")
    assert found.paths == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "b/5.jpg"]
    assert [label.casefold() for label in found.labels] == ["oma", "beach", "dog"]
    assert found.targets.toarray().astype(int).tolist() == [
        [1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0],
    ]  # fmt: skip
    assert found.negatives is not None
    assert found.negatives.shape == (6, 3)
    assert found.negatives.nnz == 0
    assert found.facts["photos_with_keywords"] == 5
    assert list(found.facts["refused_keywords"]) == ["odd, name"]


@pytest.mark.slow
def test_the_command_writes_a_sound_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, errors = run_command("prepare", "library", "--source", photos, "--output", out, "--least", 2)
    assert status == 0, errors
    dataset = load_dataset(out)
    assert set(map(str.casefold, dataset.labels)) == {"oma", "beach", "dog"}
    assert (out / "data.csv").read_text().splitlines()[0] == "path,labels,split,negatives"
    assert json.loads((out / "dataset.json").read_text())["partial_labels"]
    assert sorted(path.name for path in photos.rglob("*")) == sorted(
        ["a", "b", *(f"{number}.jpg" for number in WORDS), *(f"{number}.jpg.xmp" for number in WORDS)]
    )


def test_what_cannot_be_prepared_is_told(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no keyword has 9 photos \(6 photos, 5 with keywords\): give a smaller"):
        PhotoLibrary(source=photos, least=9).read(tmp_path / "out")
    with pytest.raises(UserError, match="is inside the photo library, which is read only: give another folder"):
        PhotoLibrary(source=photos).read(photos / "out")
    with pytest.raises(UserError, match=r"no folder at .*gone: expected a folder of photos"):
        PhotoLibrary(source=tmp_path / "gone").read(tmp_path / "out")

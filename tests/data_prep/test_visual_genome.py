"""Visual Genome: which names become labels, and on which images they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from made_data import rows_of, write_lines, write_visual_genome

from data_prep.pipeline import Options, prepare
from data_prep.visual_genome import VisualGenome
from zsl_tagger.errors import UserError

OPTIONS = Options(val_fraction=0.25, test_fraction=0.25, skip_images=True)
IMAGES: dict[int, list[tuple[str, list[str]]]] = {
    1: [("Tree", ["green", "Tall "]), ("tree", []), ("man", ["smiling"])],
    2: [("tree ", ["green"]), ("dog", ["brown"])],
    3: [("dog", ["brown", "green"]), ("lady", [])],
    4: [("woman", []), ("man", [])],
    5: [],
    2417: [("rare  thing", ["old"])],
}


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    write_visual_genome(tmp_path / "VG", IMAGES)
    return tmp_path / "VG"


def shown(genome: Path, **options: Any) -> dict[str, set[str]]:
    """Return {path: labels}."""
    found = VisualGenome(source=genome, **options).read(Path())
    rows = found.targets.toarray()
    return {
        path: {label for label, on in zip(found.labels, row, strict=True) if on}
        for path, row in zip(found.paths, rows, strict=True)
    }


def test_the_most_frequent_names_of_objects(genome: Path) -> None:
    assert shown(genome, objects="3") == {
        "VG_100K_2/1.jpg": {"tree", "man"},
        "VG_100K/2.jpg": {"tree", "dog"},
        "VG_100K_2/3.jpg": {"dog"},
        "VG_100K/4.jpg": {"man"},
        "VG_100K_2/5.jpg": set(),
        "VG_100K_2/2417.jpg": set(),
    }  # tree is on three objects, dog and man on two each


def test_attributes_join_them_or_stand_alone(genome: Path) -> None:
    both = shown(genome, objects="1", attributes="2")
    assert both["VG_100K_2/1.jpg"] == {"tree", "green"}
    assert both["VG_100K_2/3.jpg"] == {"brown", "green"}
    (genome / "objects.json").unlink()
    assert shown(genome, objects="0", attributes="5")["VG_100K_2/1.jpg"] == {"green", "tall", "smiling"}


def test_a_file_joins_several_names_to_one_label(genome: Path, tmp_path: Path, caplog: Any) -> None:
    write_lines(tmp_path / "vocabulary.txt", ["Woman,lady", "rare thing", "", "unicorn", "person,man,woman"])
    caplog.set_level(logging.WARNING, "data_prep")
    labelled = shown(genome, objects=str(tmp_path / "vocabulary.txt"))
    assert labelled["VG_100K_2/3.jpg"] == {"woman"}
    assert labelled["VG_100K/4.jpg"] == {"woman", "person"}
    assert labelled["VG_100K_2/2417.jpg"] == {"rare thing"}
    assert "names of several labels belong to the first (1): 'woman'" in caplog.text
    assert VisualGenome(source=genome, objects="x/../v.txt").identity()["objects"] == str(Path("v.txt").resolve())


def test_it_is_prepared_with_drawn_or_listed_test_images(genome: Path, tmp_path: Path) -> None:
    info = prepare(VisualGenome(source=genome, objects="3"), tmp_path / "drawn", OPTIONS)
    assert info.dropped == {"train or val image without a seen label": 2}
    assert set(info.images.values()) != {0}
    write_lines(tmp_path / "test_list_500.txt", ["1.jpg", "VG_100K/4.jpg", "5"])
    source = VisualGenome(source=genome, objects="3", test_images=tmp_path / "test_list_500.txt", keep_unlabelled=True)
    prepare(source, tmp_path / "listed", OPTIONS)
    test = {path for path, (_, split) in rows_of(tmp_path / "listed").items() if split == "test"}
    assert test == {"VG_100K_2/1.jpg", "VG_100K/4.jpg", "VG_100K_2/5.jpg"}


def test_photos_may_lie_in_one_folder_and_below_images(genome: Path, tmp_path: Path) -> None:
    (genome / "images").mkdir()
    (genome / "VG_100K").rename(genome / "images" / "VG_100K")
    for photo in (genome / "VG_100K_2").iterdir():
        photo.rename(genome / "images" / "VG_100K" / photo.name)
    (genome / "images" / "VG_100K" / "3.jpg").unlink()
    info = prepare(VisualGenome(source=genome, objects="3"), tmp_path / "out", Options(val_fraction=0))
    assert "VG_100K/1.jpg" in rows_of(tmp_path / "out")
    assert info.dropped["missing"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": "99"}, r"expected --objects of at most 6, the number of names, got 99"),
        ({"objects": "0"}, r"expected --objects or --attributes to give labels, got 0 for both"),
        ({"objects": "9" * 10}, r"--objects: expected a number of labels or a file .*; there is no file 9999999999"),
        ({"objects": "-5"}, r"--objects: expected a number of labels or a file that lists them; there is no file -5"),
        ({"objects": "unknown.txt"}, r"unknown\.txt: none of its 1 names is among the objects of .*objects\.json"),
        ({"objects": "empty.txt"}, r"empty\.txt has no labels"),
        ({"objects": "odd.txt"}, r"odd\.txt:2: expected names between commas, got 'a,,b'"),
        ({"test_images": Path("gone.txt")}, r"there is no file gone\.txt: expected a list of the test images"),
        ({"test_images": Path("odd.txt")}, r"odd\.txt:1: expected the number of one of the 6 images, got 'dog'"),
    ],
)
def test_faulty_options_are_named(
    options: dict[str, Any], message: str, genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, lines in (("unknown", ["unicorn"]), ("empty", []), ("odd", ["dog", "a,,b"])):
        write_lines(tmp_path / f"{name}.txt", lines)
    with pytest.raises(UserError, match=message):
        VisualGenome(source=genome, **{"objects": "3", **options}).read(Path())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("objects", "[\n{", r"objects\.json:2: is not valid JSON"),
        ("objects", f'[{{"image_id": {"9" * 5000}}}]', r"objects\.json is not a file of Visual Genome: ValueError"),
        ("objects", "[" * 99999, r"objects\.json is not a file of Visual Genome: RecursionError"),
        ("objects", "{}", r"objects\.json is not a file of Visual Genome: expected a list of objects, one per image"),
        ("objects", '[{"image_id": 9, "objects": []}]', r"image 9 is not among the 6 images of image_data\.json"),
        ("objects", '[{"image_id": 1, "objects": []}, {"image_id": 1, "objects": []}]', r"duplicate image id 1"),
        ("objects", '[{"image_id": "1"}]', r"an image: expected 'image_id' to be a whole number"),
        ("objects", '[{"image_id": 1}]', r"image 1: expected a list of objects called 'objects'"),
        ("objects", '[{"image_id": 1, "objects": [{"names": [5]}]}]', r"image 1: expected lists of names, got \[5\]"),
        ("image_data", '[{"image_id": 1, "url": "x/1.jpg"}]', r"image 1: expected 'url' to end in VG_100K/<number>"),
        ("image_data", None, r"there is no .*image_data\.json: unpack image_data\.json\.zip from https://homes"),
        ("objects", None, r"there is no .*objects\.json: unpack objects\.json\.zip from https://homes"),
    ],
)
def test_faulty_and_missing_files_are_named(name: str, content: str | None, message: str, genome: Path) -> None:
    file = genome / f"{name}.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UserError, match=message):
        VisualGenome(source=genome, objects="1").read(Path())


def test_names_that_cannot_be_labels_are_passed_over(genome: Path) -> None:
    content = [{"image_id": 1, "objects": [{"names": ["salt, pepper"]}, {"names": [" "]}, {"names": []}, {}]}]
    (genome / "objects.json").write_text(
        json.dumps([*content, {"image_id": 2, "objects": [{"names": ["dog", "pet"]}]}])
    )
    assert shown(genome, objects="1")["VG_100K/2.jpg"] == {"dog"}
    with pytest.raises(UserError, match="at most 1, the number of names, got 2"):  # a second name does not count
        shown(genome, objects="2")
    with pytest.raises(UserError, match=r"no folder at .*gone: expected Visual Genome"):
        VisualGenome(source=genome / "gone").read(Path())

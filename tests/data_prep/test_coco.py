"""COCO: which classes are on which image, and what is kept for which task."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_data import write_coco

from data_prep.coco import CLASSES, NOT_IN_48_17, UNSEEN, Coco
from data_prep.pipeline import Options, prepare
from zsl_tagger.datasets.format import parse_labels
from zsl_tagger.datasets.read import read_dataset
from zsl_tagger.errors import UserError

OPTIONS = Options(val_fraction=0.25)

TRAIN = [
    [("dog", 0), ("person", 0), ("dog", 0)],
    [],
    [("person", 1)],  # a crowd
    [("zebra", 0)],
    [("traffic light", 0)],  # no class of the 48/17 task
    [("chair", 0), ("traffic light", 0)],
    [("bench", 0)],
]
VAL = [[("cat", 0), ("person", 0)], [], [("zebra", 0)], [("stop sign", 0)]]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_coco(tmp_path / "coco", CLASSES, {"train": TRAIN, "val": VAL}, 2014)
    return tmp_path / "coco"


def rows_of(folder: Path) -> dict[str, tuple[set[str], str]]:
    with (folder / "data.csv").open(newline="") as file:
        return {row["path"]: (set(parse_labels(row["labels"])), row["split"]) for row in csv.DictReader(file)}


def path(part: str, number: int, year: int = 2014) -> str:
    return f"{part}{year}/{number:012d}.jpg"


def test_multi_label_has_the_classes_of_each_image(coco: Path, tmp_path: Path) -> None:
    info = prepare(Coco(source=coco), tmp_path / "out", OPTIONS)
    rows = rows_of(tmp_path / "out")
    expected = {path("train", n): {name for name, _ in shown} for n, shown in enumerate(TRAIN) if shown}
    expected |= {path("val", n): {name for name, _ in shown} for n, shown in enumerate(VAL) if shown}
    assert {image: labels for image, (labels, _) in rows.items()} == expected
    assert {split for image, (_, split) in rows.items() if image.startswith("val")} == {"test"}
    assert {split for image, (_, split) in rows.items() if image.startswith("train")} == {"train", "val"}
    assert info.dropped == {"train or val image without a seen label": 1, "test image without a label": 1}
    assert info.source["images_annotated"] == {"train": 6, "test": 3}
    assert (info.seen_labels, info.unseen_labels) == (80, 0)
    assert read_dataset(tmp_path / "out", coco)[0] is not None


def test_images_without_annotation_can_be_kept(coco: Path, tmp_path: Path) -> None:
    prepare(Coco(source=coco, keep_unlabelled=True), tmp_path / "out", OPTIONS)
    assert rows_of(tmp_path / "out")[path("val", 1)] == (set(), "test")


def test_48_17_leaves_out_training_images_that_show_an_unseen_class(coco: Path, tmp_path: Path) -> None:
    info = prepare(Coco(source=coco, task="zsl-48-17"), tmp_path / "out", OPTIONS)
    rows = rows_of(tmp_path / "out")
    assert path("train", 0) not in rows  # dog is unseen
    assert path("train", 4) not in rows  # a traffic light is neither seen nor unseen
    assert rows[path("train", 5)][0] == {"chair"}
    assert rows[path("val", 0)] == ({"cat", "person"}, "test")
    assert info.source["test_images_with_unseen_class"] == 1
    assert info.dropped["training image that shows an unseen class"] == 1
    benchmark = json.loads((tmp_path / "out" / "benchmark_coco_zsl_48_17.json").read_text())
    assert (len(benchmark["train class"]), len(benchmark["test class"])) == (48, 17)


def test_the_splits_are_those_of_the_papers() -> None:
    """By the 0-based ids in the order of the 80 classes, as SDL and DualCoOp give them."""
    unseen = [4, 5, 15, 16, 19, 20, 25, 27, 31, 36, 41, 43, 55, 57, 66, 71, 76]
    seen = [0, 1, 2, 3, 6, 7, 8, 13, 14, 17, 18, 21, 22, 23, 24, 26, 28, 29, 30, 33, 37, 39, 42, 44, 45, 46, 47, 48, 49,
            50, 51, 53, 54, 56, 59, 61, 62, 63, 64, 65, 68, 69, 70, 72, 73, 74, 75, 79]  # fmt: skip
    assert {CLASSES[index] for index in unseen} == set(UNSEEN["zsl-48-17"])
    assert {CLASSES[index] for index in seen} == set(CLASSES) - set(UNSEEN["zsl-48-17"]) - set(NOT_IN_48_17)
    assert len(set(CLASSES)) == 80
    assert len(set(UNSEEN["zsl-65-15"]) & set(CLASSES)) == 15


def test_65_15_has_all_80_classes(coco: Path, tmp_path: Path) -> None:
    info = prepare(Coco(source=coco, task="zsl-65-15"), tmp_path / "out", OPTIONS)
    assert (info.seen_labels, info.unseen_labels) == (65, 15)
    assert rows_of(tmp_path / "out")[path("train", 4)][0] == {"traffic light"}


def test_2017_and_an_images_folder(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", CLASSES, {"train": TRAIN, "val": VAL}, 2017)
    (tmp_path / "coco" / "images").mkdir()
    for part in ("train2017", "val2017"):
        (tmp_path / "coco" / part).rename(tmp_path / "coco" / "images" / part)
    info = prepare(Coco(source=tmp_path / "coco"), tmp_path / "out", OPTIONS)
    assert info.name == "MS-COCO 2017 multi-label"
    assert "missing" not in info.dropped
    assert path("val", 0, 2017) in rows_of(tmp_path / "out")


def test_bad_input_is_said(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"expected --task to be one of multi-label, zsl-48-17, zsl-65-15; got 'zsl'"):
        prepare(Coco(source=coco, task="zsl"), out, OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no folder at .*gone"):
        prepare(Coco(source=tmp_path / "gone"), out, OPTIONS)
    with pytest.raises(UserError, match=r"has neither annotations/instances_train2014.json nor annotations/"):
        prepare(Coco(source=tmp_path), out, OPTIONS)
    with pytest.raises(UserError, match=r"lacks annotations/instances_train2017.json"):
        prepare(Coco(source=coco, year=2017), out, OPTIONS)
    with pytest.raises(UserError, match=r"expected --year of 2014 or 2017, got 2015"):
        prepare(Coco(source=coco, year=2015), out, OPTIONS)
    annotations = coco / "annotations" / "instances_val2014.json"
    whole = annotations.read_text()
    annotations.write_text(whole[:500])
    with pytest.raises(UserError, match=r"instances_val2014.json:1: is not valid JSON"):
        prepare(Coco(source=coco), out, OPTIONS)
    annotations.write_text("[]")
    with pytest.raises(UserError, match=r"instances_val2014.json is not a COCO instances file"):
        prepare(Coco(source=coco), out, OPTIONS)
    annotations.write_text(whole.replace('"zebra"', '"quagga"'))
    with pytest.raises(UserError, match=r"expected the 80 classes of COCO; these differ: quagga, zebra"):
        prepare(Coco(source=coco), out, OPTIONS)
    annotations.write_text(whole.replace('"id": 101', '"id": 100'))
    with pytest.raises(UserError, match=r"instances_val2014.json: duplicate image id 100"):
        prepare(Coco(source=coco), out, OPTIONS)
    annotations.write_bytes(whole.encode("utf-16"))
    with pytest.raises(UserError, match=r"instances_val2014.json is not a COCO instances file: UnicodeDecodeError"):
        prepare(Coco(source=coco), out, OPTIONS)
    annotations.write_text(whole.replace("000000000002.jpg", "../../x.jpg"))
    with pytest.raises(UserError, match=r"the path 'val2014/../../x.jpg' leaves the image root"):
        prepare(Coco(source=coco), out, OPTIONS)
    assert not (out / "data.csv").exists()


def change_val(coco: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = coco / "annotations" / "instances_val2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][1].update(image_id=999), "annotation 1 is on image 999, which is not among its 4"),
        (lambda c: c["annotations"][1].update(category_id=12), "annotation 1 has category 12, which is not among its"),
        (lambda c: c["categories"].pop(15), "expected the 80 classes of COCO; these differ: cat"),
        (lambda c: c["images"][2].update(id="102"), "image number 2: expected 'id' to be a whole number .*, got '102'"),
        (lambda c: c["annotations"][0].update(image_id="100"), "annotation 0: expected 'image_id' to be .* got '100'"),
        (lambda c: c["annotations"][0].pop("category_id"), "annotation 0: expected 'category_id' to be .* got None"),
        (lambda c: c.pop("annotations"), "a list of objects called 'annotations'; its keys are 'images', 'categories'"),
        (lambda c: c["images"][0].pop("file_name"), "image 100: expected a text 'file_name', got None"),
        (lambda c: c["categories"][1].update(id=1), "duplicate category id 1"),
        (lambda c: c["images"].append(7), "a list of objects called 'images'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_instances_file_is_named(change: Any, message: str, coco: Path, tmp_path: Path) -> None:
    change_val(coco, change)
    with pytest.raises(UserError, match=rf"instances_val2014\.json.*{message}"):
        prepare(Coco(source=coco), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_train_split_without_images_is_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", CLASSES, {"train": [[("dog", 0)], [("cat", 0)]], "val": VAL}, 2014)
    with pytest.raises(
        UserError, match=r"no image is left in the split train: train 0, val 0, test 2; left out: train"
    ):
        prepare(Coco(source=tmp_path / "coco", task="zsl-48-17"), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out" / "data.csv").exists()

"""PASCAL VOC: which classes are on which image, which are unknown, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_data import negatives_of, rows_of, write_lines, write_voc

from data_prep.pipeline import Options, prepare
from data_prep.voc import CLASSES, Voc
from zsl_tagger.datasets.read import read_dataset
from zsl_tagger.errors import UserError

OPTIONS = Options(val_fraction=0.25, skip_images=True)

IMAGES = {
    "train": {
        "000012": [("dog", 0), ("person", 1), ("dog", 1)],
        "000017": [("person", 1), ("person", 0), ("diningtable", 0)],
        "000023": [("chair", 1)],
        "000026": [("car", 0)],
    },
    "val": {"000005": [("chair", 0)]},
    "test": {"000001": [("tvmonitor", 0), ("dog", 0)], "000002": [("train", 0), ("pottedplant", 1)]},
}
LABELS = set(CLASSES.values())


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    write_voc(tmp_path / "VOCdevkit", 2007, IMAGES)
    return tmp_path / "VOCdevkit"


def test_labels_splits_and_what_difficult_objects_leave_unknown(devkit: Path, tmp_path: Path) -> None:
    info = prepare(Voc(source=devkit), tmp_path / "out", OPTIONS)
    assert rows_of(tmp_path / "out") == {
        "000012.jpg": ({"dog"}, "train"),
        "000017.jpg": ({"person", "dining table"}, "train"),
        "000023.jpg": (set(), "train"),
        "000026.jpg": ({"car"}, "train"),
        "000005.jpg": ({"chair"}, "val"),
        "000001.jpg": ({"tv monitor", "dog"}, "test"),
        "000002.jpg": ({"train"}, "test"),
    }
    negatives = negatives_of(tmp_path / "out")
    assert negatives["000012.jpg"] == LABELS - {"dog", "person"}
    assert negatives["000017.jpg"] == LABELS - {"person", "dining table"}
    assert negatives["000023.jpg"] == LABELS - {"chair"}
    assert info.source["labels_on_difficult_objects_only"] == 3
    assert (info.name, info.seen_labels) == ("PASCAL VOC 2007", 20)
    assert read_dataset(tmp_path / "out", devkit / "VOC2007" / "JPEGImages")[0] is not None


def test_difficult_objects_can_count_and_then_every_label_is_known(devkit: Path) -> None:
    found = Voc(source=devkit, count_difficult=True).read(Path())
    assert found.negatives is None
    row = found.targets.toarray()[found.paths.index("000012.jpg")]
    assert [label for label, shown in zip(found.labels, row, strict=True) if shown] == ["dog", "person"]


def test_labels_are_complete_where_no_label_is_on_difficult_objects_only(tmp_path: Path) -> None:
    write_voc(tmp_path, 2007, {"train": {"000001": [("cat", 0), ("cat", 1)]}, "val": {}, "test": {}})
    assert Voc(source=tmp_path).read(Path()).negatives is None


def test_trainval_is_trained_on_and_val_is_cut_from_it(devkit: Path, tmp_path: Path) -> None:
    prepare(Voc(source=devkit / "VOC2007", trainval=True), tmp_path / "out", OPTIONS)
    splits = {path: split for path, (_, split) in rows_of(tmp_path / "out").items()}
    trainval = [splits[f"{image}.jpg"] for image in (*IMAGES["train"], *IMAGES["val"])]
    assert sorted(trainval) == ["train", "train", "train", "train", "val"]
    assert [splits[f"{image}.jpg"] for image in IMAGES["test"]] == ["test", "test"]


def test_unseen_labels_are_taken_off_and_images_without_a_seen_one_left_out(devkit: Path, tmp_path: Path) -> None:
    info = prepare(Voc(source=devkit, unseen="dog"), tmp_path / "out", OPTIONS)
    assert "000012.jpg" not in rows_of(tmp_path / "out")
    assert "dog" not in negatives_of(tmp_path / "out")["000026.jpg"]
    assert (info.unseen_labels, info.dropped) == (1, {"train or val image without a seen label": 2})


def test_2012_has_no_public_test_so_val_is_for_test(tmp_path: Path) -> None:
    shown = {"train": {f"2008_00000{n}": [("cat", 0)] for n in range(4)}, "val": {"2008_000007": [("dog", 0)]}}
    write_voc(tmp_path / "VOCdevkit", 2012, shown)
    write_lines(tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/test.txt", ["2008_000009"])
    found = Voc(source=tmp_path).read(Path())
    assert found.splits.tolist() == ["train"] * 4 + ["test"]
    assert found.facts["test_split"] == "the official val"
    assert Voc(source=tmp_path).identity()["year"] == 2012
    with pytest.raises(UserError, match=r"--trainval needs the annotation of test images, which .*VOC2012 lacks"):
        Voc(source=tmp_path, trainval=True).read(Path())
    (tmp_path / "VOCdevkit/VOC2012/Annotations/2008_000009.xml").write_text("<annotation/>")  # those who have it
    assert Voc(source=tmp_path).read(Path()).splits.tolist() == ["train"] * 4 + ["val", "test"]


def test_missing_parts_are_named_with_where_to_get_them(devkit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*gone: expected PASCAL VOC; unpack VOCtrainval_06"):
        Voc(source=tmp_path / "gone").read(Path())
    with pytest.raises(UserError, match=r"has no folder VOC2012 with ImageSets/Main: unpack .* from http://host"):
        Voc(source=devkit, year=2012).read(Path())
    with pytest.raises(UserError, match="expected --year of 2007 or 2012, got 2010"):
        Voc(source=devkit, year=2010)
    (devkit / "VOC2007" / "Annotations" / "000002.xml").unlink()
    with pytest.raises(UserError, match=r"Annotations lacks 1 of 7 files of the image lists: '000002\.xml'; unpack"):
        Voc(source=devkit).read(Path())
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(UserError, match=r"there is no .*test\.txt: unpack .*VOCtest_06-Nov-2007\.tar"):
        Voc(source=devkit).read(Path())


def test_images_without_a_file_are_counted(devkit: Path, tmp_path: Path) -> None:
    (devkit / "VOC2007" / "JPEGImages" / "000026.jpg").unlink()
    info = prepare(Voc(source=devkit), tmp_path / "out", Options())
    assert info.dropped == {"missing": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000005", "000005"], r"val\.txt:2: the image '000005' is already listed in line 1"),
        (["000012"], r"val\.txt:1: the image '000012' is already in the train list"),
        (["", "../000005"], r"val\.txt:2: the path '\.\./000005' leaves the image root"),
        (["000005  1"], r"val\.txt:1: expected one image per line, without its suffix"),
    ],
)
def test_a_faulty_list_is_named_with_its_line(lines: list[str], message: str, devkit: Path) -> None:
    write_lines(devkit / "VOC2007/ImageSets/Main/val.txt", lines)
    with pytest.raises(UserError, match=message):
        Voc(source=devkit).read(Path())


ENTITIES = """<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "dog"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<annotation><object><name>&c;</name></object></annotation>
"""
FOREIGN = """<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>\n<name>dog</nom>", r"000012\.xml:3: is not valid XML: mismatched tag"),
        ("", r"000012\.xml:1: is not valid XML: no element found"),
        ("<html/>", r"000012\.xml: expected an element 'annotation', got 'html'"),
        (
            "<annotation><object><name>unicorn</name></object></annotation>",
            r"object 1: expected one of VOC's 20 .*'uni",
        ),
        (
            "<annotation><object><name>dog</name><difficult>2</difficult></object></annotation>",
            r"object 1: expected 'difficult' to be 0 or 1, got '2'",
        ),
        (ENTITIES, r"000012\.xml contains a document type"),
        (FOREIGN, r"000012\.xml contains a document type"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', r"000012\.xml"),
    ],
)
def test_a_faulty_annotation_is_named(content: str, message: str, devkit: Path) -> None:
    (devkit / "VOC2007" / "Annotations" / "000012.xml").write_text(content)
    with pytest.raises(UserError, match=message):
        Voc(source=devkit).read(Path())

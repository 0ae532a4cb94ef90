"""OpenImages: verified labels, verified negatives, the rest unknown, and lists of seen and unseen classes."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from made_data import negatives_of, rows_of, write_lines, write_open_images

from data_prep import open_images
from data_prep.open_images import OpenImages
from data_prep.pipeline import Options, prepare
from zsl_tagger.datasets.read import read_dataset
from zsl_tagger.errors import UserError

OPTIONS = Options(skip_images=True, missing="random")
CLASSES = {
    "/m/0bt9lr": "Dog", "/m/01yrx": "Cat", "/m/0k4j": "Car", "/g/11abc": "Washington, D.C.", "/m/0zzz": "Cat",
    "/m/0unseen": "Okapi",
}  # fmt: skip
TRAINABLE = ["/m/0bt9lr", "/m/01yrx", "/m/0k4j", "/g/11abc"]
BIG = 0xFEDCBA9876543210
ROWS: dict[str, list[tuple[int, str, float]]] = {
    "train": [
        (1, "/m/0bt9lr", 1), (1, "/m/01yrx", 0), (1, "/m/0unseen", 1),
        (1, "/m/0zzz", 1),  # another Cat, which is not trainable
        (BIG, "/g/11abc", 1), (BIG, "/m/0k4j", 0), (BIG, "/m/0k4j", 0),
        (2, "/m/0k4j", 0),
        (3, "/m/0k4j", 1), (3, "/m/0k4j", 0), (3, "/m/0bt9lr", 1),
        (4, "/m/0unseen", 1),
    ],
    "val": [(1, "/m/01yrx", 1), (1, "/m/0unseen", 0)],
    "test": [(9, "/m/0unseen", 1), (9, "/m/0bt9lr", 0), (10, "/m/0k4j", 1)],
}  # fmt: skip


def image(number: int, split: str = "train") -> str:
    return f"{split}/{number:016x}.jpg"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_open_images(tmp_path / "OpenImages", CLASSES, TRAINABLE, ROWS)
    return tmp_path / "OpenImages"


def test_verified_labels_and_verified_negatives(archive: Path, tmp_path: Path) -> None:
    info = prepare(OpenImages(source=archive), tmp_path / "out", OPTIONS)
    assert rows_of(tmp_path / "out") == {
        image(1): ({"Dog"}, "train"),
        image(BIG): ({"Washington D.C."}, "train"),
        image(3): ({"Dog"}, "train"),
        image(1, "validation"): ({"Cat"}, "val"),
        image(10, "test"): ({"Car"}, "test"),
    }
    assert negatives_of(tmp_path / "out") == {
        image(1): {"Cat"}, image(BIG): {"Car"}, image(3): set(),
        image(1, "validation"): set(), image(10, "test"): set(),
    }  # fmt: skip
    assert info.source["labels_verified_both_ways"] == {"train": 1, "val": 0, "test": 0}
    assert info.source["images"] == {"train": 4, "val": 1, "test": 2}  # image 4 says nothing of a trainable class
    assert (info.seen_labels, info.unseen_labels) == (4, 0)
    assert read_dataset(tmp_path / "out", archive)[0] is not None


def test_files_in_blocks_give_the_same(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = OpenImages(source=archive).read(Path())
    monkeypatch.setattr(open_images, "_BLOCK", 100)  # two rows
    blocks = OpenImages(source=archive).read(Path())
    assert blocks.paths == whole.paths
    assert (blocks.targets.toarray() == whole.targets.toarray()).all()
    assert blocks.negatives is not None
    assert whole.negatives is not None
    assert (blocks.negatives.toarray() == whole.negatives.toarray()).all()


def test_images_without_a_positive_label_can_be_kept(archive: Path, tmp_path: Path) -> None:
    prepare(OpenImages(source=archive, keep_unlabelled=True), tmp_path / "out", OPTIONS)
    assert rows_of(tmp_path / "out")[image(2)] == (set(), "train")
    assert negatives_of(tmp_path / "out")[image(2)] == {"Car"}


def test_seen_and_unseen_classes_come_from_files(archive: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "seen.txt", ["/m/0bt9lr", "", "Car", '"Washington, D.C."'])
    write_lines(tmp_path / "unseen.csv", ["/m/0unseen,Okapi"])
    source = OpenImages(source=archive, seen_classes=tmp_path / "seen.txt", unseen_classes=tmp_path / "unseen.csv")
    info = prepare(source, tmp_path / "out", OPTIONS)
    rows = rows_of(tmp_path / "out")
    assert rows[image(1)] == ({"Dog"}, "train")  # the unseen label is taken off
    assert image(4) not in rows
    assert rows[image(9, "test")] == ({"Okapi"}, "test")
    assert negatives_of(tmp_path / "out")[image(9, "test")] == {"Dog"}
    benchmark = json.loads((tmp_path / "out" / "benchmark_open_images.json").read_text())
    assert benchmark == {"train class": ["Car", "Dog", "Washington D.C."], "test class": ["Okapi"]}
    assert info.word_vectors.papers_use.startswith("ML-Decoder")
    assert source.identity()["seen_classes"] == str(tmp_path / "seen.txt")


def test_lesa_lists_unseen_classes_by_their_places(archive: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "top_400_unseen.csv", ["1,0.5"])
    source = OpenImages(source=archive, unseen_classes=tmp_path / "top_400_unseen.csv")
    with pytest.raises(UserError, match=r"contains numbers like LESA's list: put LESA's unseen_labels\.pkl next to it"):
        source.read(Path())
    listed = tmp_path / "unseen_labels.pkl"
    listed.write_bytes(pickle.dumps(["/m/0zzz", "/m/0unseen"]))
    assert source.read(Path()).unseen == ["Okapi"]
    listed.write_bytes(pickle.dumps(["/m/0zzz"]))
    with pytest.raises(UserError, match=r"unseen\.csv:1: expected a number below 1, the classes of .*pkl, got 1"):
        source.read(Path())
    listed.write_bytes(pickle.dumps({"/m/0zzz"}))
    with pytest.raises(UserError, match=r"pkl: expected a list of class ids, got set"):
        source.read(Path())
    listed.write_bytes(b"no pickle")
    with pytest.raises(UserError, match=r"pkl is not a pickle that can be read safely"):
        source.read(Path())
    listed.write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match=r"pkl: expected a list of class ids|is not a pickle that can be read safely"):
        source.read(Path())


def test_classes_of_one_name_are_one_label_and_seen_if_one_is(archive: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "data_prep")
    write_lines(tmp_path / "unseen.txt", ["/m/0zzz", "/m/0unseen"])
    found = OpenImages(source=archive, unseen_classes=tmp_path / "unseen.txt").read(Path())
    assert found.labels == ["Car", "Cat", "Dog", "Okapi", "Washington D.C."]
    assert found.unseen == ["Okapi"]
    assert "unseen classes with the name of a seen class (1) are treated as seen: 'Cat'" in caplog.text


def test_machine_labels_are_used_for_training_only_and_people_overrule_them(archive: Path, tmp_path: Path) -> None:
    lines = [
        f"{1:016x},machine,/m/01yrx,0.9",  # verified to be absent
        f"{1:016x},machine,/m/0k4j,0.7",
        f"{2:016x},machine,/m/0bt9lr,0.6",  # not sure enough
        f"{3:016x},machine,/m/0k4j,0.9",  # people disagree
        f"{5:016x},machine,/m/01yrx,1",
    ]
    file = archive / "train" / "oidv7-train-annotations-machine-imagelabels.csv"
    write_lines(file, ["ImageID,Source,LabelName,Confidence", *lines])
    prepare(OpenImages(source=archive, machine_labels=0.7), tmp_path / "out", OPTIONS)
    rows = {path: labels for path, (labels, split) in rows_of(tmp_path / "out").items() if split == "train"}
    assert rows == {
        image(1): {"Dog", "Car"}, image(BIG): {"Washington D.C."}, image(3): {"Dog"}, image(5): {"Cat"},
    }  # fmt: skip
    assert negatives_of(tmp_path / "out")[image(1)] == {"Cat"}
    with pytest.raises(UserError, match=r"expected --machine-labels above 0 and at most 1, got 70"):
        OpenImages(source=archive, machine_labels=70)


@pytest.mark.parametrize("version", [4, 6])
def test_the_names_of_earlier_versions(version: int, archive: Path) -> None:
    """Version 4 has no header in its class descriptions, and a folder for each split."""
    expected = OpenImages(source=archive).read(Path())
    prefix = "" if version == 4 else "oidv6-"
    for split, folder in open_images.FOLDERS.items():
        file = archive / f"oidv7-{split}-annotations-human-imagelabels.csv"
        inner = archive / "2018_04" / folder if version == 4 else archive / "annotations"
        inner.mkdir(parents=True, exist_ok=True)
        file.rename(inner / f"{prefix}{folder}-annotations-human-imagelabels.csv")
    described = (archive / "oidv7-class-descriptions.csv").read_text()
    (archive / f"{prefix}class-descriptions.csv").write_text(
        described.partition("\n")[2] if version == 4 else described
    )
    (archive / "oidv7-class-descriptions.csv").unlink()
    (archive / "oidv7-classes-trainable.txt").rename(archive / f"{prefix}classes-trainable.txt")
    found = OpenImages(source=archive).read(Path())
    assert (found.paths, found.labels) == (expected.paths, expected.labels)
    assert (found.targets.toarray() == expected.targets.toarray()).all()


def test_images_may_lie_as_the_archives_pack_them(archive: Path, tmp_path: Path) -> None:
    (archive / "train").rename(archive / "train_0")
    info = prepare(OpenImages(source=archive), tmp_path / "out", Options(missing="random"))
    assert f"train_0/{1:016x}.jpg" in rows_of(tmp_path / "out")
    assert info.dropped["missing"] == 1  # its archive, train_f, was not unpacked


HUMAN = "oidv7-train-annotations-human-imagelabels.csv"
HEAD = "ImageID,Source,LabelName,Confidence"
GOOD = f"{1:016x},verification,/m/0bt9lr,1"


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (HUMAN, ["ImageID,Source,LabelName", "x,y,z"], r"labels\.csv: no column 'Confidence', it has 'ImageID', 'Sour"),
        (HUMAN, [], r"labels\.csv: no column 'ImageID', 'LabelName', 'Confidence', it has none"),
        (HUMAN, [HEAD, GOOD, f"{1:016x},v,/m/0nope,1"], r"csv:3: the class '/m/0nope' is not among the 6 of .*class-d"),
        (HUMAN, [HEAD, GOOD, f"{1:016x},v,/m/0bt9lr,0.5"], r"csv:3: expected a Confidence of 0 .*, got 0\.5"),
        (HUMAN, [HEAD, f"{1:016x},v,/m/0bt9lr,"], r"csv:2: expected a Confidence of 0 .*, got nan"),
        (HUMAN, [HEAD, f"{1:016x},v,/m/0bt9lr,yes"], r"is not a readable file of labels: .*'yes'"),
        (HUMAN, [HEAD, GOOD, "1,v,/m/0bt9lr"], r"is not a readable file of .*: Expected 4 columns, got 3"),
        (HUMAN, [HEAD, GOOD, "xyz,v,/m/0bt9lr,1"], r"csv:3: expected an ImageID of 16 hexadecimal digits, got 'xyz'"),
        (HUMAN, [HEAD, "../../etc/passwd,v,/m/0bt9lr,1"], r"csv:2: expected an ImageID of 16 hex.*, got '\.\./\.\."),
        (HUMAN, None, r"lacks oidv7-train-annotations-human-imagelabels\.csv \(or oidv6-.*\): download it from https://"),
        ("oidv7-class-descriptions.csv", None, r"lacks oidv7-class-descriptions\.csv \(or .*class-descriptions\.csv\)"),
        ("oidv7-class-descriptions.csv", ["/m/1,A,B"], r"csv:1: expected a class id such as /m/011k07 and its"),
        ("oidv7-class-descriptions.csv", ["/m/1,A", "/m/1,B"], r"csv:2: duplicate class /m/1"),
        ("oidv7-class-descriptions.csv", ["/m/1, "], r"csv:1: the name ' ' is empty"),
        ("oidv7-class-descriptions.csv", ['/m/1,"A'], r"csv:\d: is not valid CSV"),
        ("oidv7-class-descriptions.csv", ["LabelName,DisplayName"], r"csv has no classes"),
        ("oidv7-classes-trainable.txt", None, r"lacks oidv7-classes-trainable\.txt"),
        ("oidv7-classes-trainable.txt", ["/m/0bt9lr", "/m/0nope"], r"txt:2: the class '/m/0nope' is not among"),
        ("oidv7-classes-trainable.txt", [], r"txt has no classes"),
    ],
)  # fmt: skip
def test_faulty_and_missing_files_are_named(name: str, lines: list[str] | None, message: str, archive: Path) -> None:
    (archive / name).unlink() if lines is None else write_lines(archive / name, lines)
    with pytest.raises(UserError, match=message):
        OpenImages(source=archive).read(Path())


def test_the_line_of_an_error_is_right_in_later_blocks(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_images, "_BLOCK", 100)  # two rows
    write_lines(archive / HUMAN, [HEAD, *[GOOD] * 6, f"{1:016x},v,/m/0bt9lr,2"])
    with pytest.raises(UserError, match=r"labels\.csv:8: expected a Confidence"):
        OpenImages(source=archive).read(Path())


def test_lists_that_overlap_or_are_missing_are_named(archive: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "unseen.txt", ["Okapi", "Dog"])
    with pytest.raises(UserError, match=r"trainable\.txt and .*unseen\.txt overlap in 1 classes, such as .* \('Dog'\)"):
        OpenImages(source=archive, unseen_classes=tmp_path / "unseen.txt").read(Path())
    with pytest.raises(UserError, match=r"there is no file .*gone\.txt: expected a list of classes"):
        OpenImages(source=archive, seen_classes=tmp_path / "gone.txt").read(Path())
    with pytest.raises(UserError, match=r"no folder at .*gone: expected OpenImages' CSV files, from https://"):
        OpenImages(source=tmp_path / "gone").read(Path())

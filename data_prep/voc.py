"""Read PASCAL VOC 2007 and 2012 as a multi-label data set, from the XML files of the devkit.

An image has a class if an object of it is annotated there. If all objects of a class on an image are marked
``difficult``, VOC's evaluation ignores the image for this class: the label is unknown, neither present nor absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from data_prep.source import Found, Protocol, Source, targets_of
from data_prep.text import numbered_lines
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError, some

YEARS = (2007, 2012)

#: {name in the devkit: label}.
CLASSES = {
    name: {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}.get(name, name)
    for name in (
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
        "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )
}  # fmt: skip

_DOWNLOAD = (
    "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, or VOCtrainval_11-May-2012.tar, "
    "from http://host.robots.ox.ac.uk/pascal/VOC"
)


@dataclass(frozen=True, kw_only=True)
class Voc(Source):
    """Options of PASCAL VOC.

    Attributes:
        source: the folder VOCdevkit, its parent folder, or its subfolder of a year.
        year: 2007 or 2012; None for the year that is found, 2007 if both are.
        trainval: train on the list trainval, minus a validation split cut from it, instead of train.
        count_difficult: count objects that are marked as difficult.
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
    """

    command = "voc"

    year: int | None = None
    trainval: bool = False
    count_difficult: bool = False
    unseen: str = ""

    def __post_init__(self) -> None:
        if self.year is not None and self.year not in YEARS:
            raise UserError(f"expected --year of 2007 or 2012, got {self.year}")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "year": _find_year(self.source, self.year)[1]}

    def read(self, _output: Path, /) -> Found:
        folder, year = _find_year(self.source, self.year)
        split_of, test_list = _read_splits(folder, year, self.trainval)
        objects = _read_annotations(folder, list(split_of), self.count_difficult)
        labels = sorted(CLASSES.values())
        unknown = sum(len(one.unknown) for one in objects)
        absent = [[label for label in labels if label not in one.shown | one.unknown] for one in objects]
        # VOC evaluates on every image, including images whose objects are all difficult
        protocol = Protocol() if self.unseen else Protocol(False, "nothing")
        return Found(
            name=f"PASCAL VOC {year}",
            image_root=(folder / "JPEGImages").resolve(),
            paths=[f"{image}.jpg" for image in split_of],
            labels=labels,
            targets=targets_of([sorted(one.shown) for one in objects], labels),
            negatives=targets_of(absent, labels) if unknown else None,
            splits=np.array(list(split_of.values())),
            choose_unseen=self.unseen,
            protocols={"labelled" if self.unseen else "all": protocol},
            protocol="labelled" if self.unseen else "all",
            facts={
                "images": len(objects),
                "labels_on_difficult_objects_only": unknown,
                "train_split": "the official trainval" if self.trainval else "the official train",
                "test_split": f"the official {test_list}",
            },
        )


@dataclass(frozen=True)
class Objects:
    """Labels of an image: the ones it shows, and the ones whose objects are all difficult."""

    shown: frozenset[str]
    unknown: frozenset[str] = frozenset()


def _find_year(source: Path, year: int | None) -> tuple[Path, int]:
    """Return the folder of a year and the year."""
    if not source.is_dir():
        raise UserError(f"no folder at {source}: expected PASCAL VOC; {_DOWNLOAD}")
    for one in YEARS if year is None else (year,):
        for folder in (source, source / f"VOC{one}", source / "VOCdevkit" / f"VOC{one}"):
            if folder.resolve().name == f"VOC{one}" and (folder / "ImageSets" / "Main").is_dir():
                return folder, one
    wanted = "VOC2007 or VOC2012" if year is None else f"VOC{year}"
    raise UserError(f"{source} has no folder {wanted} with ImageSets/Main: {_DOWNLOAD}")


def _read_splits(folder: Path, year: int, trainval: bool) -> tuple[dict[str, str], str]:
    """Return {image: split} in the order of the lists, and the name of the list that is the test split.

    The annotation of VOC 2012's test images is not public: without it, val is the test split, as is common.
    """
    has_test = year == 2007 or _has_annotated_test(folder)
    if trainval and not has_test:
        raise UserError(
            f"--trainval needs the annotation of test images, which {folder} lacks: without it, val is the test split"
        )
    if has_test:
        lists = {"trainval": "train", "test": "test"} if trainval else {"train": "train", "val": "val", "test": "test"}
    else:
        lists = {"train": "train", "val": "test"}
    split_of: dict[str, str] = {}
    for name, split in lists.items():
        for image in _read_list(folder / "ImageSets" / "Main" / f"{name}.txt", split_of):
            split_of[image] = split
    return split_of, "test" if has_test else "val"


def _has_annotated_test(folder: Path) -> bool:
    listed = folder / "ImageSets" / "Main" / "test.txt"
    return listed.is_file() and any(
        (folder / "Annotations" / f"{image}.xml").is_file() for _, image in numbered_lines(listed)
    )


def _read_list(path: Path, before: dict[str, str]) -> list[str]:
    """Return the images of a list; an image in an earlier list is an error."""
    if not path.is_file():
        raise UserError(f"there is no {path}: {_DOWNLOAD}")
    first: dict[str, int] = {}
    for number, image in numbered_lines(path):
        fault = path_fault(image) or ("expected one image per line, without its suffix" if " " in image else None)
        if fault:
            raise UserError(f"{path}:{number}: {fault}")
        if image in first:
            raise UserError(f"{path}:{number}: the image {image!r} is already listed in line {first[image]}")
        if image in before:
            raise UserError(f"{path}:{number}: the image {image!r} is already in the {before[image]} list")
        first[image] = number
    return list(first)


def _read_annotations(folder: Path, images: list[str], count_difficult: bool) -> list[Objects]:
    """Return the labels of each image."""
    files = [folder / "Annotations" / f"{image}.xml" for image in images]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{folder / 'Annotations'} lacks {len(missing):,} of {len(files):,} files of the image lists: "
            f"{some(missing)}; {_DOWNLOAD}"
        )
    return [_read_objects(file, count_difficult) for file in files]


def _read_objects(path: Path, count_difficult: bool) -> Objects:
    clear: set[str] = set()
    difficult: set[str] = set()
    for place, one in enumerate(_parse(path).findall("object"), start=1):
        name, mark = (one.findtext(key, "").strip() for key in ("name", "difficult"))
        if name not in CLASSES:
            raise UserError(f"{path}: object {place}: expected one of VOC's {len(CLASSES)} classes, got {name[:50]!r}")
        if mark not in ("", "0", "1"):
            raise UserError(f"{path}: object {place}: expected 'difficult' to be 0 or 1, got {mark[:50]!r}")
        (difficult if mark == "1" and not count_difficult else clear).add(CLASSES[name])
    return Objects(frozenset(clear), frozenset(difficult - clear))


class _PlainTree(ElementTree.TreeBuilder):
    """Build a tree, but refuse a document type, since only that can declare entities that grow when expanded."""

    def doctype(self, *_: Any) -> None:
        raise UserError("contains a document type (<!DOCTYPE ...>), which VOC's files do not have")


def _parse(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_PlainTree())).getroot()
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise UserError(f"{path}:{line}: is not valid XML: {error.msg.partition(':')[0]}") from None
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except (LookupError, ValueError) as error:
        raise UserError(f"{path} is not readable XML: {error}") from None
    if root.tag != "annotation":
        raise UserError(f"{path}: expected an element 'annotation', got {root.tag[:50]!r}")
    return root

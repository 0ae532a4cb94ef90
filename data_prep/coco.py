"""Read MS-COCO 2014 and 2017 as a multi-label data set, with or without unseen classes.

An image has a class if it has any annotation of that class, including crowd regions (``iscrowd``), as in the released
ML-Decoder code. The official val images are the test split; a validation split is cut from train.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data_prep.json_files import by_id, read_lists, whole_number
from data_prep.source import VECTORS_OF_PAPERS, Found, Protocol, Source, targets_of
from zsl_tagger.choices import CocoTask
from zsl_tagger.errors import UserError, require

TASKS = get_args(CocoTask)
YEARS = (2014, 2017)
_OFFICIAL = {"train": "train", "test": "val"}

#: In the order of their category ids.
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

#: Unseen classes. 48/17: Bansal et al. 2018, "Zero-Shot Object Detection"; it uses 65 of the 80 classes, so the seen
#: ones are listed too. 65/15: Rahman et al. 2020, "Improved Visual-Semantic Alignment for Zero-Shot Object
#: Detection"; all other classes are seen.
UNSEEN = {
    "zsl-48-17": (
        "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup",
        "knife", "cake", "couch", "keyboard", "sink", "scissors",
    ),
    "zsl-65-15": (
        "airplane", "train", "parking meter", "cat", "bear", "suitcase", "frisbee", "snowboard", "fork", "sandwich",
        "hot dog", "toilet", "mouse", "toaster", "hair drier",
    ),
}  # fmt: skip
NOT_IN_48_17 = (
    "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat",
    "baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table", "cell phone",
    "teddy bear", "hair drier",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Coco(Source):
    """Options of MS-COCO.

    Attributes:
        source: folder with ``annotations/instances_{train,val}{year}.json`` and ``{train,val}{year}/`` (or
            ``images/{train,val}{year}/``).
        task: "multi-label" (80 classes), "zsl-48-17" or "zsl-65-15". In the last two, training images that show an
            unseen class are left out, as in the papers of these splits.
        year: 2014 or 2017; None for the year that is found, 2014 if both are.
        keep_unlabelled: keep images without any annotation; otherwise they are dropped, as in the released code.
    """

    command = "coco"

    task: CocoTask = "multi-label"
    year: int | None = None
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"expected --task to be one of {', '.join(TASKS)}; got {self.task!r}")
        if self.year is not None and self.year not in YEARS:
            raise UserError(f"expected --year of 2014 or 2017, got {self.year}")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "year": self.year or _find_year(self.source)}

    def read(self, _output: Path, /) -> Found:
        year = self.year or _find_year(self.source)
        parts = {split: _read_instances(self.source, official, year) for split, official in _OFFICIAL.items()}
        labels = sorted(set(CLASSES) - set(NOT_IN_48_17 if self.task == "zsl-48-17" else ()))
        unseen = UNSEEN.get(self.task, ())
        paths, label_lists, splits, dropped = [], [], [], []
        for split, images in parts.items():
            for path, classes in images.items():
                if split == "train" and classes & set(unseen):
                    dropped.append((path, "training image that shows an unseen class"))
                    continue
                paths.append(path)
                label_lists.append(sorted(classes & set(labels)))
                splits.append(split)
        return Found(
            name=f"MS-COCO {year} {self.task}",
            image_root=_image_root(self.source, year).resolve(),
            paths=paths,
            labels=labels,
            targets=targets_of(label_lists, labels),
            splits=np.array(splits),
            unseen=unseen,
            benchmark=f"benchmark_coco_{self.task.replace('-', '_')}.json",
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts=_facts(parts, year, set(unseen)),
            dropped=dropped,
            vectors_of_papers=VECTORS_OF_PAPERS if unseen else "",
        )


def _facts(parts: dict[str, dict[str, set[str]]], year: int, unseen: set[str]) -> dict[str, Any]:
    """Return the entries of ``dataset.json`` about the official splits."""
    return {
        "images_annotated": {split: sum(bool(c) for c in images.values()) for split, images in parts.items()},
        "images_without_annotation": {split: sum(not c for c in images.values()) for split, images in parts.items()},
        "iscrowd": "crowd regions count as the class they show",
        "test_images_with_unseen_class": sum(bool(c & unseen) for c in parts["test"].values()),
        "test_split": f"the official val{year}",
    }


def _find_year(source: Path) -> int:
    if not source.is_dir():
        raise UserError(f"no folder at {source}: expected COCO's annotations and images")
    for year in YEARS:
        if (source / "annotations" / f"instances_train{year}.json").is_file():
            return year
    raise UserError(
        f"{source} has neither annotations/instances_train2014.json nor annotations/instances_train2017.json: "
        "expected the unpacked annotations of COCO 2014 or 2017"
    )


def _image_root(source: Path, year: int) -> Path:
    return source / "images" if (source / "images" / f"val{year}").is_dir() else source


def _read_instances(source: Path, official: str, year: int) -> dict[str, set[str]]:
    """Return {image path: names of the classes on it} of one official split, in the order of image ids."""
    file = source / "annotations" / f"instances_{official}{year}.json"
    if not file.is_file():
        raise UserError(f"{source} lacks annotations/{file.name}")
    content = read_lists(file, ("images", "annotations", "categories"), "a COCO instances file")
    names = by_id(file, content["categories"], "category", "name")
    if set(names.values()) != set(CLASSES):
        other = sorted(set(names.values()) ^ set(CLASSES))
        raise UserError(f"{file}: expected the {len(CLASSES)} classes of COCO; these differ: {', '.join(other[:10])}")
    images = by_id(file, content["images"], "image", "file_name")
    for place, annotation in enumerate(content["annotations"]):
        which = f"annotation {annotation.get('id', f'number {place}')}"
        image, category = (whole_number(file, annotation, key, which) for key in ("image_id", "category_id"))
        if image not in images:
            raise UserError(f"{file}: {which} is on image {image}, which is not among its {len(images):,} images")
        if category not in names:
            raise UserError(f"{file}: {which} has category {category}, which is not among its {len(names)} categories")
    of_image = _index(content)
    return {
        f"{official}{year}/{images[number]}": {names[int(one["category_id"])] for one in of_image.get(number, ())}
        for number in sorted(images)
    }


def _index(content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Return {image id: its annotations} of a file whose ids have been checked."""
    require("pycocotools", "train")
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
    return coco.imgToAnns

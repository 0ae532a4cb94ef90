"""MS-COCO 2014 and 2017 as a multi-label data set, closed or with unseen classes.

An image has a class if any annotation of that class lies on it, crowd regions (``iscrowd``) included, as the released
ML-Decoder code takes it. The official val images are the test split; a validation split is cut from train.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.output import OutputFolder
from data_prep.pipeline import Found, Options, Protocol, build, targets_of, vectors_for
from zsl_tagger.errors import UserError

TASKS = ("multi-label", "zsl-48-17", "zsl-65-15")
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

#: Unseen classes. 48/17: Bansal et al. 2018, "Zero-Shot Object Detection"; its vocabulary is 65 of the 80 classes, the
#: seen ones are listed too. 65/15: Rahman et al. 2020, "Improved Visual-Semantic Alignment for Zero-Shot Object
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


def prepare_coco(
    source: Path, output: Path, options: Options, task: str = "multi-label", year: int | None = None,
    keep_unlabelled: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """``prepare coco``.

    Args:
        source: folder with ``annotations/instances_{train,val}{year}.json`` and ``{train,val}{year}/`` (or
            ``images/{train,val}{year}/``).
        task: "multi-label" (80 classes), "zsl-48-17" or "zsl-65-15". In the last two, training images that show an
            unseen class are left out, as in the papers of these splits.
        year: 2014 or 2017; None for the one that is there, 2014 if both are.
        keep_unlabelled: keep images without any annotation; otherwise they are dropped, as in the released code.

    Returns:
        The content of ``dataset.json``.
    """
    if task not in TASKS:
        raise UserError(f"expected --task of {', '.join(TASKS)}; got {task!r}")
    year = _find_year(source) if year is None else year
    if year not in YEARS:
        raise UserError(f"expected --year of 2014 or 2017, got {year}")
    parts = {split: _read_instances(source, official, year) for split, official in _OFFICIAL.items()}
    labels = sorted(set(CLASSES) - set(NOT_IN_48_17 if task == "zsl-48-17" else ()))
    unseen = UNSEEN.get(task, ())
    identity = {"prepare": "coco", "source": str(source.resolve()), "task": task, "year": year,
                "keep_unlabelled": keep_unlabelled, **options.identity()}  # fmt: skip
    out = OutputFolder(output, identity, options.overwrite)
    vectors = vectors_for(labels, options)
    paths, label_lists, splits, dropped = [], [], [], []
    for split, images in parts.items():
        for path, classes in images.items():
            if split == "train" and classes & set(unseen):
                dropped.append((path, "training image that shows an unseen class"))
                continue
            paths.append(path)
            label_lists.append(sorted(classes & set(labels)))
            splits.append(split)
    protocol = Protocol(False, "nothing") if keep_unlabelled else Protocol()
    found = Found(
        name=f"MS-COCO {year} {task}",
        image_root=_image_root(source, year).resolve(),
        paths=paths,
        labels=labels,
        targets=targets_of(label_lists, labels),
        splits=np.array(splits),
        unseen=unseen,
        benchmark=f"benchmark_coco_{task.replace('-', '_')}.json",
        protocols={"labelled": protocol},
        facts={
            "images annotated": {split: sum(bool(c) for c in imgs.values()) for split, imgs in parts.items()},
            "images without annotation": {split: sum(not c for c in imgs.values()) for split, imgs in parts.items()},
            "iscrowd": "crowd regions count as the class they show",
            "test images with an unseen class": sum(bool(c & set(unseen)) for c in parts["test"].values()),
            "test split": f"the official val{year}",
        },
        dropped=dropped,
    )
    with out.claimed():
        return build(found, vectors, out, options)


def _find_year(source: Path) -> int:
    if not source.is_dir():
        raise UserError(f"no folder at {source}: expected COCO's annotations and images")
    for year in YEARS:
        if (source / "annotations" / f"instances_train{year}.json").is_file():
            return year
    raise UserError(
        f"{source} lacks annotations/instances_train2014.json or annotations/instances_train2017.json: "
        "expected the unpacked annotations of COCO 2014 or 2017"
    )


def _image_root(source: Path, year: int) -> Path:
    return source / "images" if (source / "images" / f"val{year}").is_dir() else source


def _read_instances(source: Path, official: str, year: int) -> dict[str, set[str]]:
    """{image path: names of the classes on it} of one official split, in the order of image ids."""
    from pycocotools.coco import COCO

    file = source / "annotations" / f"instances_{official}{year}.json"
    if not file.is_file():
        raise UserError(f"{source} lacks annotations/{file.name}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says how long it took
            coco = COCO(str(file))
        listed = coco.dataset["images"]
        if len({image["id"] for image in listed}) < len(listed):
            raise UserError(f"{file}: an image id is given twice")
        class_name = {int(category["id"]): str(category["name"]) for category in coco.dataset["categories"]}
        images = {int(image["id"]): f"{official}{year}/{image['file_name']}" for image in listed}
        found: dict[str, set[str]] = {images[number]: set() for number in sorted(images)}
        for annotation in coco.dataset["annotations"]:
            found[images[annotation["image_id"]]].add(class_name[annotation["category_id"]])
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: is not valid JSON: {error.msg}") from None
    except Exception as error:  # whatever a file of another kind leads to
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{file} is not a COCO instances file: {what}") from None
    if set(class_name.values()) != set(CLASSES):
        other = sorted(set(class_name.values()) ^ set(CLASSES))
        raise UserError(f"{file}: expected the {len(CLASSES)} classes of COCO; these differ: {', '.join(other[:10])}")
    return found

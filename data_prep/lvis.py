"""Read LVIS v1: 1,203 object categories on COCO's photos, where each photo was checked for a few only.

An annotated category is present, even if not all of its instances are annotated (``not_exhaustive_category_ids``);
categories in ``neg_category_ids`` are verified to be absent; all others are unknown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data_prep.json_files import by_id, is_whole, read_lists, whole_number
from data_prep.source import Found, Protocol, Source, first_existing, targets_of
from zsl_tagger.choices import LvisTask
from zsl_tagger.errors import UserError, some

TASKS = get_args(LvisTask)

#: The official val images are the test split, as in COCO; a validation split is cut from train.
_OFFICIAL = {"train": "train", "test": "val"}

_FOLDERS = ("annotations", ".", "lvis", "lvis_v1")
_DOWNLOAD = "unpack lvis_v1_train.json.zip and lvis_v1_val.json.zip from https://www.lvisdataset.org/dataset"
_URL = re.compile(r"(?:.*/)?((?:train|val|test)2017/[0-9]+\.jpg)")


@dataclass(frozen=True, kw_only=True)
class Lvis(Source):
    """Options of LVIS.

    Attributes:
        source: folder with ``lvis_v1_{train,val}.json`` (or in ``annotations/``) and COCO 2017's ``train2017/`` and
            ``val2017/`` (or ``images/...``).
        task: "multi-label", or "zsl-rare": the rare categories are unseen, as in open-vocabulary detection (ViLD).
        keep_unlabelled: keep images without any annotation.
    """

    command = "lvis"

    task: LvisTask = "multi-label"
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"expected --task to be one of {', '.join(TASKS)}; got {self.task!r}")

    def read(self, _output: Path, /) -> Found:
        parts = {split: _Part.read(_find(self.source, official)) for split, official in _OFFICIAL.items()}
        train, test = parts["train"], parts["test"]
        if train.names != test.names:
            raise UserError(f"the categories of {train.file} and {test.file} differ: they are from different versions")
        images = [(split, part, image) for split, part in parts.items() for image in sorted(part.paths)]
        labels = sorted(train.names.values())
        if self.task == "zsl-rare" and not train.rare:
            raise UserError(f"{train.file}: no category has the frequency 'r', so --task zsl-rare has no unseen label")
        return Found(
            name=f"LVIS v1 {self.task}",
            image_root=(self.source / "images" if (self.source / "images").is_dir() else self.source).resolve(),
            paths=[part.paths[image] for _, part, image in images],
            labels=labels,
            targets=targets_of([sorted(part.shown[image]) for _, part, image in images], labels),
            negatives=targets_of([sorted(part.absent[image]) for _, part, image in images], labels),
            splits=np.array([split for split, _, _ in images]),
            unseen=train.rare if self.task == "zsl-rare" else (),
            benchmark=f"benchmark_lvis_{self.task.replace('-', '_')}.json",
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts={
                "categories": len(labels),
                "rare_categories": len(train.rare),
                "images": {split: len(part.paths) for split, part in parts.items()},
                "labels_not_exhaustively_annotated": {split: part.not_exhaustive for split, part in parts.items()},
                "test_split": "the official val",
            },
        )


@dataclass(frozen=True)
class _Part:
    """Content of one annotation file.

    Attributes:
        names: category id -> label.
        rare: labels of the rare categories.
        paths: image id -> path.
        shown, absent: image id -> labels.
        not_exhaustive: number of pairs of an image and a label that it shows in more places than are annotated.
    """

    file: Path
    names: dict[int, str]
    rare: list[str]
    paths: dict[int, str]
    shown: dict[int, set[str]]
    absent: dict[int, set[str]]
    not_exhaustive: int

    @classmethod
    def read(cls, file: Path) -> _Part:
        content = read_lists(file, ("images", "annotations", "categories"), "an LVIS file", _without_shapes)
        names = {number: name.replace("_", " ") for number, name in _names(file, content["categories"]).items()}
        rare = [names[int(one["id"])] for one in content["categories"] if one.get("frequency") == "r"]
        paths = {
            number: _path(file, number, url)
            for number, url in by_id(file, content["images"], "image", "coco_url").items()
        }
        shown: defaultdict[int, set[str]] = defaultdict(set)
        for place, annotation in enumerate(content["annotations"]):
            which = f"annotation {annotation.get('id', f'number {place}')}"
            image, category = (whole_number(file, annotation, key, which) for key in ("image_id", "category_id"))
            if image not in paths:
                raise UserError(f"{file}: {which} is on image {image}, which is not among its {len(paths):,} images")
            shown[image].add(_name(file, names, category, which))
        absent: dict[int, set[str]] = {}
        not_exhaustive = 0
        for entry in content["images"]:
            absent[int(entry["id"])] = _categories(file, names, entry, "neg_category_ids")
            not_exhaustive += len(_categories(file, names, entry, "not_exhaustive_category_ids"))
        return cls(file, names, sorted(rare), paths, shown, absent, not_exhaustive)


def _without_shapes(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without the outlines of objects, which make up nine tenths of the file."""
    entry.pop("segmentation", None)
    entry.pop("bbox", None)
    return entry


def _names(file: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    names = by_id(file, categories, "category", "name")
    repeated = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if repeated:
        raise UserError(f"{file}: several categories have the name {some(repeated)}")
    return names


def _path(file: Path, number: int, url: str) -> str:
    """Return a path such as ``train2017/000000391895.jpg`` from an image's URL, since v1 has no file names."""
    found = _URL.fullmatch(url)
    if not found:
        raise UserError(
            f"{file}: image {number}: expected 'coco_url' to end in train2017/<number>.jpg or val2017/<number>.jpg, "
            f"got {url[:80]!r}"
        )
    return found[1]


def _categories(file: Path, names: dict[int, str], image: dict[str, Any], key: str) -> set[str]:
    """Return the labels of the ids that an image lists under a key."""
    which, listed = f"image {image['id']}", image.get(key)
    if not isinstance(listed, list) or not all(is_whole(number) for number in listed):
        raise UserError(f"{file}: {which}: expected a list of category ids {key!r}, got {str(listed)[:50]}")
    return {_name(file, names, int(number), f"{which}: {key!r}") for number in listed}


def _name(file: Path, names: dict[int, str], category: int, which: str) -> str:
    if category not in names:
        raise UserError(f"{file}: {which} has category {category}, which is not among its {len(names):,} categories")
    return names[category]


def _find(source: Path, official: str) -> Path:
    if not source.is_dir():
        raise UserError(f"no folder at {source}: expected LVIS v1 and COCO 2017's photos; {_DOWNLOAD}")
    found = first_existing(source, (f"{folder}/lvis_v1_{official}.json" for folder in _FOLDERS))
    if found is None:
        raise UserError(f"{source} lacks annotations/lvis_v1_{official}.json: {_DOWNLOAD}")
    return found

"""Read trees with one folder per class: ImageNet, Caltech-101, your own; also packed CIFAR-100 and Stanford-Cars.

``SOURCE/<class>/...jpg``, or ``SOURCE/<split>/<class>/...jpg`` with splits named train, val and test (or valid,
validation, testing, ...). Folders named by WordNet ids (n01440764) get the name of the synset.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data_prep.archives import Listed, Listing, read_packed
from data_prep.source import Found, Source, targets_of
from zsl_tagger.choices import FoldersTask
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError, require
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.words.label_lists import composed

logger = logging.getLogger(__name__)

TASKS = get_args(FoldersTask)

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

#: Two ImageNet classes whose synsets share their only name.
_CRANES = {"n02012849": "crane bird", "n03126707": "construction crane"}

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class Folders(Source):
    """Options of a folder tree with one folder per class.

    Attributes:
        task: "single-label" (one class per image) or "multi-label" (the class is the only known tag).
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
        exclude_path: globs of files and folders to leave out.
    """

    command = "folders"

    task: FoldersTask = "single-label"
    unseen: str = ""
    exclude_path: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"expected --task to be one of {', '.join(TASKS)}; got {self.task!r}")

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        if not self.exclude_path:
            del identity["exclude_path"]  # missing in older folders
        return identity

    def read(self, output: Path, /) -> Found:
        if not self.source.is_dir():
            raise UserError(f"no folder at {self.source}")
        if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(self.source)):
            raise UserError(f"--output {output} is inside --source {self.source}: give a folder outside of it")
        listing = read_packed(self.source, output / "images") or _walk_splits(self.source, self.exclude_path)
        names = class_names(sorted({image.class_name for image in listing.images}))
        labels = sorted(names.values())
        return Found(
            name=self.source.resolve().name,
            image_root=listing.image_root.resolve(),
            paths=[image.path for image in listing.images],
            labels=labels,
            targets=targets_of([[names[image.class_name]] for image in listing.images], labels),
            splits=np.array([image.split for image in listing.images], "<U5"),
            choose_unseen=self.unseen,
            task=self.task,
            facts={"classes": len(labels), "images": len(listing.images)},
            dropped=list(listing.dropped),
            unpack=listing.unpack,
        )


def _walk_splits(source: Path, exclude: Sequence[str]) -> Listing:
    selection = Selection(exclude)
    root, split_folders = _find_splits(source, selection)
    splits = {split for split, _ in split_folders}
    as_test = "val" in splits and "test" not in splits
    if as_test:
        logger.info("no test folder found: val becomes the test split, and a validation split is cut from train")
    images, dropped = [], []
    for split, folder in split_folders:
        for path, class_folder, problem in _walk(root, folder, selection):
            if problem:
                dropped.append((path, problem))
            else:
                images.append(Listed(path, class_folder, "test" if as_test and split == "val" else split))
    if left_out := selection.summary():
        logger.info("%s", left_out)
    if not images:
        raise UserError(
            f"{source} has no images in class folders: expected SOURCE/<class>/*.jpg or SOURCE/train/<class>/*.jpg"
        )
    return Listing(root, images, dropped)


def _find_splits(source: Path, selection: Selection) -> tuple[Path, list[tuple[str, Path]]]:
    """Return (image root, [(split, its folder)]); the split is "" if the root contains the class folders."""
    root = source
    while True:
        folders = _folders_in(root, selection)
        named = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in folders if folder.name.lower() in SPLIT_NAMES]
        if named:
            splits = {folder for _, folder in named}
            others = [folder.name for folder in folders if folder not in splits and _has_images(folder, selection)]
            if others:
                raise UserError(
                    f"{root} has folders named as splits ({', '.join(sorted(f.name for f in splits))}) and others "
                    f"with images ({', '.join(others[:5])}): rename the class, or move the other folders"
                )
            return root, named
        if len(folders) == 1 and _folders_in(folders[0], selection):  # the single outer folder of an archive
            root = folders[0]
            continue
        return root, [("", root)]


def _has_images(folder: Path, selection: Selection) -> bool:
    uncounted = Selection(selection.exclude)
    return any(isinstance(item, str) for item in find_images([str(folder)], selection=uncounted))


def _folders_in(folder: Path, selection: Selection) -> list[Path]:
    shown = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry for entry in shown if not selection.leaves_out(str(entry)))


def _walk(root: Path, folder: Path, selection: Selection) -> Iterator[tuple[str, str, str | None]]:
    """Yield (path below the root, class folder, None or the reason for skipping) for every image."""
    for item in find_images([str(folder)], selection=selection):
        if not isinstance(item, str):
            yield _printable(item.path), "", item.error
            continue
        path = Path(item)
        relative, parts = path.relative_to(root).as_posix(), path.relative_to(folder).parts
        if len(parts) < 2:
            yield _printable(relative), "", "not in a class folder"
        elif path_fault(relative):
            yield _printable(relative), "", "file name that cannot be written to data.csv"
        else:
            yield relative, composed(parts[0]), None  # macOS uses a different Unicode form


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def class_names(folders: list[str]) -> dict[str, str]:
    """Return {folder name: label}: underscores become spaces, WordNet ids become the synset's name.

    If synsets share their first name, each one with another name gets that name; no label is used twice.
    """
    names = {folder: [" ".join(folder.replace("_", " ").split())] for folder in folders}
    names |= {folder: _synset_names(folder) for folder in folders if _WNID.fullmatch(folder)}
    count = Counter(options[0] for options in names.values())
    chosen: dict[str, str] = {}
    for folder in sorted(folders, key=lambda folder: (len(names[folder]), folder)):
        options = names[folder] if count[names[folder][0]] == 1 else names[folder][::-1]
        free = [name for name in options if name not in chosen.values()]
        chosen[folder] = free[0] if free else f"{options[0]} ({folder})"
    return chosen


def _synset_names(wnid: str) -> list[str]:
    if wnid in _CRANES:
        return [_CRANES[wnid]]
    try:
        return _imagenet_22k().label_name_to_description(wnid).split(", ")
    except (KeyError, AssertionError):
        return [wnid]


@lru_cache(maxsize=1)
def _imagenet_22k() -> Any:
    """Return timm's names of 22,000 synsets; reading them takes 30 ms."""
    require("timm", "train")
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-22k")

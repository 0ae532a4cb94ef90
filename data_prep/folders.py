"""Class-per-folder trees: ImageNet, Caltech-101, one's own; CIFAR-100 and Stanford-Cars also as they are packed.

``SOURCE/<class>/...jpg``, or ``SOURCE/<split>/<class>/...jpg`` with splits named train, val and test (or valid,
validation, testing, ...). Folders named by WordNet ids (n01440764) get the name of the synset.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.archives import Listed, is_packed, read_packed
from data_prep.output import OutputFolder
from data_prep.pipeline import Found, Options, build, targets_of, vectors_for
from data_prep.splits import choose_unseen
from zsl_tagger.datasets.format import path_fault
from zsl_tagger.errors import UserError, require
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.words.label_lists import composed

TASKS = ("single-label", "multi-label")

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

#: Two ImageNet classes whose synsets have one and the same single name.
_CRANES = {"n02012849": "crane bird", "n03126707": "construction crane"}

_WNID = re.compile(r"n\d{8}")


def prepare_folders(
    source: Path, output: Path, options: Options, task: str = "single-label", unseen: str = ""
) -> dict[str, Any]:
    """``prepare folders``.

    Args:
        task: "single-label" (one class an image) or "multi-label" (the class is the one tag that is known).
        unseen: labels that training shall not see, see :func:`data_prep.splits.choose_unseen`.

    Returns:
        The content of ``dataset.json``.
    """
    if task not in TASKS:
        raise UserError(f"expected --task of {', '.join(TASKS)}; got {task!r}")
    if not source.is_dir():
        raise UserError(f"no folder at {source}")
    identity = {"prepare": "folders", "source": str(source.resolve()), "task": task, "unseen": unseen,
                **options.identity()}  # fmt: skip
    listing = None if is_packed(source) else _walk_splits(source, options)
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise UserError(f"--output {output} lies in --source {source}: give a folder outside of it")
    out = OutputFolder(output, identity, options.overwrite)
    with out.claimed():
        root, images, dropped = listing or (*read_packed(source, output / "images"), [])
        return _build(source, root, images, dropped, out, options, task, unseen)


def _build(
    source: Path,
    root: Path,
    images: list[Listed],
    dropped: list[tuple[str, str]],
    out: OutputFolder,
    options: Options,
    task: str,
    unseen: str,
) -> dict[str, Any]:
    names = class_names(sorted({image.class_name for image in images}))
    labels = sorted(names.values())
    vectors = vectors_for(labels, options)
    found = Found(
        name=source.resolve().name,
        image_root=root.resolve(),
        paths=[image.path for image in images],
        labels=labels,
        targets=targets_of([[names[image.class_name]] for image in images], labels),
        splits=np.array([image.split for image in images], "<U5"),
        unseen=choose_unseen(unseen, vectors.labels, options.seed),
        task=task,
        facts={"classes": len(labels), "images": len(images)},
        dropped=dropped,
    )
    return build(found, vectors, out, options)


def _walk_splits(source: Path, options: Options) -> tuple[Path, list[Listed], list[tuple[str, str]]]:
    """(image root, images, (path, why) of what is left out)."""
    selection = Selection(options.exclude_path)
    root, split_folders = _find_splits(source, selection)
    splits = {split for split, _ in split_folders}
    as_test = "val" in splits and "test" not in splits
    if as_test:
        options.note("there is no test folder: val becomes the test split, and a validation split is cut from train")
    images, dropped = [], []
    for split, folder in split_folders:
        for path, class_folder, problem in _walk(root, folder, selection):
            if problem:
                dropped.append((path, problem))
            else:
                images.append(Listed(path, class_folder, "test" if as_test and split == "val" else split))
    if left_out := selection.summary():
        options.note(left_out)
    if not images:
        raise UserError(
            f"{source} holds no images in class folders: expected SOURCE/<class>/*.jpg or SOURCE/train/<class>/*.jpg"
        )
    return root, images, dropped


def _find_splits(source: Path, selection: Selection) -> tuple[Path, list[tuple[str, Path]]]:
    """(image root, [(split, its folder)]); the split is "" where the class folders lie in the root."""
    root = source
    while True:
        folders = _folders_in(root, selection)
        named = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in folders if folder.name.lower() in SPLIT_NAMES]
        if named:
            splits = {folder for _, folder in named}
            others = [folder.name for folder in folders if folder not in splits and _has_images(folder, selection)]
            if others:
                raise UserError(
                    f"{root} has folders named as splits ({', '.join(sorted(f.name for f in splits))}) and others with "
                    f"images ({', '.join(others[:5])}): rename a class that is called so, or move the others away"
                )
            return root, named
        if len(folders) == 1 and _folders_in(folders[0], selection):  # an archive's one outer folder
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
    """(path below the root, class folder, None or why the image is left out) of every image."""
    for item in find_images([str(folder)], selection=selection):
        if not isinstance(item, str):
            yield _printable(item.path), "", item.error
            continue
        path = Path(item)
        relative, parts = path.relative_to(root).as_posix(), path.relative_to(folder).parts
        if len(parts) < 2:
            yield _printable(relative), "", "lies in no class folder"
        elif path_fault(relative):
            yield _printable(relative), "", "file name that data.csv cannot hold"
        else:
            yield relative, composed(parts[0]), None  # macOS writes names in another Unicode form


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def class_names(folders: list[str]) -> dict[str, str]:
    """Folder name -> label: underscores become spaces, WordNet ids become the synset's name.

    Of synsets with the same first name, those that have another name get that; a name is never given twice.
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
    """timm's names of 22,000 synsets; to read them takes 30 ms."""
    require("timm", "train")
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-22k")

"""Read Visual Genome: names that people gave to objects on 108,000 photos.

The annotators chose the names freely. Common label sets are the most frequent object names (the 500 of VG-500), or
lists that map several names to one label, such as the lists of bottom-up attention (1,600 objects, 400 attributes).
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.json_files import is_list_of_objects, read_json, whole_number
from data_prep.source import Found, Protocol, Source, targets_of
from data_prep.text import numbered_lines
from zsl_tagger.datasets.format import label_fault
from zsl_tagger.errors import UserError, some
from zsl_tagger.words.label_lists import composed

logger = logging.getLogger(__name__)

_HOST = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
_URL = re.compile(r"(?:.*/)?(VG_100K(?:_2)?/[0-9]+\.jpg)")

Names = dict[int, set[str]]  # image id -> names on it


@dataclass(frozen=True, kw_only=True)
class VisualGenome(Source):
    """Options of Visual Genome.

    Attributes:
        source: folder with ``image_data.json``, ``objects.json`` and, for attributes, ``attributes.json``;
            the photos are in ``VG_100K/`` and ``VG_100K_2/`` (or ``images/...``).
        objects: labels among the names of objects: a number of the most frequent ones, or a file with one label per
            line, optionally followed by its other names after commas.
        attributes: labels among the attributes, in the same way; "0" for none.
        test_images: a file with the numbers or file names of the test images, one per line; None to draw them.
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
        keep_unlabelled: keep images without labels.
    """

    command = "visual-genome"

    objects: str = "500"
    attributes: str = "0"
    test_images: Path | None = None
    unseen: str = ""
    keep_unlabelled: bool = False

    def identity(self) -> dict[str, Any]:
        files = {
            option: value if _is_number(value) else str(Path(value).resolve())
            for option, value in (("objects", self.objects), ("attributes", self.attributes))
        }
        return {**super().identity(), **files}

    def read(self, _output: Path, /) -> Found:
        paths, root = _read_paths(self.source)
        kinds = (("objects", self.objects), ("attributes", self.attributes))
        shown: dict[int, set[str]] = {number: set() for number in paths}
        labels: set[str] = set()
        for kind, requested in kinds:
            if requested != "0":
                chosen, on_images = _labelled(self.source / f"{kind}.json", kind, requested, paths)
                labels |= chosen
                for number, names in on_images.items():
                    shown[number] |= names
        if not labels:
            raise UserError("expected --objects or --attributes to give labels, got 0 for both")
        numbers, columns = sorted(paths), sorted(labels)
        return Found(
            name="Visual Genome",
            image_root=root.resolve(),
            paths=[paths[number] for number in numbers],
            labels=columns,
            targets=targets_of([sorted(shown[number]) for number in numbers], columns),
            splits=self._splits(numbers),
            choose_unseen=self.unseen,
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts={"images": len(numbers), "labels": len(labels)},
        )

    def _splits(self, numbers: list[int]) -> np.ndarray:
        """Return "test" or "train" for each image by the file of test images; "" without a file."""
        if self.test_images is None:
            return np.full(len(numbers), "", "<U5")
        test, known = set(), set(numbers)
        if not self.test_images.is_file():
            raise UserError(f"there is no file {self.test_images}: expected a list of the test images")
        for line_number, line in numbered_lines(self.test_images):
            found = re.fullmatch(r"(?:.*/)?([0-9]{1,18})(?:\.jpg)?", line.split()[0])
            if not found or int(found[1]) not in known:
                raise UserError(
                    f"{self.test_images}:{line_number}: expected the number of one of the {len(known):,} images, "
                    f"got {line[:50]!r}"
                )
            test.add(int(found[1]))
        return np.array(["test" if number in test else "train" for number in numbers])


def _read_paths(source: Path) -> tuple[dict[int, str], Path]:
    """Return {image id: path} of all images, and the folder to which the paths are relative."""
    if not source.is_dir():
        raise UserError(f"no folder at {source}: expected Visual Genome, from {_HOST}")
    file = source / "image_data.json"
    root = source / "images" if (source / "images").is_dir() else source
    in_one = (root / "VG_100K").is_dir() and not (root / "VG_100K_2").is_dir()  # both archives unpacked into one folder
    paths = {}
    for entry in _read_list(file):
        number = whole_number(file, entry, "image_id", "an image")
        found = _URL.fullmatch(str(entry.get("url")))
        if not found:
            url = str(entry.get("url"))[:80]
            raise UserError(f"{file}: image {number}: expected 'url' to end in VG_100K/<number>.jpg, got {url!r}")
        if number in paths:
            raise UserError(f"{file}: duplicate image id {number}")
        paths[number] = found[1].replace("VG_100K_2/", "VG_100K/") if in_one else found[1]
    return paths, root


def _read_list(file: Path) -> list[dict[str, Any]]:
    """Return the images of a file of Visual Genome, with the names on them."""
    if not file.is_file():
        raise UserError(f"there is no {file}: unpack {file.name}.zip from {_HOST}")
    content = read_json(file, "a file of Visual Genome", _shortened)
    if not is_list_of_objects(content):
        raise UserError(f"{file} is not a file of Visual Genome: expected a list of objects, one per image")
    return content


def _shortened(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an image unchanged, and only the names of an object, since there are millions of objects."""
    if "image_id" in entry:
        return entry
    return {key: entry[key] for key in ("names", "attributes") if key in entry}


def _labelled(file: Path, kind: str, choice: str, paths: dict[int, str]) -> tuple[set[str], Names]:
    """Return the requested labels, and the labels on each image."""
    counts: Counter[str] = Counter()
    named: Names = {}
    for image in _read_list(file):
        number = whole_number(file, image, "image_id", "an image")
        if number not in paths:
            raise UserError(f"{file}: image {number} is not among the {len(paths):,} images of image_data.json")
        if number in named:
            raise UserError(f"{file}: duplicate image id {number}")
        names = list(_names(file, number, image.get(kind), kind))
        counts.update(names)
        named[number] = set(names)
    label_of = _most_frequent(counts, kind, int(choice)) if _is_number(choice) else _read_labels(Path(choice), kind)
    if not counts.keys() & label_of.keys():
        raise UserError(f"{choice}: none of its {len(label_of):,} names is among the {kind} of {file}")
    return set(label_of.values()), {
        number: {label_of[name] for name in names if name in label_of} for number, names in named.items()
    }


def _names(file: Path, number: int, entries: Any, kind: str) -> Iterator[str]:
    """Yield the first name of each object of an image, or all attributes."""
    if not is_list_of_objects(entries):
        raise UserError(f"{file}: image {number}: expected a list of objects called {kind!r}")
    for entry in entries:
        names = entry.get("names" if kind == "objects" else "attributes") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{file}: image {number}: expected lists of names, got {str(names)[:50]}")
        for name in names[:1] if kind == "objects" else names:
            if plain := _plain(name):
                yield plain


def _plain(name: str) -> str:
    """Return a name in lower case with single spaces; "" if it cannot be a label."""
    plain = " ".join(composed(name).lower().split())
    return "" if label_fault(plain) else plain


def _most_frequent(counts: Counter[str], kind: str, number: int) -> dict[str, str]:
    if number > len(counts):
        raise UserError(f"expected --{kind} of at most {len(counts):,}, the number of names, got {number:,}")
    return {name: name for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:number]}


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", text) is not None


def _read_labels(file: Path, kind: str) -> dict[str, str]:
    """Return {name: its label} of a file with one label per line, followed by its other names after commas."""
    if not file.is_file():
        raise UserError(f"--{kind}: expected a number of labels or a file that lists them; there is no file {file}")
    label_of: dict[str, str] = {}
    repeated = []
    for line_number, line in numbered_lines(file):
        names = [_plain(name) for name in line.split(",")]
        if not all(names):
            raise UserError(f"{file}:{line_number}: expected names between commas, got {line[:50]!r}")
        for name in names:
            if label_of.setdefault(name, names[0]) != names[0]:
                repeated.append(name)
    if not label_of:
        raise UserError(f"{file} has no labels")
    if repeated:
        logger.warning("%s: names of several labels belong to the first (%d): %s", file, len(repeated), some(repeated))
    return label_of

"""Read MIRFLICKR-25k: 25,000 Flickr photos, annotated by people with 24 potential and 14 relevant labels.

A potential label is on every image that shows the thing to some extent; a relevant label only on images in which it
is salient. The archive has no splits, so they are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from data_prep.source import Found, Protocol, Source, first_existing, targets_of
from data_prep.text import numbered_lines
from zsl_tagger.choices import MirflickrLabels
from zsl_tagger.errors import UserError, some

IMAGES = 25_000
RELEVANT = (
    "baby", "bird", "car", "clouds", "dog", "female", "flower", "male", "night", "people", "portrait", "river", "sea",
    "tree",
)  # fmt: skip
POTENTIAL = (
    *RELEVANT, "animals", "food", "indoor", "lake", "plant_life", "sky", "structures", "sunset", "transport", "water",
)  # fmt: skip

_ARCHIVE = "mirflickr25k_annotations_v080"
_ANNOTATIONS = (_ARCHIVE, "annotations", "annotations_v080", f"mirflickr/{_ARCHIVE}", "mirflickr/annotations", ".")
_IMAGES = ("mirflickr", "mirflickr25k", "images")
_DOWNLOAD = f"{_ARCHIVE}.zip from https://press.liacs.nl/mirflickr/mirdownload.html"


@dataclass(frozen=True, kw_only=True)
class Mirflickr(Source):
    """Options of MIRFLICKR-25k.

    Attributes:
        source: folder with the unpacked annotations and ``mirflickr/im*.jpg``.
        labels: "potential" (24), "relevant" (14), or "both" (38; a relevant label is then named e.g. "relevant dog").
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
        keep_unlabelled: keep images that are in no annotation file.
    """

    command = "mirflickr"

    labels: MirflickrLabels = "potential"
    unseen: str = ""
    keep_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.labels not in get_args(MirflickrLabels):
            raise UserError(f"expected --labels of {', '.join(get_args(MirflickrLabels))}; got {self.labels!r}")

    def read(self, _output: Path, /) -> Found:
        folder = self._annotations()
        images = {label: _read_numbers(folder / name) for label, name in self._files().items()}
        root = first_existing(self.source, _IMAGES) or self.source
        numbers = sorted({*_on_disk(root), *(number for shown in images.values() for number in shown)})
        labels = sorted(images)
        label_lists = [[label for label in labels if number in images[label]] for number in numbers]
        return Found(
            name=f"MIRFLICKR-25k {self.labels}",
            image_root=root.resolve(),
            paths=[f"im{number}.jpg" for number in numbers],
            labels=labels,
            targets=targets_of(label_lists, labels),
            splits=np.full(len(numbers), "", "<U5"),
            choose_unseen=self.unseen,
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts={"images": len(numbers), "images_of_each_label": {name: len(images[name]) for name in labels}},
        )

    def _files(self) -> dict[str, str]:
        """Return {label: its annotation file}."""
        potential = {name.replace("_", " "): f"{name}.txt" for name in POTENTIAL}
        prefix = "relevant " if self.labels == "both" else ""
        relevant = {f"{prefix}{name}": f"{name}_r1.txt" for name in RELEVANT}
        return {"potential": potential, "relevant": relevant, "both": potential | relevant}[self.labels]

    def _annotations(self) -> Path:
        """Return the folder of the annotation files after checking that all of them exist."""
        if not self.source.is_dir():
            raise UserError(f"no folder at {self.source}: expected MIRFLICKR-25k, unpacked, with {_DOWNLOAD}")
        folders = [self.source / place for place in _ANNOTATIONS]
        files = list(self._files().values())
        folder = next((one for one in folders if any((one / name).is_file() for name in files)), None)
        if folder is None:
            raise UserError(f"{self.source} has no annotation such as {_ARCHIVE}/{files[0]}: unpack {_DOWNLOAD}")
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks {len(missing)} of {len(files)} files: {some(missing)}; unpack {_DOWNLOAD}")
        return folder


def _read_numbers(path: Path) -> set[int]:
    """Return the image numbers of an annotation file, one per line."""
    numbers = set()
    for line_number, line in numbered_lines(path):
        if not re.fullmatch(r"[0-9]{1,9}", line) or not 1 <= int(line) <= IMAGES:
            raise UserError(
                f"{path}:{line_number}: expected the number of an image, 1 to {IMAGES:,}, got {line[:50]!r}"
            )
        numbers.add(int(line))
    return numbers


def _on_disk(root: Path) -> Iterable[int]:
    """Return the numbers of the images in a folder."""
    names = (re.fullmatch(r"im([1-9][0-9]{0,4})\.jpg", file.name) for file in root.iterdir())
    return [int(name[1]) for name in names if name]

"""Small raw data sets in the layouts of the real ones, made from nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from zsl_tagger.datasets.format import parse_labels
from zsl_tagger.search.store import INDEX_FILE


def write_photo(path: Path, seed: int, side: int = 96) -> None:
    """A picture that no other seed's nearly equals: coarse random blocks, and noise that makes the file large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    blocks = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = np.asarray(blocks.resize((side, side + 7), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(picture + random.integers(-20, 21, picture.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)


def write_photos(folder: Path, prefix: str, count: int) -> list[Path]:
    """Write different photos and return their paths."""
    paths = [folder / f"{prefix}{seed}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_photo(path, seed)
    return paths


def write_crops(folder: Path, photos: Path) -> Path:
    """Write ten different parts of each photo of a folder, and return the folder that they are in."""
    for path in sorted(photos.glob("*.jpg")):
        with Image.open(path) as image:
            side = min(image.size) // 2
            for number in range(10):
                left, top = number % 5 * (image.width - side) // 4, number // 5 * (image.height - side)
                image.crop((left, top, left + side, top + side)).save(folder / f"{path.stem} {number:02d}.png")
    return folder


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


class NusArchive:
    """A small NUS-WIDE archive: 7 tags, 3 concepts (2 of them tags), N images, every other three of them test.

    Attributes:
        tag_rows ``(N, 7)``, concept_rows ``(N, 3)``: 0/1, as written.
    """

    TAGS = ("nature", "sky", "dogs", "water", "boat", "sunset", "car")
    CONCEPTS = ("sky", "dog", "car")
    COUNTS: ClassVar = {
        "tags": 7, "concepts": 3, "tags that are concepts": 2, "seen labels": 5, "labels": 8,
        "images": 23, "train images": 12, "test images": 11,
    }  # fmt: skip

    def __init__(self, folder: Path, labels: str = "Groundtruth/AllLabels", photos: bool = True, end: str = "\r\n"):
        self.folder, count = folder, self.COUNTS["images"]
        random = np.random.default_rng(11)
        self.tag_rows = (random.random((count, len(self.TAGS))) < 0.4).astype(int)
        self.concept_rows = (random.random((count, len(self.CONCEPTS))) < 0.4).astype(int)
        self.tag_rows[4] = [0, 1, 0, 0, 0, 0, 1]  # only tags that are concepts: no seen label
        self.concept_rows[5] = 0  # a test image without an unseen label
        self.images = [f"folder{row % 3}/{row:04d}_{1000 + row}.jpg" for row in range(count)]
        self.split = ["train" if row % 2 == 0 else "test" for row in range(count)]
        write_lines(folder / "ConceptsList/Concepts81.txt", self.CONCEPTS, end)
        write_lines(folder / "NUS_WID_Tags/TagList1k.txt", self.TAGS, end)
        self.write_tags()
        for column, concept in enumerate(self.CONCEPTS):
            write_lines(folder / labels / f"Labels_{concept}.txt", map(str, self.concept_rows[:, column]), end)
        backslashed = [image.replace("/", "\\") for image in self.images]
        write_lines(folder / "ImageList/Imagelist.txt", backslashed, end)
        for split in ("train", "test"):
            chosen = [image for image, where in zip(backslashed, self.split, strict=True) if where == split]
            write_lines(folder / f"ImageList/{split.title()}Imagelist.txt", chosen[::-1], end)
        if photos:
            for seed, image in enumerate(self.images):
                write_photo(folder / "Flickr" / image, seed)

    def write_tags(self) -> None:
        """Tabs between the values and one at the end of each row, as the real file has it."""
        lines = ["\t".join(map(str, row)) + "\t" for row in self.tag_rows]
        write_lines(self.folder / "NUS_WID_Tags/AllTags1k.txt", lines)

    def labels_of(self, row: int) -> set[str]:
        """Seen labels by tag and unseen ones by human annotation, as the papers have it."""
        seen = {tag for tag, value in zip(self.TAGS, self.tag_rows[row], strict=True) if value}
        human = {name for name, value in zip(self.CONCEPTS, self.concept_rows[row], strict=True) if value}
        return (seen - set(self.CONCEPTS)) | human


def write_coco(folder: Path, classes: Sequence[str], images: dict[str, list[list[tuple[str, int]]]], year: int) -> None:
    """``{"train": [[("dog", iscrowd), ...], ...], "val": ...}``: an image each, with these annotations."""
    for part, shown_on in images.items():
        content = {
            "images": [
                {"id": 100 + number, "file_name": f"{number:012d}.jpg", "width": 9, "height": 9}
                for number in range(len(shown_on))
            ],
            "categories": [{"id": 2 * index + 1, "name": name} for index, name in enumerate(classes)],
            "annotations": [
                {"id": 1000 * number + place, "image_id": 100 + number, "iscrowd": crowd, "bbox": [0, 0, 5, 5],
                 "category_id": 2 * list(classes).index(name) + 1, "area": 25, "segmentation": []}
                for number, shown in enumerate(shown_on) for place, (name, crowd) in enumerate(shown)
            ],
        }  # fmt: skip
        path = folder / "annotations" / f"instances_{part}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for number in range(len(shown_on)):
            write_photo(folder / f"{part}{year}" / f"{number:012d}.jpg", 1000 * len(part) + number)


def rows_of(folder: Path) -> dict[str, tuple[set[str], str]]:
    """Return {path: (labels, split)} of a prepared folder."""
    with (folder / "data.csv").open(newline="") as file:
        return {row["path"]: (set(parse_labels(row["labels"])), row["split"]) for row in csv.DictReader(file)}


def negatives_of(folder: Path) -> dict[str, set[str]]:
    """Return {path: labels verified to be absent} of a prepared folder with partial labels."""
    with (folder / "data.csv").open(newline="") as file:
        return {row["path"]: set(parse_labels(row["negatives"])) for row in csv.DictReader(file)}


def write_voc(devkit: Path, year: int, images: dict[str, dict[str, list[tuple[str, int]]]]) -> None:
    """``{"train": {"000012": [("dog", difficult), ...], ...}, "val": ...}``, as the devkit has it."""
    folder = devkit / f"VOC{year}"
    trainval = [image for split in ("train", "val") for image in images.get(split, {})]
    for split, listed in {**{split: list(shown) for split, shown in images.items()}, "trainval": trainval}.items():
        write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", listed)
    for image, objects in ((image, objects) for shown in images.values() for image, objects in shown.items()):
        write_photo(folder / "JPEGImages" / f"{image}.jpg", int(image.replace("_", "")))
        lines = [
            f"<annotation>\n\t<folder>VOC{year}</folder>\n\t<filename>{image}.jpg</filename>",
            *(
                f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Left</pose>\n\t\t<difficult>{difficult}</difficult>\n"
                "\t\t<part>\n\t\t\t<name>head</name>\n\t\t</part>\n\t</object>"
                for name, difficult in objects
            ),
            "</annotation>",
        ]
        write_lines(folder / "Annotations" / f"{image}.xml", lines)


def write_lvis(folder: Path, categories: dict[str, str], images: dict[str, list[dict[str, list[str]]]]) -> None:
    """``{"train": [{"shown": [...], "absent": [...], "not_exhaustive": [...]}, ...], "val": ...}`` in the layout of v1.

    Args:
        categories: {name: frequency}, of which the images list some.
    """
    ids = {name: 3 * place + 1 for place, name in enumerate(categories)}
    for part, entries in images.items():
        file_names = [f"train2017/{len(part) * 1000 + number:012d}.jpg" for number in range(len(entries))]
        content = {
            "info": {"version": "1.0"},
            "images": [
                {
                    "id": number, "width": 9, "height": 9, "license": 1, "flickr_url": "",
                    "coco_url": f"http://images.cocodataset.org/{file_names[number]}",
                    "neg_category_ids": [ids[name] for name in entry.get("absent", [])],
                    "not_exhaustive_category_ids": [ids[name] for name in entry.get("not_exhaustive", [])],
                }
                for number, entry in enumerate(entries)
            ],
            "categories": [
                {"id": ids[name], "name": name, "frequency": frequency, "synset": f"{name}.n.01", "synonyms": [name]}
                for name, frequency in categories.items()
            ],
            "annotations": [
                {"id": 100 * number + place, "image_id": number, "category_id": ids[name], "bbox": [0, 0, 5, 5],
                 "area": 25, "segmentation": [[0, 0, 5, 0, 5, 5]]}
                for number, entry in enumerate(entries) for place, name in enumerate(entry.get("shown", []))
            ],
        }  # fmt: skip
        write_lines(folder / "annotations" / f"lvis_v1_{part}.json", [json.dumps(content)])
        for seed, name in enumerate(file_names):
            write_photo(folder / name, len(part) * 1000 + seed)


def write_visual_genome(folder: Path, images: dict[int, list[tuple[str, list[str]]]]) -> None:
    """``{1: [("tree", ["green", ...]), ...], ...}``: the objects of each image and their attributes.

    Even numbers lie in the first folder of photos, odd ones in the second.
    """
    places = {number: f"VG_100K{'_2' if number % 2 else ''}/{number}.jpg" for number in images}
    image_data = [
        {"image_id": number, "url": f"https://cs.stanford.edu/people/rak248/{place}", "width": 9, "coco_id": None}
        for number, place in places.items()
    ]
    box = {"x": 0, "y": 0, "w": 5, "h": 5, "synsets": ["tree.n.01"], "object_id": 1}
    objects = [
        {"image_id": number, "image_url": "", "objects": [
            {**box, "names": [name], "merged_object_ids": []} for name, _ in named
        ]}
        for number, named in images.items()
    ]  # fmt: skip
    attributes = [
        {"image_id": number, "attributes": [
            {**box, "names": [name], **({"attributes": shown} if shown else {})} for name, shown in named
        ]}
        for number, named in images.items()
    ]  # fmt: skip
    for name, content in (("image_data", image_data), ("objects", objects), ("attributes", attributes)):
        write_lines(folder / f"{name}.json", [json.dumps(content)])
    for number, place in places.items():
        write_photo(folder / place, number)


def write_open_images(
    folder: Path, classes: dict[str, str], trainable: Sequence[str], rows: dict[str, list[tuple[int, str, float]]]
) -> None:
    """``{"train": [(image, class id, confidence), ...], "val": ..., "test": ...}``, in the files of version 7."""
    quoted = {one: f'"{name}"' if "," in name else name for one, name in classes.items()}
    described = [f"{one},{name}" for one, name in quoted.items()]
    write_lines(folder / "oidv7-class-descriptions.csv", ["LabelName,DisplayName", *described])
    write_lines(folder / "oidv7-classes-trainable.txt", trainable)
    for split, labelled in rows.items():
        lines = [f"{image:016x},verification,{one},{confidence:g}" for image, one, confidence in labelled]
        file = folder / f"oidv7-{split}-annotations-human-imagelabels.csv"
        write_lines(file, ["ImageID,Source,LabelName,Confidence", *lines])
        for image in {image for image, _, _ in labelled}:
            photo = folder / {"val": "validation"}.get(split, split) / f"{image:016x}.jpg"
            write_photo(photo, image % 2**32)


def write_mirflickr(folder: Path, potential: dict[str, list[int]], relevant: dict[str, list[int]]) -> None:
    """``{"dog": [1, 4], ...}``: the images of each label; the files of all other labels are empty."""
    from data_prep.mirflickr import POTENTIAL, RELEVANT  # here: tests of the base install have no scipy

    annotations = folder / "mirflickr25k_annotations_v080"
    for names, shown, suffix in ((POTENTIAL, potential, ""), (RELEVANT, relevant, "_r1")):
        for name in names:
            write_lines(annotations / f"{name}{suffix}.txt", map(str, shown.get(name, [])), "\r\n")
    (annotations / "README.txt").touch()
    for number in {number for numbers in potential.values() for number in numbers}:
        write_photo(folder / "mirflickr" / f"im{number}.jpg", number)


def change_index(folder: Path, statement: str) -> None:
    """Execute an SQL statement in the index of a folder."""
    with closing(sqlite3.connect(folder / INDEX_FILE, isolation_level=None)) as database:
        database.execute(statement)


def pretend_another_model(folder: Path) -> None:
    """Change the index of a folder as if another model had made it."""
    change_index(folder, """UPDATE meta SET value = '"00ff"' WHERE name = 'fingerprint'""")
    change_index(folder, """UPDATE meta SET value = '"other files"' WHERE name = 'files'""")


def run_command(*arguments: object) -> tuple[int, str, str]:
    """``zsl-tagger`` with these arguments: exit status, stdout, stderr. An error that is no exit is raised."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def needs_tool(name: str) -> pytest.MarkDecorator:
    """Skip where a program is not installed; CI has all (.ci/run), sets ZSL_TAGGER_ALL_TOOLS and fails instead."""
    absent = shutil.which(name) is None and not os.environ.get("ZSL_TAGGER_ALL_TOOLS")
    return pytest.mark.skipif(absent, reason=f"{name} is not installed")

"""Measure whether a heat map shows where the object is: raw attention against :meth:`Tagger.heatmap`.

``python -m benchmarks.heatmaps --photos DATA/photos``

- Mosaics: two ImageNet photos side by side, and the other way round; for each of the two names, does its map move
  with its photo? (The packaged model was trained on these photos, and on mosaics of them.)
- Boxes: coco100, labels that the model tags and whose boxes cover less than half of the photo: is the place looked at
  most in a box, and how much of the map is? Chance is the boxes' share of the photo. (Validation: the smoothing of the
  map was chosen on these.)
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import write_result
from zsl_tagger import Tagger
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.tagging.encoded import Encoded

MOSAICS = 300
Maps = dict[str, np.ndarray]  # {kind: (K, R, R)}


def maps_of(tagger: Tagger, encoded: Encoded, labels: list[str]) -> Maps:
    """Return the attention, mean over heads, and the heat maps computed from it."""
    asked = tagger.label_set(labels).prepared(tagger._model)
    heats = tagger.heatmap(encoded, labels)
    return {"attention": tagger._model.attention(encoded, asked)[0].reshape(heats.shape), "heat map": heats}


def mosaics(tagger: Tagger, photos: Path) -> dict[str, dict[str, float]]:
    named = {path: path.stem.partition("_")[2].replace("_", " ") for path in sorted(photos.glob("*.jpg"))}
    paths = [path for path, name in named.items() if name in tagger.words]
    random.seed(0)
    rows: dict[str, list[list[float]]] = {}
    for _ in range(MOSAICS):
        pair = random.sample(paths, 2)
        halves = [load_array(path, Preprocessing(768))[:, ::2] for path in pair]  # each (768, 384, 3)
        both = [
            maps_of(tagger, tagger.encode(np.concatenate(order, axis=1)), [named[path] for path in pair])
            for order in (halves, halves[::-1])
        ]
        for kind in both[0]:
            left = np.array([_left_share(each[kind]) for each in both])  # (2 orders, 2 labels)
            side = np.array([[left[0, 0], 1 - left[0, 1]], [1 - left[1, 0], left[1, 1]]])  # share on the label's photo
            moved = [left[0, 0] > left[1, 0], left[0, 1] < left[1, 1]]
            rows.setdefault(kind, []).append([float(np.mean(part)) for part in (moved, side > 0.5, side)])
    names = ["moves with the photo", "more than half on it", "share on it"]
    return {kind: _percent(names, values) for kind, values in rows.items()}


def _left_share(maps: np.ndarray) -> np.ndarray:
    """Return the share of each map ``(K, R, R)`` on its left half, ``(K,)``."""
    middle = maps.shape[2] // 2
    return maps[:, :, :middle].sum(axis=(1, 2)) / np.maximum(maps.sum(axis=(1, 2)), 1e-12)


def boxes(tagger: Tagger, folder: Path) -> dict[str, dict[str, float]]:
    rows: dict[str, list[list[float]]] = {}
    for path, width, height, boxes_of in _annotated(folder):
        labels = [name for name in boxes_of if name in tagger.words]
        encoded = tagger.encode(path)
        tags = {tag.label for tag in tagger.tag_encoded(encoded, labels)} if labels else set()
        labels = [name for name in labels if name in tags]
        if not labels:
            continue
        maps = maps_of(tagger, encoded, labels)
        for index, name in enumerate(labels):
            covered = _covered(boxes_of[name], width, height, maps["heat map"].shape[1])
            if covered.mean() >= 0.5:
                continue
            for kind, of_labels in maps.items():
                heat = of_labels[index]
                hit = covered.flat[heat.argmax()] > 0.1  # a tenth of the cell is in a box
                energy = (heat * covered).sum() / max(heat.sum(), 1e-12)
                rows.setdefault(kind, []).append([hit, (covered > 0.1).mean(), energy, covered.mean()])
    names = ["highest place in a box", "by chance", "share in the boxes", "by chance (area)"]
    return {kind: _percent(names, values) | {"labels": len(values)} for kind, values in rows.items()}


def _annotated(folder: Path) -> Iterator[tuple[Path, int, int, dict[str, list[list[float]]]]]:
    paths = {path.name: path for path in folder.rglob("*.jpg")}
    for file in sorted((folder / "annotations").glob("instances_*.json")):
        content = json.loads(file.read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        for image in content["images"]:
            path = paths.pop(image["file_name"], None)  # only once if both files have it
            found: dict[str, list[list[float]]] = {}
            for box in content["annotations"]:
                if box["image_id"] == image["id"]:
                    found.setdefault(names[box["category_id"]], []).append(box["bbox"])
            if path is not None:
                yield path, image["width"], image["height"], found


def _covered(found: list[list[float]], width: int, height: int, side: int) -> np.ndarray:
    """Return the share of each cell inside a box, ``(side, side)``; boxes are x, y, width, height in pixels."""
    fine = 8 * side
    mask = np.zeros((fine, fine))
    for x, y, wide, high in found:
        top, bottom = int(y / height * fine), int(np.ceil((y + high) / height * fine))
        left, right = int(x / width * fine), int(np.ceil((x + wide) / width * fine))
        mask[top:bottom, left:right] = 1
    return mask.reshape(side, 8, side, 8).mean(axis=(1, 3))


def _percent(names: list[str], rows: list[list[float]]) -> dict[str, float]:
    return {name: round(100 * float(value), 1) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder with imagenet1k/ and coco100/")
    photos = parser.parse_args().photos
    tagger = Tagger()
    figures = {"mosaics": mosaics(tagger, photos / "imagenet1k"), "boxes": boxes(tagger, photos / "coco100")}
    write_result("heatmaps", {"number of mosaics": MOSAICS, **figures})


if __name__ == "__main__":
    main()

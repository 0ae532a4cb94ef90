"""Measure mAP and F1@3 of the public command on COCO photos, against ConSE on the same backbone.

    python -m benchmarks.tagging_accuracy --coco DIR

DIR contains ``annotations/instances_{train,val}2017.json`` and the photos in ``train2017/`` and ``val2017/``.
All 80 class names are scored. mAP is the mean over the classes with at least 3 positives of scikit-learn's
average precision; F1@3 is micro, over all 80 classes and all photos. The packaged model's detector was trained on
train2017, so the figures of the photos of val2017 are also given. ConSE needs the [rebuild] extra.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, write_result
from zsl_tagger.evaluation.metrics import average_precision, precision_recall_f1_at_k
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.tagging.model_folder import ModelFolder

LEAST_POSITIVES = 3
CONSE_CLASSES = 10  # T of the paper
RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--name", default="tagging_accuracy")
    arguments = parser.parse_args()
    paths, targets, names = read_coco(arguments.coco)
    figures: dict[str, object] = {"photos": len(paths), "classes_with_3_positives": int(_enough(targets).sum())}
    command_scores = scores_of_command(paths, names, arguments.model)
    figures["zsl-tagger tag"] = accuracy(command_scores, targets)
    new = np.array([path.parent.name == "val2017" for path in paths])
    figures["zsl-tagger tag, only photos of val2017"] = accuracy(command_scores[new], targets[new])
    figures["ConSE, same backbone and word vectors"] = accuracy(conse_scores(paths, names, arguments.model), targets)
    columns = np.flatnonzero(_enough(targets))
    values = average_precision(command_scores[:, columns], targets[:, columns])
    figures["average_precision"] = {
        names[column]: round(100 * value, 1) for column, value in zip(columns, values, strict=True)
    }
    write_result(arguments.name, figures)


def read_coco(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Return photo paths, 0/1 targets (N, 80) from any box, and class names in id order."""
    objects: dict[Path, set[int]] = {}
    for part in ("train2017", "val2017"):
        content = json.loads((folder / "annotations" / f"instances_{part}.json").read_text())
        classes = sorted(content["categories"], key=lambda category: category["id"])
        column = {category["id"]: index for index, category in enumerate(classes)}
        path = {image["id"]: folder / part / image["file_name"] for image in content["images"]}
        for image in path.values():
            objects.setdefault(image, set())
        for annotation in content["annotations"]:
            objects[path[annotation["image_id"]]].add(column[annotation["category_id"]])
    paths = sorted(path for path in objects if path.exists())
    targets = np.zeros((len(paths), len(classes)), np.int64)
    for row, image in enumerate(paths):
        targets[row, list(objects[image])] = 1
    return paths, targets, [category["name"] for category in classes]


def scores_of_command(paths: list[Path], names: list[str], model: Path | None) -> np.ndarray:
    """Read scores (N, K) from the output of ``zsl-tagger tag --format jsonl``."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as labels:
        labels.write("\n".join(names))
        labels.flush()
        command = [sys.executable, "-m", "cli", "tag", "-", "--labels-file", labels.name, "--threshold", "0"]
        command += ["--format", "jsonl", *(["--model", str(model)] if model else [])]
        result = subprocess.run(
            command, input="\n".join(map(str, paths)), capture_output=True, text=True, cwd=ROOT, check=True
        )
    rows = []
    for line in result.stdout.splitlines():
        score = {tag["label"]: tag["score"] for tag in json.loads(line)["tags"]}
        rows.append([score[name] for name in names])
    return np.array(rows)


def conse_scores(paths: list[Path], names: list[str], model: Path | None) -> np.ndarray:
    """Score by ConSE: cosine of each label's vector with the probability-weighted mean of top class vectors."""
    import torch

    from zsl_tagger.model.pretrained import load_model

    folder = ModelFolder(model)
    table = folder.words()
    tagger_model = load_model(folder.path)
    backbone = tagger_model.backbone
    assert tagger_model.reading is not None
    vectors = tagger_model.reading.class_vectors / tagger_model.reading.SCALE
    queries = torch.from_numpy(table.vectors(names))
    rows = []
    with torch.inference_mode():
        for path in paths:
            pixels = torch.from_numpy(load_array(path, folder.config.preprocessing).copy())[None]  # (1, S, S, 3)
            top = backbone.network(tagger_model.normalize(pixels)).softmax(-1)[0].topk(CONSE_CLASSES)
            embedding = top.values @ vectors[top.indices]
            rows.append(torch.nn.functional.cosine_similarity(embedding[None], queries).numpy())
    return np.stack(rows)


def accuracy(scores: np.ndarray, targets: np.ndarray) -> dict[str, object]:
    """Return mAP and F1@3 in percent, with 95 % percentile intervals by bootstrap over photos.

    With few photos the resampled mAP is biased upwards, since repeated photos make a ranking easier.
    """
    rng = np.random.default_rng(0)
    resampled = [rng.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES)]
    columns = _enough(targets)
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "mAP": lambda s, t: float(np.nanmean(average_precision(s[:, columns], t[:, columns]))),
        "F1@3": lambda s, t: precision_recall_f1_at_k(s, t, 3)[2],
    }
    figures: dict[str, object] = {}
    for name, measure in measures.items():
        figures[name] = round(100 * measure(scores, targets), 1)
        spread = [100 * measure(scores[rows], targets[rows]) for rows in resampled]
        figures[f"{name}_95%"] = [round(float(edge), 1) for edge in np.percentile(spread, (2.5, 97.5))]
    return figures


def _enough(targets: np.ndarray) -> np.ndarray:
    return targets.sum(axis=0) >= LEAST_POSITIVES


if __name__ == "__main__":
    main()

"""Time the preparation of NUS-WIDE at full scale: 269,648 rows x (1,000 tags + 81 concepts).

python -m benchmarks.prepare_nus_wide --annotation DIR

The concept labels are the real ones of ``DIR`` (``Concepts81.txt``, ``TagList1k.txt``, ``image_ids.txt.gz``,
``image_concepts.txt.gz``, ``concept_ids.txt``, ``test_image_names.txt.gz``). The user tags are synthetic (the real
ones are not available): an image gets about 6 of the 1,000, common ones more often.
Images are not opened (``--skip-images``). Times are from process start to exit.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, timed, write_result

RUNS = 3
SHOWN = ("sky", "clouds", "person", "map")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotation", type=Path, required=True)
    annotation = parser.parse_args().annotation
    with tempfile.TemporaryDirectory() as name:
        raw, out = Path(name) / "NUS-WIDE", Path(name) / "out"
        in_source = write_archive(annotation, raw)
        command = ["prepare", "nus-wide", "--source", str(raw), "--output", str(out), "--skip-images"]
        runs = [timed([sys.executable, str(ROOT / "cli.py"), *command]) for _ in range(RUNS)]
        check = timed([sys.executable, str(ROOT / "cli.py"), "prepare", "check", str(out)])
        info = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        report = json.loads((out / "split_report.json").read_text(encoding="utf-8"))
        megabytes = (raw / "NUS_WID_Tags" / "AllTags1k.txt").stat().st_size / 1e6
    prepared = info["source"]["images_of_each_concept"]
    write_result(
        "prepare_nus_wide",
        {
            "rows": info["source"]["images"],
            "columns": info["source"]["tags"] + info["source"]["concepts"],
            "tag_matrix_mb": round(megabytes),
            "seconds": {"median": statistics.median(s for s, _ in runs), "all": [s for s, _ in runs]},
            "peak_memory_mb": max(mb for _, mb in runs),
            "check_seconds": check[0],
            "concepts_with_other_counts_than_the_source": {
                concept: [prepared[concept], count]
                for concept, count in in_source.items()
                if prepared[concept] != count
            },
            "images_of": {concept: prepared[concept] for concept in SHOWN},
            "images_by_protocol": info["images_by_protocol"],
            "word_vectors_found": info["word_vectors"]["found"],
            "seen_unseen_twins": len(report["twins"]),
        },
    )


def write_archive(annotation: Path, folder: Path) -> dict[str, int]:
    """Write a raw archive in the official layout; return the images of each concept."""
    concepts, tags = (_lines(annotation / name) for name in ("Concepts81.txt", "TagList1k.txt"))
    ids = _gzip_lines(annotation / "image_ids.txt.gz")
    test_names = _gzip_lines(annotation / "test_image_names.txt.gz")
    left = Counter(name.rpartition("_")[2].removesuffix(".jpg") for name in test_names)
    for part in ("ConceptsList", "NUS_WID_Tags", "Groundtruth/AllLabels", "ImageList"):
        (folder / part).mkdir(parents=True)
    (folder / "ConceptsList" / "Concepts81.txt").write_text("\r\n".join(concepts) + "\r\n")
    (folder / "NUS_WID_Tags" / "TagList1k.txt").write_text("\n".join(tags) + "\n")
    images = [f"photos\\{row:06d}_{flickr}.jpg" for row, flickr in enumerate(ids)]
    is_test = np.zeros(len(ids), bool)
    for row, flickr in enumerate(ids):  # a few Flickr ids come twice, and one of them is in test
        if left[flickr]:
            is_test[row], left[flickr] = True, left[flickr] - 1
    for name, rows in (("Train", np.flatnonzero(~is_test)), ("Test", np.flatnonzero(is_test)), ("", range(len(ids)))):
        (folder / "ImageList" / f"{name}Imagelist.txt").write_text("\n".join(images[row] for row in rows) + "\n")
    _write_tags(folder / "NUS_WID_Tags" / "AllTags1k.txt", len(ids), len(tags))
    return _write_concepts(annotation, folder / "Groundtruth" / "AllLabels", len(ids))


def _write_tags(path: Path, rows: int, columns: int) -> None:
    random = np.random.default_rng(0)
    share = 6 / columns * np.linspace(2, 0.02, columns)  # about 6 tags per image, the first ones most often
    with path.open("wb") as file:
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            text = np.full((count, columns, 2), ord("\t"), np.uint8)
            text[:, :, 0] = ord("0") + (random.random((count, columns), np.float32) < share)
            lines = text.reshape(count, -1)
            file.write(np.concatenate([lines, np.full((count, 1), ord("\n"), np.uint8)], axis=1).tobytes())


def _write_concepts(annotation: Path, folder: Path, rows: int) -> dict[str, int]:
    names = dict(line.split(maxsplit=1) for line in _lines(annotation / "concept_ids.txt"))
    labels = {name: np.zeros(rows, bool) for name in names.values()}
    for line in _gzip_lines(annotation / "image_concepts.txt.gz"):
        row, *numbers = line.split()
        for number in numbers:
            labels[names[number]][int(row)] = True
    for name, column in labels.items():
        (folder / f"Labels_{name}.txt").write_text("\n".join(np.where(column, "1", "0")) + "\n")
    return {name: int(column.sum()) for name, column in labels.items()}


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _gzip_lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


if __name__ == "__main__":
    main()

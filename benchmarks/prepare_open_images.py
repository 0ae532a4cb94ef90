"""Time the preparation of OpenImages at full scale, with nine million synthetic rows of annotation.

python -m benchmarks.prepare_open_images --folder DIR [--rows N] [--images N]

The files have the layout and the number of classes of version 4; 7,186 classes are seen and 400 unseen, as in LESA.
Class names are packaged words; the class of a row is drawn, common ones more often, and about a third of the rows
say that it is present. Images are not opened (``--skip-images``). All files are made in DIR, 0.5 to 1.5 GB, and
removed at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, timed, write_result
from data_prep.open_images import FOLDERS
from zsl_tagger.assets import PACKAGED
from zsl_tagger.words.table import WordTable

DESCRIBED, SEEN, UNSEEN = 19_995, 7_186, 400
HELD_OUT = {"val": 41_620, "test": 125_436}  # images
ROWS_OF_HELD_OUT = 5  # rows per held-out image
POSITIVE = 0.35


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=9_000_000)
    parser.add_argument("--images", type=int, default=1_800_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        raw, out = Path(name) / "OpenImages", Path(name) / "out"
        megabytes = write_archive(raw, given.rows, given.images)
        lists = ["--seen-classes", str(raw / "classes-trainable.txt"), "--unseen-classes", str(raw / "unseen.txt")]
        command = ["prepare", "open-images", "--source", str(raw), "--output", str(out), "--skip-images", *lists]
        seconds, peak = timed([sys.executable, str(ROOT / "cli.py"), *command])
        info = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        data_mb = (out / "data.csv").stat().st_size / 1e6
    write_result(
        "prepare_open_images",
        {
            "rows": given.rows,
            "images": info["source"]["images"],
            "labels": info["source"]["labels"],
            "label_files_mb": megabytes,
            "data_csv_mb": round(data_mb),
            "seconds": seconds,
            "peak_memory_mb": peak,
            "images_kept": info["images"],
            "partial_labels": info["partial_labels"],
            "word_vectors_found": info["word_vectors"]["found"],
        },
    )


def write_archive(folder: Path, rows: int, images: int) -> int:
    """Write the CSV files of version 4; return the megabytes of the label files."""
    random = np.random.default_rng(0)
    folder.mkdir()
    words = WordTable.load(PACKAGED).words[:DESCRIBED]
    ids = np.array([f"/m/0{place:05x}" for place in random.permutation(len(words))], "S9")
    described = [f"{one.decode()},{word.capitalize()}" for one, word in zip(ids, words, strict=True)]
    (folder / "class-descriptions.csv").write_text("\n".join(described) + "\n", encoding="utf-8")
    for name, chosen in (("classes-trainable.txt", ids[:SEEN]), ("unseen.txt", ids[SEEN : SEEN + UNSEEN])):
        (folder / name).write_bytes(b"\n".join(chosen.tolist()) + b"\n")
    share = 1 / np.arange(10, len(ids) + 10)  # as words in a text: common ones much more often
    size = 0
    for split, official in FOLDERS.items():
        count = HELD_OUT.get(split, images)
        wanted = count * ROWS_OF_HELD_OUT if split in HELD_OUT else rows - sum(HELD_OUT.values()) * ROWS_OF_HELD_OUT
        file = folder / f"{official}-annotations-human-imagelabels.csv"
        _write_rows(
            file, np.sort(random.integers(0, 2**63, count)), wanted, (ids, np.cumsum(share / share.sum())), random
        )
        size += file.stat().st_size
    return round(size / 1e6)


def _write_rows(
    file: Path, images: np.ndarray, rows: int, classes: tuple[np.ndarray, np.ndarray], random: np.random.Generator
) -> None:
    """Write rows about the images ``(n,)``, in their order; ``classes``: ids and cumulated shares."""
    ids, shares = classes
    with file.open("wb") as opened:
        opened.write(b"ImageID,Source,LabelName,Confidence\n")
        for start in range(0, rows, 200_000):
            count = min(200_000, rows - start)
            shown = images[(np.arange(start, start + count) * len(images)) // rows]
            named = ids[np.minimum(np.searchsorted(shares, random.random(count)), len(ids) - 1)].tolist()
            there = (random.random(count) < POSITIVE).astype(int).tolist()
            lines = [
                b"%016x,verification,%s,%d\n" % row for row in zip(shown.tolist(), named, there, strict=True)
            ]  # fmt: skip
            opened.write(b"".join(lines))


if __name__ == "__main__":
    main()

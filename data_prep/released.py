"""Write a data set for the released ML-Decoder code, in a subfolder of the prepared folder.

That code has only the splits ``train`` and ``val``, and tests on ``val``. It reads the vocabulary from the labels in
``data.csv``, so labels on no image have no column here, and images without labels, which it would read as having a
label "", are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.output import OutputFolder, csv_rows
from data_prep.report import Images
from data_prep.results import ReleasedRecord
from data_prep.wordvecs import WordVectors, matrix_bytes
from zsl_tagger.datasets.format import DATA_FILE, RELEASED_FOLDER, VECTORS_FILE, format_labels
from zsl_tagger.system.files import folder_inside

#: Dimensions of the word vectors that the released head expects.
WORD_DIM = 300


@dataclass(frozen=True)
class ReleasedFiles:
    """Content of the three files for the released code.

    Attributes:
        rows: path, labels in brackets and split of each image.
        vectors: vectors of the labels that are on an image.
        left_out: number of images without labels, and the labels on no image.
    """

    rows: list[tuple[str, str, str]]
    vectors: WordVectors
    left_out: tuple[int, list[str]]

    @classmethod
    def of(cls, images: Images, vectors: WordVectors) -> ReleasedFiles:
        """Select images and labels of a prepared data set; ``val`` trains, ``test`` becomes ``val``."""
        shown = [
            [vectors.labels[column] for column in sorted(row)]
            for row in np.split(images.targets.indices, images.targets.indptr[1:-1])
        ]
        rows = [
            (path, format_labels(labels), "val" if split == "test" else "train")
            for path, labels, split in zip(images.paths, shown, images.splits, strict=True)
            if labels
        ]
        on_images = {label for labels in shown for label in labels}
        used = [column for column, label in enumerate(vectors.labels) if label in on_images]
        kept = replace(vectors, labels=[vectors.labels[column] for column in used], matrix=vectors.matrix[used])
        unused = [label for label in vectors.labels if label not in on_images]
        return cls(rows, kept, (len(shown) - len(rows), unused))

    def report(self) -> ReleasedRecord:
        """Return the entry of ``dataset.json`` about the files."""
        splits = [split for _, _, split in self.rows]
        return ReleasedRecord(
            folder=RELEASED_FOLDER,
            images={split: splits.count(split) for split in ("train", "val")},
            images_without_label=self.left_out[0],
            labels_on_no_image=self.left_out[1],
        )

    def write(self, out: OutputFolder, benchmark: str, unseen: Sequence[str]) -> None:
        """Write the files; ``benchmark`` is the name of the file that lists the seen and the unseen labels."""
        folder_inside(out.path, RELEASED_FOLDER)
        hidden = set(unseen)
        sides = {
            "train class": [label for label in self.vectors.labels if label not in hidden],
            "test class": [label for label in self.vectors.labels if label in hidden],
        }
        out.write(f"{RELEASED_FOLDER}/{DATA_FILE}", csv_rows(["path", "labels", "split"], self.rows))
        out.write_json(f"{RELEASED_FOLDER}/{benchmark}", sides)
        out.write(f"{RELEASED_FOLDER}/{VECTORS_FILE}", matrix_bytes(self.vectors))

"""``--released-splits`` against our rewriting of the released loader, and what is said of the word vectors."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from made_data import NusArchive, write_coco
from sklearn.preprocessing import MultiLabelBinarizer

from data_prep.coco import CLASSES, Coco
from data_prep.nus_wide import NusWide
from data_prep.pipeline import Options, prepare, summary
from data_prep.results import DatasetInfo
from zsl_tagger.datasets.read import load_dataset

RELEASED = Options(missing="random", val_fraction=0.2, skip_images=True, released_splits=True)


def loaded(folder: Path, benchmark: str) -> dict[str, Any]:
    """Return what the released training script makes of a folder: its labels, and of each split what it shows.

    That is image paths, 0/1 targets ``(N, K)``, the columns of the word vectors ``(word_dim, K)`` and their labels:
    those of "train class" for the split train, of "test class" for val.
    """
    table = pandas.read_csv(folder / "data.csv").to_numpy()
    assert table.shape[1] == 3  # else it has no splits
    shown = [cell.replace("[", "").replace("]", "").split(", ") for cell in table[:, 1]]
    binarizer = MultiLabelBinarizer()
    targets = binarizer.fit_transform(shown)  # (N, all labels)
    lists = json.loads((folder / benchmark).read_text())
    vectors = torch.load(folder / "wordvec_array.pth")
    found: dict[str, Any] = {"labels": list(binarizer.classes_)}
    for split, side in (("train", "train class"), ("val", "test class")):
        rows = [row for row, name in enumerate(table[:, 2]) if name == split]
        columns = [column for column, label in enumerate(binarizer.classes_) if label in lists[side]]
        labels = [binarizer.classes_[column] for column in columns]
        found[split] = list(table[rows, 0]), targets[np.ix_(rows, columns)], vectors[..., columns].numpy(), labels
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return NusArchive(tmp_path / "raw", photos=False).folder


def prepared(archive: Path, out: Path, options: Options = RELEASED, protocol: Any = "mld") -> DatasetInfo:
    return prepare(NusWide(source=archive, protocol=protocol, allow_subset=True), out, options)


@pytest.mark.parametrize("protocol", ["mld", "lesa"])
def test_the_released_loader_finds_our_images_labels_and_vectors(protocol: str, archive: Path, tmp_path: Path) -> None:
    info = prepared(archive, tmp_path / "out", protocol=protocol)
    found, dataset = loaded(tmp_path / "out" / "released", "benchmark_81_v0.json"), load_dataset(tmp_path / "out")
    for split, ours, seen in (("train", ("train", "val"), True), ("val", ("test",), False)):
        paths, targets, vectors, labels = found[split]
        rows = [row for row in np.flatnonzero(np.isin(dataset.splits, ours)) if len(dataset.label_indices[row])]
        assert paths == [dataset.paths[row] for row in rows]
        assert info.released_splits is not None
        assert len(paths) == info.released_splits.images[split] > 0
        columns = [dataset.labels.index(label) for label in labels]
        assert (dataset.seen[columns] == seen).all()
        assert (targets == dataset.targets(np.array(rows))[:, columns]).all()
        np.testing.assert_array_equal(vectors.T, dataset.word_vectors[columns])


def test_what_the_released_code_would_misread_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its vocabulary is what data.csv shows, and "[]" would be a label named ""."""
    train, val = [[("person", 0)], [], [("bear", 0)], [("car", 0)]], [[("dog", 0)], []]
    write_coco(tmp_path / "coco", CLASSES, {"train": train, "val": val}, 2014)
    caplog.set_level(logging.INFO)
    prepare(Coco(source=tmp_path / "coco", task="zsl-48-17", keep_unlabelled=True), tmp_path / "out", RELEASED)
    found = loaded(tmp_path / "out" / "released", "benchmark_coco_zsl_48_17.json")
    assert found["labels"] == ["bear", "car", "dog", "person"]
    dataset = load_dataset(tmp_path / "out")
    assert (found["val"][2][:, 0] == dataset.word_vectors[dataset.labels.index("dog")]).all()
    assert caplog.messages[-2:] == [
        "the released code expects word vectors of 300 dimensions, these have 256: give another --word-vectors, "
        "such as gensim:glove-wiki-gigaword-300",
        "left out of released/: 2 images without a label, 61 labels on no image",
    ]


def test_the_folder_goes_where_it_is_not_asked_for_and_our_files_stay(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def own_files() -> dict[str, bytes]:
        return {name: (out / name).read_bytes() for name in ("data.csv", "wordvec_array.pth", "benchmark_81_v0.json")}

    prepared(archive, out)
    before = own_files()
    assert {path.name for path in (out / "released").iterdir()} == before.keys()
    prepared(archive, out, replace(RELEASED, released_splits=False))
    assert not (out / "released").exists()
    assert own_files() == before
    assert b",test\n" in before["data.csv"]


def test_unseen_labels_with_the_vector_of_a_seen_one_are_counted(archive: Path, tmp_path: Path) -> None:
    """The packaged table reads the plural as the singular: dog is dogs."""
    out = tmp_path / "out"
    lines = summary(prepared(archive, out), out)
    assert "  1 of 3 unseen labels have the same vector as a seen one: dog = dogs" in lines
    assert (
        "  the papers use vectors of 300 dimensions: ML-Decoder uses fastText's crawl vectors "
        "(--word-vectors gensim:FILE), LESA and BiAM GloVe (--word-vectors gensim:glove-wiki-gigaword-300)" in lines
    )
    assert any(
        line.startswith(f"  for the released code, where val is the test split: {out / 'released'}: train ")
        for line in lines
    )
    words = [*NusArchive.TAGS, "dog"]
    vectors = np.random.default_rng(0).standard_normal((len(words), 300)).astype(str)
    (tmp_path / "glove.txt").write_text(
        "".join(f"{word} {' '.join(row)}\n" for word, row in zip(words, vectors, strict=True))
    )
    wide = Options(word_vectors=f"gensim:{tmp_path / 'glove.txt'}", skip_images=True, overwrite=True)
    lines = summary(prepared(archive, out, wide), out)
    assert not [line for line in lines if "the same vector" in line or "the papers use" in line]


@pytest.mark.parametrize(("task", "said"), [("multi-label", False), ("zsl-48-17", True), ("zsl-65-15", True)])
def test_coco_names_the_vectors_of_the_papers_where_labels_are_unseen(task: Any, said: bool, tmp_path: Path) -> None:
    train = [[("person", 0)], [("bench", 0)], [("chair", 0)]]
    write_coco(tmp_path / "coco", CLASSES, {"train": train, "val": [[("cat", 0)]]}, 2014)
    info = prepare(Coco(source=tmp_path / "coco", task=task), tmp_path / "out", Options(skip_images=True))
    assert any("the papers use vectors of 300 dimensions" in line for line in summary(info, tmp_path / "out")) == said

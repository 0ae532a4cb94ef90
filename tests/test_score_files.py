"""zsl_tagger/evaluation/score_files.py: the same matrix from every format, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation import score_files
from zsl_tagger.evaluation.score_files import read_scores, read_targets

IMAGES = [f"a b/{n}.jpg" for n in range(17)]
LABELS = ["cat", "red car", "sky", "tree, old", "été"]
VALUES = np.random.default_rng(0).normal(size=(17, 5)).astype(np.float32) * 3


def write(path: Path, values: np.ndarray = VALUES, **changed: Any) -> Path:
    images, labels = changed.pop("images", IMAGES), changed.pop("labels", LABELS)
    if path.suffix == ".npz":
        save = changed.pop("save", np.savez)
        save(path, scores=values, images=np.array(images), labels=np.array(labels), **changed)
        return path
    frame = pandas.DataFrame(values, columns=labels)
    frame.insert(0, "image", images)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_files, "BLOCK", 7)


def scores(path: Path, kind: str | None = "logits", notes: list[str] | None = None) -> np.ndarray:
    return read_scores(path, IMAGES, LABELS, kind, [] if notes is None else notes)[0]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_format_gives_the_matrix(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_allclose(scores(write(tmp_path / f"s{suffix}")), VALUES, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_npz_gives_the_matrix(tmp_path: Path, dtype: str, order: Any, save: Any) -> None:
    path = write(tmp_path / "s.npz", np.asarray(VALUES, dtype, order=order), save=save)
    np.testing.assert_allclose(scores(path), VALUES, rtol=2e-3)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_names_decide_not_places(tmp_path: Path, suffix: str) -> None:
    rows, columns = np.random.default_rng(1).permutation(17), [3, 1, 4, 0, 2]
    path = tmp_path / f"s{suffix}"
    write(path, VALUES[rows][:, columns], images=[IMAGES[r] for r in rows], labels=[LABELS[c] for c in columns])
    notes: list[str] = []
    np.testing.assert_allclose(scores(path, notes=notes), VALUES, rtol=1e-6)
    assert notes == [f"{path} has the labels in an order of its own: matched by name"]


def test_what_is_more_is_left_out_and_said(tmp_path: Path) -> None:
    wide = np.concatenate([VALUES, VALUES[:, :1]], axis=1)
    path = write(tmp_path / "s.npz", np.concatenate([wide, wide[:1]]), images=[*IMAGES, "x"], labels=[*LABELS, "dog"])
    notes: list[str] = []
    np.testing.assert_array_equal(scores(path, notes=notes), VALUES)
    assert "1 other labels are not evaluated: 'dog'" in notes[0]
    assert "1 other images are not evaluated" in notes[1]


def bad(value: float) -> np.ndarray:
    values = VALUES.copy()
    values[9, 2] = value
    return values


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": bad(np.nan)}, "1 scores are not finite numbers, the first is nan of 'sky' on a b/9.jpg"),
        ({"values": bad(-np.inf)}, "the first is -inf of 'sky'"),
        ({"values": VALUES.T}, r"expected scores of shape \(images, labels\) = \(17, 5\), got \(5, 17\)"),
        ({"values": VALUES[:, 0]}, r"got \(17,\)"),
        ({"labels": [*LABELS[:4], "dog"]}, "has no scores of 1 of the 5 labels: 'été'"),
        ({"images": [*IMAGES[:16], "x"]}, "has no scores of 1 of the 17 images: 'a b/16.jpg'"),
        ({"labels": [*LABELS[:4], "cat"]}, "labels more than once: 'cat'"),
        ({"images": [*IMAGES[:16], IMAGES[0]]}, "images more than once: 'a b/0.jpg'"),
        ({"images": [*IMAGES[:6], IMAGES[0], *IMAGES[7:]]}, "images more than once: 'a b/0.jpg'"),
        ({"images": list(range(17))}, "expected images and labels as arrays of text, got int64"),
        ({"values": VALUES.astype("U8")}, "expected scores as numbers"),
        ({"kind": "odds"}, "expected scores of the kind logits or probabilities, got 'odds'"),
    ],
)
def test_what_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    values = changed.pop("values", VALUES) if "values" in changed else VALUES
    path = write(tmp_path / "s.npz", values, **changed)
    with pytest.raises(UserError, match=message):
        read_scores(path, IMAGES, LABELS, None, [])


def test_logits_and_probabilities_are_not_mistaken(tmp_path: Path) -> None:
    logits = write(tmp_path / "logits.npz")
    probabilities = write(tmp_path / "p.npz", 1 / (1 + np.exp(-VALUES)))
    with pytest.raises(UserError, match=r"said to hold logits, but all its scores are in 0\.\.1.*--kind probabilities"):
        scores(probabilities, "logits")
    with pytest.raises(UserError, match="said to hold probabilities, but its scores go from"):
        scores(logits, "probabilities")
    notes: list[str] = []
    assert read_scores(logits, IMAGES, LABELS, None, notes)[1] == "logits"
    assert read_scores(probabilities, IMAGES, LABELS, None, notes)[1] == "probabilities"
    assert all("are taken as" in note for note in notes)


@pytest.mark.parametrize("name", ["s.npz", "s.csv", "s.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01 no file of any kind \xff", b"image,cat\n1.jpg,much\n"])
def test_damaged_files_are_refused_in_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|no scores of|expected"):
        read_scores(tmp_path / name, ["1.jpg"], ["cat"], None, [])


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "s.npz")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="cannot be read"):
        scores(path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=VALUES, images=np.array(IMAGES, object), labels=np.array(LABELS))
    with pytest.raises(UserError, match="cannot be read: Object arrays cannot be loaded"):
        scores(tmp_path / "s.npz")


def test_names_are_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=VALUES)
    with pytest.raises(UserError, match="it lacks images, labels: without names nothing says"):
        scores(tmp_path / "s.npz")
    with pytest.raises(UserError, match=r"that ends in \.npz, \.csv, \.parquet"):
        scores(tmp_path / "s.txt")
    with pytest.raises(UserError, match="no file of scores at"):
        scores(tmp_path / "none.csv")


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,cat,dog\na.jpg,1,0\nb.jpg,,1\n")
    images, labels, targets, ignored = read_targets(tmp_path / "t.csv")
    assert (images, labels) == (["a.jpg", "b.jpg"], ["cat", "dog"])
    assert targets.tolist() == [[True, False], [False, True]]
    assert ignored.tolist() == [[False, False], [True, False]]
    np.savez(tmp_path / "t.npz", targets=[[1, -1]], images=["a"], labels=["cat", "dog"])
    assert read_targets(tmp_path / "t.npz")[3].tolist() == [[False, True]]
    (tmp_path / "t.csv").write_text("image,cat\na.jpg,0.5\n")
    with pytest.raises(UserError, match=r"got 0\.5 for 'cat' on a\.jpg"):
        read_targets(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("image,cat\na.jpg,1\na.jpg,0\n")
    with pytest.raises(UserError, match=r"images more than once: 'a\.jpg'"):
        read_targets(tmp_path / "t.csv")

"""Words that were never trained hear the classes whose names are near them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from evidence_folder import CLASSES, WIDTH
from made_data import write_photo

from zsl_tagger import Library, Tagger
from zsl_tagger.errors import UserError
from zsl_tagger.tagging import near_classes as near
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence, Scoring
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelFolderError

random = np.random.default_rng(0)
VECTORS, QUERIES = random.normal(size=(11, 5)), random.normal(size=(3, 5)).astype(np.float32)
BACKGROUND = random.random((7, 11)).astype(np.float32) ** 3


def by_the_formula(query: np.ndarray, classes: np.ndarray) -> float:
    """The module's docstring for one word and photo, before the mean is subtracted."""
    cosines = [float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) for row in VECTORS]
    nearest = sorted(range(11), key=lambda number: -cosines[number])[: near.NEAREST]
    return float(np.log(sum(classes[number] * np.exp(10 * (cosines[number] - 1)) for number in nearest) + 1e-3))


@pytest.fixture(params=[4, 20])  # fewer and more than there are
def _nearest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "NEAREST", request.param)


@pytest.mark.usefixtures("_nearest")
@pytest.mark.parametrize("at_once", [2, 2048])
def test_log_odds_follow_the_formula(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(near, "_LABELS_AT_ONCE", at_once)
    unit = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
    found = near.near_classes(np.array([1, 2, 4]), QUERIES, unit, BACKGROUND)
    words = [ClassWord((3,), True), None, ClassWord((5,), True), None, None]
    logits = random.normal(size=(6, 5)).astype(np.float32)
    classes = random.random((6, 11)).astype(np.float32) ** 3
    plain, hearing = LabelEvidence(words, Scoring()), LabelEvidence(words, Scoring()).with_near(found)
    expected = plain.join(logits, classes).astype(np.float64)
    for label, query in zip((1, 2, 4), QUERIES, strict=True):
        usual = np.mean([by_the_formula(query, row) for row in BACKGROUND])
        expected[:, label] += [0.6 * (by_the_formula(query, row) - usual) for row in classes]
    np.testing.assert_allclose(hearing.join(logits, classes), expected, atol=2e-5)
    for keep in ([4, 0, 2], [3, 0]):
        np.testing.assert_allclose(hearing.only(keep).join(logits[:, keep], classes), expected[:, keep], atol=2e-5)


# --- in a model folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.getbasetemp() / f"near{seed}.jpg" for seed in range(6)]
    for seed, path in enumerate(paths):
        write_photo(path, seed)
    return paths


@pytest.fixture
def own(evidence_folder: Path, photos: list[Path], tmp_path: Path) -> Path:
    """A copy with a background, whose first class has the vector of "theorem"."""
    folder = Path(shutil.copytree(evidence_folder, tmp_path / "own"))
    tagger = Tagger(folder)
    encoded = [tagger.encode(path) for path in photos[:3]]
    classes = np.concatenate([one.classes for one in encoded if one.classes is not None])
    Background(Encoded(np.concatenate([one.tokens for one in encoded]), classes)).save(folder / "background.npz")
    vectors = np.random.default_rng(1).normal(size=(CLASSES, WIDTH))
    vectors[0] = tagger.words.vectors(["theorem"])[0]
    np.save(folder / "class_vectors.npy", vectors.astype(np.float16))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
def test_only_words_never_trained_hear_near_classes(own: Path, photos: list[Path], tmp_path: Path) -> None:
    tagger, plain = Tagger(own), Tagger(shutil.copytree(own, tmp_path / "plain"))
    (tmp_path / "plain" / "class_vectors.npy").unlink()
    tokens = tagger.encode(photos[4]).tokens
    asked = ["dog", "theorem", "boat", "cat"]
    heard = []
    for p in (0.001, 0.1, 0.9):
        classes = np.full((1, CLASSES), 1e-5, np.float32)
        classes[0, 0] = p
        found, without = (one.log_odds(Encoded(tokens, classes), one.label_set(asked))[0] for one in (tagger, plain))
        assert (found[[0, 2, 3]] == without[[0, 2, 3]]).all()  # "boat" is listed, though not trained
        heard.append(found[1] - without[1])
    assert heard == sorted(heard)
    assert heard[2] - heard[1] > 0.5
    (alone,) = tagger.log_odds(Encoded(tokens, classes), tagger.label_set(["theorem"]))[0]
    assert alone == pytest.approx(found[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
def test_searches_hear_near_classes(own: Path, photos: list[Path], tmp_path: Path) -> None:
    tagger = Tagger(own)
    with Library.open(tmp_path / "index", own) as library:
        library.add(photos)
        labels = tagger.label_set(["theorem"])
        expected = {str(path): tagger.scores(tagger.encode(path), labels)[0, 0] for path in photos}
        found = {one.path: one.score for one in library.search("theorem", top=99)}
        assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"broken", r"class_vectors\.npy is not a file of class vectors: expected an array of numpy"),
        (
            np.zeros((CLASSES, 3), np.float16),
            r"class_vectors\.npy belongs to another model: .*\(1000, 7\), got",
        ),
        (np.zeros((5, 7), np.float16), r"class_vectors\.npy belongs to another model: .*got \(5, 7\)"),
        (np.zeros((CLASSES, 7), np.int32), r"class_vectors\.npy is not a file of class vectors: expected rows of fin"),
        (np.full((CLASSES, 7), np.nan), r"class_vectors\.npy is not a file of class vectors: expected rows of finite"),
    ],
)
def test_a_broken_file_is_one_message(own: Path, content: bytes | np.ndarray, message: str) -> None:
    path = own / "class_vectors.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ModelFolderError, match=message):
        Tagger(own).label_set(["theorem"])


def test_a_folder_in_its_place_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "class_vectors.npy").mkdir()
    with pytest.raises(UserError, match=r"class_vectors\.npy cannot be read: Is a directory"):
        near.read_class_vectors(tmp_path / "class_vectors.npy")

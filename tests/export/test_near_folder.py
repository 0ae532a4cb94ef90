"""A model folder with class vectors: words that were never trained hear near classes in tags and searches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from evidence_folder import CLASSES, WIDTH
from made_data import write_photos

from zsl_tagger import Library, Tagger
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelFolderError

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.getbasetemp(), "near", 6)


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


def test_searches_hear_near_classes(own: Path, photos: list[Path], tmp_path: Path) -> None:
    tagger = Tagger(own)
    with Library.open(tmp_path / "index", own) as library:
        library.add(photos)
        labels = tagger.label_set(["theorem"])
        expected = {str(path): tagger.scores(tagger.encode(path), labels)[0, 0] for path in photos}
        found = {one.path: one.score for one in library.search("theorem", top=99)}
        assert found == pytest.approx(expected, abs=0.02)


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

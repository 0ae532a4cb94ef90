"""``background.npz``: what it keeps, what it refuses, and where a word stands out from it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.background import LEAST, Background, standing_out
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelConfig, ModelFolder, ModelFolderError, write_config, write_labels

PHOTOS, PLACES, WIDTH, CLASSES = 5, 7, 11, 13


def made(classes: bool = True) -> Encoded:
    """Tokens as out of a ReLU, of very different sizes; the last photo's are all the same."""
    random = np.random.default_rng(0)
    tokens = np.maximum(random.normal(size=(PHOTOS, PLACES, WIDTH)), 0) * np.geomspace(0.01, 100, PLACES)[:, None]
    tokens[-1] = 0.7
    probabilities = random.random((PHOTOS, CLASSES)).astype(np.float32) ** 5
    probabilities[0, :2] = 0, 1
    return Encoded(tokens.astype(np.float32), probabilities if classes else None)


def test_tokens_are_kept_within_half_a_step_and_classes_too(tmp_path: Path) -> None:
    encoded = made()
    Background(encoded).save(tmp_path / "background.npz")
    kept = Background.load(tmp_path / "background.npz").encoded
    assert kept.tokens.shape == (PHOTOS, PLACES, WIDTH)
    assert kept.classes is not None
    assert encoded.classes is not None
    assert kept.tokens.dtype == kept.classes.dtype == np.float32
    step = np.ptp(encoded.tokens, axis=2, keepdims=True) / 255  # of each token by itself
    assert (np.abs(kept.tokens - encoded.tokens) <= 0.51 * step + 1e-6).all()
    assert np.abs(kept.classes - encoded.classes).max() <= 0.51 / 255
    assert kept.classes[0, :2].tolist() == [0, 1]


def test_a_model_without_class_probabilities(tmp_path: Path) -> None:
    Background(made(classes=False)).save(tmp_path / "background.npz")
    assert Background.load(tmp_path / "background.npz").encoded.classes is None


def archive(**changes: Any) -> bytes:
    """Return what :meth:`Background.save` writes, with arrays changed; None leaves one out."""
    arrays: dict[str, Any] = {
        "levels": np.zeros((5, 7, 11), np.uint8), "step": np.ones((5, 7, 1), np.float32),
        "low": np.ones((5, 7, 1), np.float32), "classes": np.zeros((5, 13), np.uint8),
    }  # fmt: skip
    stream = io.BytesIO()
    np.savez(stream, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return stream.getvalue()


def array_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((5, 7, 11), np.float32))
    return stream.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"no archive",
    "one array": array_file(),
    "cut": archive()[:-30],
    "cut early": archive()[:300],
    "without low": archive(low=None),
    "without levels": archive(levels=None),
    "of objects": archive(step=np.array([None] * 5)),
    "of text": archive(levels=np.array("levels")),
    "other shapes": archive(step=np.ones((5, 3, 1), np.float32)),
    "no photos' tokens": archive(
        levels=np.zeros((7, 11), np.uint8), step=np.float32(1), low=np.float32(0), classes=None
    ),
    "float64": archive(step=np.ones((5, 7, 1))),
    "fewer photos' classes": archive(classes=np.zeros((3, 13), np.uint8)),
    "classes of text": archive(classes=np.array(["a"] * 5)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_file_is_one_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "background.npz"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(UserError, match=r"background\.npz is not a background file: expected .*$") as caught:
        Background.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_archive_that_these_are_made_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "background.npz").write_bytes(archive())
    assert Background.load(tmp_path / "background.npz").encoded.tokens.shape == (5, 7, 11)


def test_a_model_folder_says_which_file_is_wrong(tmp_path: Path) -> None:
    write_config(tmp_path, ModelConfig.from_json({"image_size": 8, "word_dim": 3, "default_threshold": 0.5}))
    write_labels(tmp_path, [])
    for name in ("encoder.onnx", "decoder.onnx", "words.txt", "word_vectors.npy"):
        (tmp_path / name).touch()
    folder = ModelFolder(tmp_path)
    assert folder.background(WIDTH, CLASSES) is None
    Background(made()).save(tmp_path / "background.npz")
    assert folder.background(WIDTH, CLASSES) is not None
    (tmp_path / "background.npz").write_bytes(b"else")
    with pytest.raises(ModelFolderError, match=r"^/.*/background\.npz is not a background file: expected arrays"):
        folder.background(WIDTH, CLASSES)


def test_where_a_word_stands_out() -> None:
    """Try four words: mean and deviation decide, also with one high photo, nothing changes, and the least score."""
    even = np.array([-1.0, 1.0] * 18)
    outlier = np.array([0.0] * 35 + [9.0])
    found = standing_out(np.column_stack([even - 3, outlier, np.full(36, 2.5), even - 9]))
    deviation = (sum((value - 0.25) ** 2 for value in outlier) / 36) ** 0.5
    np.testing.assert_allclose(found, [-3 + 3 * 1.0, 0.25 + 3 * deviation, 2.5, LEAST])

"""A small model in torch -> ONNX -> tagger: the same scores all along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from zsl_tagger.export.networks import write_networks
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel, softmax_log_odds
from zsl_tagger.model_folder import ModelConfig, ModelFolderError, VocabularyLabel, write_config, write_labels
from zsl_tagger.queries import WordTable
from zsl_tagger.tag import Tagger

SIZE, WORD_DIM = 96, 6


@pytest.fixture(scope="module")
def model() -> TaggerModel:
    torch.manual_seed(0)
    backbone = Backbone("test_efficientnet", num_classes=11)
    reading = ClassReading(backbone.network.classifier, torch.randn(11, WORD_DIM))
    head = MLDecoder(backbone.channels + WORD_DIM, word_dim=WORD_DIM, dim=24, ffn_dim=29, heads=3)
    return TaggerModel(backbone, head, reading).eval()


@pytest.fixture
def folder(model: TaggerModel, tmp_path: Path) -> Path:
    write_networks(model, tmp_path, SIZE)
    rng = np.random.default_rng(0)
    WordTable(["dog", "cat", "beach"], rng.normal(size=(3, WORD_DIM)).astype(np.float32)).save(tmp_path)
    write_labels(tmp_path, [VocabularyLabel("dog", 0.0), VocabularyLabel("cat", 0.0)])
    write_config(tmp_path, ModelConfig(image_size=SIZE, word_dim=WORD_DIM, default_threshold=0.0))
    return tmp_path


def test_tagger_and_torch_give_the_same_scores(model: TaggerModel, folder: Path) -> None:
    tagger = Tagger(folder)
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    with torch.inference_mode():
        logits = model(torch.from_numpy(image[None]), torch.from_numpy(tagger.words.vectors(["beach", "dog"])))
    scores = tagger.scores(tagger.encode(image), ["beach", "dog"])
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), atol=1e-5)


def test_any_batch_and_label_count(folder: Path) -> None:
    tagger = Tagger(folder)
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    tokens = tagger._model.encode(images)
    assert tagger.scores(tokens, ["cat"]).shape == (3, 1)
    assert tagger.scores(tokens, tagger.vocabulary).shape == (3, 2)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_closed_set_is_asked_by_class_number(tmp_path: Path, softmax: bool) -> None:
    torch.manual_seed(3)
    backbone = Backbone("test_efficientnet")
    closed = TaggerModel(backbone, MLDecoder(backbone.channels, num_classes=7, groups=3, dim=24, heads=3)).eval()
    write_networks(closed, tmp_path, SIZE, softmax)
    pixels = np.random.default_rng(5).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    encoder, decoder = (onnxruntime.InferenceSession(tmp_path / name) for name in ("encoder.onnx", "decoder.onnx"))
    tokens = encoder.run(["tokens"], {"images": pixels})[0]
    asked = np.array([6, 0, 4], np.int64)
    logits = decoder.run(["logits"], {"tokens": tokens, "queries": asked})[0]
    with torch.inference_mode():
        expected = closed(torch.from_numpy(pixels))
    expected = expected.softmax(-1) if softmax else expected.sigmoid()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected[:, asked].numpy(), atol=1e-5)


def test_log_odds_are_exact_where_the_softmax_is_sure() -> None:
    """float32 against float64: a logit of 20 has 1 - p = 1e-9, which float32 cannot subtract."""
    random = np.random.default_rng(4)
    logits = random.normal(size=(11, 7))
    logits[np.arange(11), np.arange(11) % 7] += np.linspace(0, 40, 11)
    logits[0, :2] = 3.0  # two best ones
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rest = np.stack([np.delete(p, k, axis=1).sum(axis=1) for k in range(7)], axis=1)
    found = softmax_log_odds(torch.from_numpy(logits.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, np.log(p) - np.log(rest), atol=1e-5)
    assert softmax_log_odds(torch.zeros(2, 1)).tolist() == [[80], [80]]  # one class: certain


def test_networks_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    write_config(folder, ModelConfig(image_size=64, word_dim=WORD_DIM, default_threshold=0.0))
    with pytest.raises(ModelFolderError, match=r"encoder.onnx: expected 'images' of shape \(any, 64, 64, 3\), got"):
        Tagger(folder)


def test_swapped_and_broken_networks_are_named(folder: Path) -> None:
    decoder = (folder / "decoder.onnx").read_bytes()
    (folder / "decoder.onnx").write_bytes((folder / "encoder.onnx").read_bytes())
    with pytest.raises(ModelFolderError, match=r"decoder.onnx: expected a tensor 'tokens', found only images"):
        Tagger(folder)
    (folder / "decoder.onnx").write_bytes(decoder[: len(decoder) // 2])
    with pytest.raises(ModelFolderError, match=r"decoder.onnx cannot be loaded"):
        Tagger(folder)

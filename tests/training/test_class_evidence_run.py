"""Test training on a frozen backbone with a classifier, which contributes to words for ImageNet classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small_run

from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_evidence import class_probabilities, has_class_evidence
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.tagging.class_evidence import LabelEvidence, Scoring
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.training.run import train

pytestmark = pytest.mark.slow  # each trains a model

ASKED = ["dog", "zebra", "lion", "theorem"]


def test_trained_model_uses_the_classifier_of_its_backbone(
    animals: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    run = small_run(
        animals, tmp_path / "out", "cache_views=1", recipe="my-photos", backbone="tf_efficientnet_lite0", init="timm",
    )  # fmt: skip
    assert train(run) is not None
    assert any("words for ImageNet classes" in line for line in logged.messages)
    tagger, folder = Tagger(tmp_path / "out"), ModelFolder(tmp_path / "out")
    assert folder.config.scoring == Scoring()
    dataset = load_dataset(animals)
    assert dataset.image_root is not None
    image = load_array(dataset.image_root / dataset.paths[0], tagger.preprocessing)
    labels, model = tagger.label_set(ASKED), load_model(tmp_path / "out")
    with torch.inference_mode():
        tokens = model.backbone_tokens(torch.from_numpy(image[None].copy()))
        logits = model.score(model.embed(tokens), torch.from_numpy(labels.queries)).numpy()
        side = round(tokens.shape[1] ** 0.5)
        assert side == 2  # of 64 pixels: each token is a window
        classes = model.backbone.network.get_classifier()(tokens[0]).softmax(-1).amax(0)[None].numpy()
    words = [folder.class_words(1000).get(key) for key in labels.keys]
    assert [word is not None for word in words] == [True, True, True, False]
    expected = LabelEvidence(words, Scoring()).join(logits, classes)
    np.testing.assert_allclose(tagger.log_odds(tagger.encode(image), labels), expected, atol=2e-3)
    assert not np.allclose(expected[:, :3], logits[:, :3], atol=0.1)


def test_no_class_evidence_without_an_imagenet_classifier(
    animals: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    run = small_run(animals, tmp_path / "out", "cache_views=1", recipe="my-photos", backbone="test_vit")
    assert train(run) is not None
    assert any(line.startswith("class evidence: none, because test_vit") for line in logged.messages)
    assert ModelFolder(tmp_path / "out").config.scoring is None
    assert Tagger(tmp_path / "out").encode(np.zeros((64, 64, 3), np.uint8)).classes is None


def test_no_class_evidence_if_the_backbone_is_trained(
    animals: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"recipe": "my-photos", "backbone": "test_efficientnet"}
    run = small_run(animals, tmp_path / "out", "cache_views=0", "freeze=false", **settings)
    assert train(run) is not None
    assert any(line.startswith("class evidence: none, because a trained backbone") for line in logged.messages)
    assert ModelFolder(tmp_path / "out").config.scoring is None


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [("test_resnet", 1000, True), ("test_efficientnet", 1000, True), ("test_efficientnet", 11, False),
     ("test_vit", 1000, False), ("mobilenetv3_small_050", 1000, False)],
)  # fmt: skip
def test_which_backbones_have_class_evidence(name: str, classes: int, expected: bool) -> None:
    assert has_class_evidence(Backbone(name, image_size=160), 160, classes) == expected


def test_windows_are_halves_of_the_image() -> None:
    """A class that fills one quarter of the image is as probable as in a photo of only this quarter."""
    classifier = torch.nn.Linear(3, 5)
    tokens = torch.zeros(1, 12, 12, 3)
    tokens[0, 6:, :6] = torch.tensor([4.0, -2.0, 1.0])
    found = class_probabilities(tokens.flatten(1, 2), classifier)
    alone = classifier(torch.tensor([4.0, -2.0, 1.0])).softmax(-1)
    nothing = classifier(torch.zeros(3)).softmax(-1)
    best = int(alone.argmax())
    torch.testing.assert_close(found[0, best], torch.maximum(alone, nothing)[best])

"""zsl_tagger/model/backbone.py, class_reading.py and tagger_model.py, on timm's smallest networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import timm
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone, normalization
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel

SMALL_SWIN = {"img_size": (32, 64), "window_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
SMALL_VIT = {"img_size": (28, 42), "depth": 1, "embed_dim": 24, "num_heads": 3}

N, WORD_DIM, K = 7, 5, 11


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_tokens_of_every_architecture(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name).eval()
    _, height, width = backbone.network.pretrained_cfg["input_size"]
    stride = backbone.network.feature_info[-1]["reduction"]
    tokens = backbone(torch.randn(2, 3, height, width))
    assert tokens.shape == (2, (height // stride) * (width // stride), backbone.channels)

    tokens.square().mean().backward()
    stem = next(p for p in backbone.network.parameters() if p.ndim == 4)
    assert stem.grad is not None
    assert stem.grad.isfinite().all()
    assert stem.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "options", "grid", "place"),
    [
        ("test_resnet", {}, (2, 3), lambda features, y, x: features[:, :, y, x]),
        ("test_mambaout", {}, (2, 3), lambda features, y, x: features[:, y, x]),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, (4, 8), lambda features, y, x: features[:, y, x]),
        ("test_vit", {"img_size": (32, 48)}, (2, 3), lambda features, y, x: features[:, 1 + 3 * y + x]),
        ("vit_small_patch14_reg4_dinov2", SMALL_VIT, (2, 3), lambda features, y, x: features[:, 1 + 4 + 3 * y + x]),
    ],
    ids=["CNN", "channels last CNN", "swin", "class token", "class and register tokens"],
)
def test_token_values_row_by_row(
    name: str, options: dict[str, Any], grid: tuple[int, int], place: Callable[[Tensor, int, int], Tensor]
) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, **options).eval()
    images = torch.randn(2, 3, *options.get("img_size", (64, 96)))
    with torch.no_grad():
        features = backbone.network.forward_features(images)
        tokens = backbone(images)
    expected = [place(features, y, x) for y in range(grid[0]) for x in range(grid[1])]
    assert torch.equal(tokens, torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    ("name", "nearest"), [("test_resnett", "names are: test_resnet, "), ("#!?", "names are: none$")]
)
def test_unknown_name_proposes_near_ones(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=nearest):
        Backbone(name)


def test_features_of_another_rank_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("test_resnet")
    monkeypatch.setattr(backbone.network, "forward_features", lambda images: images.mean((2, 3)))
    with pytest.raises(ValueError, match=r"expected a tensor of rank 3 or 4, got \(2, 3\)"):
        backbone(torch.zeros(2, 3, 32, 32))


def make_model(*, with_reading: bool = False) -> TaggerModel:
    """Three channels normalised in three ways, so that none can be swapped."""
    torch.manual_seed(0)
    overlay = {"mean": (0.1, 0.3, 0.6), "std": (0.2, 0.4, 0.7)}
    backbone = Backbone("test_resnet", pretrained_cfg_overlay=overlay)
    channels = backbone.channels + (WORD_DIM if with_reading else 0)
    head = MLDecoder(channels, word_dim=WORD_DIM, dim=24, ffn_dim=17, heads=3)
    reading = ClassReading(nn.Linear(backbone.channels, N), torch.randn(N, WORD_DIM)) if with_reading else None
    return TaggerModel(backbone, head, reading).eval()


def make_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_class_reading_equals_a_loop() -> None:
    torch.manual_seed(0)
    classifier, vectors, tokens = nn.Linear(13, N), torch.randn(N, WORD_DIM), torch.randn(2, 3, 13)
    read = ClassReading(classifier, vectors)(tokens)
    assert read.shape == (2, 3, 13 + WORD_DIM)
    for image, image_read in zip(tokens, read, strict=True):
        for token, token_read in zip(image, image_read, strict=True):  # 4: the scale that trained models expect
            assert_close(token_read, reference.class_reading(classifier.weight, classifier.bias, vectors, 4.0, token))


def test_class_reading_is_frozen_and_keeps_its_own_copy() -> None:
    classifier = nn.Linear(13, N)
    reading, tokens = ClassReading(classifier, torch.randn(N, WORD_DIM)), torch.randn(2, 3, 13)
    before = reading(tokens)
    nn.init.normal_(classifier.weight)
    nn.init.normal_(classifier.bias)
    assert torch.equal(reading(tokens), before)
    assert list(reading.parameters()) == []
    assert set(reading.state_dict()) == {"weight", "bias", "class_vectors"}


def test_normalization_is_the_networks_own() -> None:
    mean, std = normalization(make_model().backbone)
    assert_close(mean, torch.tensor([0.1, 0.3, 0.6]))
    assert_close(std, torch.tensor([0.2, 0.4, 0.7]))


@pytest.mark.parametrize("with_reading", [False, True])
@torch.no_grad()
def test_encode_normalises_as_by_hand(with_reading: bool) -> None:
    model, images = make_model(with_reading=with_reading), make_images()
    by_hand = torch.empty(2, 3, 64, 96)
    for channel, (mean, std) in enumerate([(0.1, 0.2), (0.3, 0.4), (0.6, 0.7)]):
        by_hand[:, channel] = (images[..., channel] / 255 - mean) / std
    tokens = model.backbone(by_hand)
    if model.reading is not None:
        tokens = model.reading(tokens)
    assert_close(model.encode(images), model.head.embed_tokens(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_reading", [False, True])
@torch.no_grad()
def test_encode_once_and_score_equals_forward(with_reading: bool) -> None:
    model, images = make_model(with_reading=with_reading), make_images()
    queries = torch.randn(K, WORD_DIM)
    logits = model(images, queries)
    tokens = model.encode(images)
    assert logits.shape == (2, K)
    assert logits.std() > 0
    assert_close(model.score(tokens, queries), logits)
    assert_close(model.score(tokens, queries[3:5]), logits[:, 3:5])

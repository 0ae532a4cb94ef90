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

pytestmark = pytest.mark.usefixtures("one_torch_thread")


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
    assert (mean, std) == ((0.1, 0.3, 0.6), (0.2, 0.4, 0.7))


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


# --- before a run -----------------------------------------------------------------------------------------


def state_of(backbone: Backbone) -> tuple[dict[str, Tensor], list[bool]]:
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    return state, [module.training for module in backbone.modules()]


@pytest.mark.parametrize(
    ("name", "image_size"), [("test_resnet", 96), ("test_resnet", 33), ("test_efficientnet", 64), ("test_vit", 160)]
)
def test_a_size_that_fits_changes_nothing(name: str, image_size: int) -> None:
    backbone = Backbone(name, image_size=image_size).train()
    backbone.network.eval()  # a mixture of modes: each is given back
    next(backbone.network.children()).train()
    state, modes = state_of(backbone)
    backbone.check_size(image_size)
    after, modes_after = state_of(backbone)
    assert modes_after == modes
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "options", "image_size", "message"),
    [
        (
            "vit_small_patch14_reg4_dinov2",
            SMALL_VIT,
            56,
            r"cannot process images of 56 px \(.+\); its own size is 518$",
        ),
        ("test_vit", {}, 24, r"cannot process images of 24 px \(.*divisible.*\); its own size is 160$"),
        ("test_resnet", {"in_chans": 5}, 64, r"cannot process images of 64 px \(.*channels.*\); its own size is 160$"),
    ],
    ids=["fixed size", "size of a patch", "channels"],
)
def test_a_size_that_a_network_refuses(name: str, options: dict[str, Any], image_size: int, message: str) -> None:
    backbone = Backbone(name, **options)
    modes = [module.training for module in backbone.modules()]
    with pytest.raises(UserError, match=f"^{name} {message}"):
        backbone.check_size(image_size)
    assert [module.training for module in backbone.modules()] == modes


def test_a_network_that_leaves_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("test_resnet")
    monkeypatch.setattr(backbone.network, "forward_features", lambda images: images[:, :, :0])
    with pytest.raises(UserError, match=r"^test_resnet has no tokens left for images of 7 px; its own size is 160$"):
        backbone.check_size(7)


@pytest.mark.parametrize(
    ("name", "classifier"), [("test_resnet", "fc"), ("test_efficientnet", "classifier"), ("test_vit", "head")]
)
def test_only_the_classifier_is_unused(name: str, classifier: str) -> None:
    backbone = Backbone(name).train()
    state, modes = state_of(backbone)
    backbone.leave_out_unused(160)
    unused = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert unused == {f"network.{classifier}.weight", f"network.{classifier}.bias"}
    assert all(parameter.grad is None for parameter in backbone.parameters())
    after, modes_after = state_of(backbone)
    assert modes_after == modes
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_what_is_left_has_a_gradient_in_training() -> None:
    """The contract of several processes: nothing is waited for in vain."""
    backbone = Backbone("test_vit").train()
    backbone.leave_out_unused(160)
    backbone(torch.randn(2, 3, 160, 160)).square().sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in backbone.parameters())


@torch.no_grad()
def test_unused_parts_are_found_where_gradients_are_off() -> None:
    backbone = Backbone("test_resnet")
    backbone.leave_out_unused(64)
    assert sum(not parameter.requires_grad for parameter in backbone.parameters()) == 2
    assert not torch.is_grad_enabled()


def test_what_was_frozen_stays_frozen() -> None:
    backbone = Backbone("test_resnet")
    stem = next(backbone.parameters())
    stem.requires_grad_(False)
    backbone.leave_out_unused(64)
    assert not stem.requires_grad

"""zsl_tagger/model/drop_in.py: the head in place of the classifier of every network that docs/head.md lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from paths import ROOT
from torch.testing import assert_close

from zsl_tagger import MLDecoder, UserError, add_ml_decoder_head
from zsl_tagger.model.backbone import Backbone

PAGE = ROOT / "docs" / "head.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
NETWORKS = ROW.findall(PAGE.read_text(encoding="utf-8"))


pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


def test_the_page_lists_many_and_all_small_ones() -> None:
    names = {name for name, *_ in NETWORKS}
    assert len(names) == len(NETWORKS) >= 50
    assert set(timm.list_models("test_*")) <= names


@pytest.mark.parametrize(("name", "kind", "size", "tokens", "channels"), NETWORKS, ids=[name for name, *_ in NETWORKS])
def test_forward_and_backward(name: str, kind: str, size: str, tokens: str, channels: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name} yet")
    torch.manual_seed(0)
    network = timm.create_model(name)
    assert type(network).__name__ == kind
    if not hasattr(network, "feature_info"):
        pytest.skip(f"timm {timm.__version__} gives no single map of {name}")
    model = add_ml_decoder_head(network, num_classes=13, groups=5, dim=32, ffn_dim=8)
    shapes: list[torch.Size] = []
    model.head.register_forward_pre_hook(lambda _head, given: shapes.append(given[0].shape))
    logits = model(torch.randn(2, 3, int(size), int(size)))
    assert shapes == [(2, int(tokens), int(channels))]
    assert logits.shape == (2, 13)
    logits.square().mean().backward()
    stem = next(parameter for parameter in model.backbone.parameters() if parameter.ndim == 4)
    assert stem.grad is not None
    assert stem.grad.isfinite().all()
    assert stem.grad.abs().max() > 0


def test_word_queries_and_what_timm_asks_of_a_network() -> None:
    network = timm.create_model("test_vit")
    words = add_ml_decoder_head(network, word_dim=7, dim=32, ffn_dim=8).eval()
    images, vectors = torch.randn(2, 3, 160, 160), torch.randn(11, 7)
    assert words(images, vectors).shape == (2, 11)
    assert_close(words(images, words.head.prepare(vectors)), words(images, vectors))
    assert timm.data.resolve_model_data_config(words)["input_size"] == (3, 160, 160)
    assert words.num_classes == 0
    assert isinstance(words.get_classifier(), MLDecoder)


def test_the_networks_own_classifier_is_gone_and_its_size_is_the_default() -> None:
    model = add_ml_decoder_head(timm.create_model("test_resnet", num_classes=17), dim=32, ffn_dim=8)
    assert model.num_classes == model.head.num_classes == 17
    assert not any(name.startswith("fc") for name, _ in model.backbone.network.named_parameters())
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 17)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_the_methods_of_a_timm_network_keep_their_meaning(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    images = torch.randn(2, 3, 160, 160)
    features = network.forward_features(images)
    pooled = network.forward_head(features, pre_logits=True)
    model = add_ml_decoder_head(network, num_classes=13, groups=5, dim=32, ffn_dim=8).eval()
    assert torch.equal(model.forward_features(images), features)
    assert torch.equal(model.forward_head(features), model(images))
    assert torch.equal(model.forward_head(features, pre_logits=True), pooled)
    model.reset_classifier(3)
    head = model.get_classifier()
    assert isinstance(head, MLDecoder)
    assert (model.num_classes, head.num_classes, head.dim, len(head.group_queries)) == (3, 3, 32, 3)
    assert not head.training
    assert model(images).shape == (2, 3)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    assert model.num_classes == 0
    assert torch.equal(model(images), pooled)
    model.reset_classifier(0, "")
    assert model(images).shape == features.shape  # not pooled, as timm has it
    model.half().reset_classifier(4)
    assert next(model.get_classifier().parameters()).dtype == torch.float16


@torch.no_grad()
def test_the_methods_with_word_queries_and_with_stages() -> None:
    images, vectors = torch.randn(2, 3, 160, 160), torch.randn(11, 7)
    words = add_ml_decoder_head(timm.create_model("test_vit"), word_dim=7, dim=32, ffn_dim=8).eval()
    assert torch.equal(words.forward_head(words.forward_features(images), queries=vectors), words(images, vectors))
    words.reset_classifier(5)
    assert words(images).shape == (2, 5)
    several = add_ml_decoder_head(timm.create_model("test_vit"), 5, stages=(-2, -1), dim=32, ffn_dim=8).eval()
    features = several.forward_features(images)
    assert features.shape == several.backbone(images).shape
    assert torch.equal(several.forward_head(features), several(images))
    for call in (lambda: several.reset_classifier(0), lambda: several.forward_head(features, pre_logits=True)):
        with pytest.raises(
            UserError, match=r"^the feature maps \[.*\] of test_vit have no pooling in common: expected"
        ):
            call()


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda: torch.nn.Linear(3, 4), r"torch\.nn\.modules\.linear\.Linear, which has no forward_features, .*"),
        (lambda: timm.create_model("test_resnet", features_only=True), r"timm\..*, which has no forward_features, .*"),
        (lambda: add_ml_decoder_head(timm.create_model("test_resnet")), r"zsl_tagger\..*, which has no num_features"),
        (lambda: "resnet50", "'resnet50'"),
        (lambda: None, "builtins.NoneType, which has no .*"),
    ],
)
def test_a_network_that_is_not_timms(network: Callable[[], Any], got: str) -> None:
    made = network()
    for use in (add_ml_decoder_head, Backbone):
        if isinstance(made, torch.nn.Module) or use is not Backbone:  # which takes names too
            with pytest.raises(UserError, match=rf"^expected a network as timm\.create_model returns it, got {got}$"):
                use(made)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "stages"), [("test_resnet", (-2, -1)), ("test_mambaout", (-1, 1)), ("test_vit", (0, 2, -1))]
)
def test_several_stages_have_channels_of_their_own(name: str, stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    size = network.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size)
    backbone = Backbone(network, stages=stages)
    tokens = backbone(images)
    every = network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    chosen = sorted({stage % len(every) for stage in stages})
    assert tokens.shape[2] == backbone.channels == sum(every[stage].shape[1] for stage in chosen)
    place = channel = 0
    for stage in chosen:
        features = every[stage]  # (2, C_i, h, w)
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                expected = torch.zeros(2, backbone.channels)
                expected[:, channel : channel + features.shape[1]] = features[:, :, y, x]
                assert torch.equal(tokens[:, place], expected)
                place += 1
        channel += features.shape[1]
    assert place == tokens.shape[1]


@pytest.mark.parametrize("stages", [(), (5,), (-6, -1)])
def test_stages_that_are_not_there(stages: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^test_resnet has 5 feature maps: expected stages in -5\.\.4, got \["):
        add_ml_decoder_head(timm.create_model("test_resnet"), num_classes=3, stages=stages)

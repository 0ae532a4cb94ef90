"""zsl_tagger/model/drop_in.py: the head in place of the classifier of every network that docs/head.md lists."""

from __future__ import annotations

import re

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
    images = torch.randn(2, 3, int(size), int(size))
    with torch.no_grad():
        assert model.backbone(images).shape == (2, int(tokens), int(channels))
    logits = model(images)
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

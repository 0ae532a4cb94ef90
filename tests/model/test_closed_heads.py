"""The heads beside ML-Decoder, each against its formula written again. Sizes are unequal, so no swapped axis passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from zsl_tagger.model.closed_head import ClosedHead
from zsl_tagger.model.csra import CSRA, TEMPERATURES
from zsl_tagger.model.heads import build_head
from zsl_tagger.model.linear_head import LinearHead
from zsl_tagger.model.ml_decoder import CrossAttention
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.model.query2label import Query2Label
from zsl_tagger.tagging.model_folder import ModelFolderError

B, L, C, D, K = 2, 7, 13, 24, 11
CSRA_SIZES = {"csra_lambda": 0.3, "csra_heads": 1, "csra_temperature": 2.5}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "linear": {"head": "linear", "classes": K},
    "csra": {"head": "csra", "classes": K, **CSRA_SIZES},
    "csra, 6 heads": {"head": "csra", "classes": K, **CSRA_SIZES, "csra_heads": 6, "csra_temperature": 1.0},
    "query2label": {"head": "query2label", "classes": K, "dim": D, "ffn_dim": 17, "heads": 3},
}
each_head = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def made(architecture: dict[str, Any], seed: int = 0) -> ClosedHead:
    """Return a head in evaluation mode whose every parameter is random."""
    torch.manual_seed(seed)
    head = build_head(architecture, C, None).eval()
    assert isinstance(head, ClosedHead)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    return head


def tokens_of(images: int = B) -> Tensor:
    return torch.randn(images, L, C, generator=torch.Generator().manual_seed(1))


def expected_csra(head: CSRA, tokens: np.ndarray) -> np.ndarray:
    """Return the logits in float64 by the sums of the paper, a class and an image at a time."""
    logits = np.tile(head.bias.detach().double().numpy(), (len(tokens), 1))
    for classifier, temperature in zip(head.classifiers, head.temperatures, strict=True):
        weight = classifier.weight.detach().double().numpy()
        for b, x in enumerate(tokens):
            for i, m in enumerate(weight):
                products = [x_j @ m for x_j in x]
                if temperature == np.inf:
                    a = x[int(np.argmax(products))]
                else:
                    powers = [np.exp(temperature * product) for product in products]
                    a = sum(power / sum(powers) * x_j for power, x_j in zip(powers, x, strict=True))
                logits[b, i] += m @ (x.mean(axis=0) + head.weight * a)
    return logits


def as_multihead(ours: CrossAttention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(D, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


def expected_query2label(head: Query2Label, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and attention by torch's own decoder layers, which are post-norm as in the paper."""
    t, memory, weights = head.label_embed.expand(len(tokens), -1, -1), head.embed(tokens), torch.zeros(0)
    for layer in head.layers:
        theirs = nn.TransformerDecoderLayer(D, 3, 17, dropout=0.0, batch_first=True).eval()
        theirs.self_attn, theirs.multihead_attn = as_multihead(layer.self_attention), as_multihead(layer.attention)
        for name in ("linear1", "linear2", "norm1", "norm2", "norm3"):
            getattr(theirs, name).load_state_dict(getattr(layer, name).state_dict())
        first = theirs.norm1(t + theirs.self_attn(t, t, t)[0])
        weights = theirs.multihead_attn(first, memory, memory)[1]
        t = theirs(t, memory)
    logits = [t[:, k] @ head.class_weight[k] + head.bias[k] for k in range(K)]
    return torch.stack(logits, dim=1), weights


def test_linear_is_a_layer_over_the_mean_token() -> None:
    head, tokens = made(ARCHITECTURES["linear"]), tokens_of()
    assert isinstance(head, LinearHead)
    expected = tokens.numpy().mean(axis=1) @ head.classifier.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(head(tokens).detach().numpy(), expected, atol=1e-5)
    assert_close(head.score_with_attention(tokens)[1], torch.full((B, K, L), 1 / L))


@pytest.mark.parametrize("heads", TEMPERATURES)
def test_csra_is_the_formula_of_the_paper(heads: int) -> None:
    sizes = {**ARCHITECTURES["csra"], "csra_heads": heads}
    head, tokens = made(sizes), tokens_of()
    assert isinstance(head, CSRA)
    expected = expected_csra(head, tokens.double().numpy())
    np.testing.assert_allclose(head(tokens).detach().numpy(), expected, atol=1e-4)


def test_csra_of_a_high_temperature_is_max_pooling() -> None:
    tokens = tokens_of()
    hot, cold = (made({**ARCHITECTURES["csra"], "csra_temperature": value}) for value in (1e4, 0.0))
    assert isinstance(hot, CSRA)
    scores = hot.classifiers[0](tokens)  # (B, L, K)
    assert_close(hot(tokens), scores.mean(1) + 0.3 * scores.amax(1) + hot.bias, atol=1e-4, rtol=0)
    assert_close(cold(tokens), 1.3 * scores.mean(1) + cold.bias, atol=1e-4, rtol=0)


def test_query2label_is_torchs_decoder_with_a_query_a_class() -> None:
    head, tokens = made(ARCHITECTURES["query2label"]), tokens_of()
    assert isinstance(head, Query2Label)
    logits, attention = expected_query2label(head, tokens)
    assert logits.std() > 0.1
    assert_close(head(tokens), logits, atol=1e-4, rtol=1e-4)
    assert_close(head.score_with_attention(head.embed_tokens(tokens))[1], attention, atol=1e-5, rtol=0)


@each_head
def test_every_head_has_the_interface_of_a_closed_set(architecture: dict[str, Any]) -> None:
    head, tokens = made(architecture), tokens_of(5)
    embedded = head.embed_tokens(tokens)
    logits, attention = head.score_with_attention(embedded)
    assert_close(head(tokens), logits)
    assert_close(torch.cat([head(image[None]) for image in tokens]), logits, atol=1e-5, rtol=1e-5)
    assert attention.shape == (5, K, L)
    assert_close(attention.sum(-1), torch.ones(5, K))
    shuffled = tokens[:, torch.randperm(L, generator=torch.Generator().manual_seed(2))]
    assert_close(head(shuffled), logits, atol=1e-5, rtol=1e-5)  # mosaics of cached features rely on it
    assert head.architecture() == architecture  # config.json has all there is
    head.train()(tokens).square().sum().backward()
    untouched = {name for name, one in head.named_parameters() if one.grad is None or one.grad.abs().max() < 1e-6}
    assert {name.rpartition("attention.")[2] for name in untouched} <= {"k.bias"}  # a softmax ignores these


@each_head
def test_wrong_inputs_are_named(architecture: dict[str, Any]) -> None:
    head = made(architecture)
    with pytest.raises(ValueError, match=rf"expected tokens \(B, L, {C}\), got \(2, 7, 12\)"):
        head(torch.zeros(2, L, C - 1))
    with pytest.raises(ValueError, match="closed set of classes: call it without queries"):
        head.score(torch.zeros(2, L, head.dim), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="expected embedded tokens"):
        head.score(torch.zeros(2, 0, head.dim))
    with pytest.raises(ValueError, match="expected tokens that are finite numbers"):
        head(torch.full((2, L, C), torch.nan))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="expected csra_heads to be one of 1, 2, 4, 6, 8, got 3"):
        CSRA(C, K, heads=3)
    with pytest.raises(ValueError, match="expected at least one class, got num_classes=0"):
        LinearHead(C, 0)
    with pytest.raises(ValueError, match="expected heads to divide the width"):
        Query2Label(C, K, dim=D, heads=5)


def test_dropout_of_query2label_is_only_in_training() -> None:
    head, tokens = made({**ARCHITECTURES["query2label"], "dropout": 0.5}), tokens_of()
    assert torch.equal(head(tokens), head(tokens))
    head.train()
    assert not torch.equal(head(tokens), head(tokens))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            {"head": "csar"},
            "expected the head in its config.json to be one of cosine, local-global, linear, csra, query2label or none",
        ),
        ({"head": "query2label", "classes": 2}, "the architecture in its config.json does not say dim, ffn_dim, heads"),
    ],
)
def test_a_folder_of_an_unknown_head_is_named(architecture: dict[str, Any], message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from zsl_tagger.images.preprocessing import Preprocessing
    from zsl_tagger.tagging.model_folder import ModelConfig, write_config

    save_file({"head.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    stated = {"backbone": "test_efficientnet", **architecture}
    write_config(tmp_path, ModelConfig(Preprocessing(96), 0, 0.5, stated, {}, closed_set=True))
    with pytest.raises(ModelFolderError, match=message):
        load_model(tmp_path)

"""zsl_tagger/model/local_global.py, against its formula written again, label by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from zsl_tagger.model.cosine import CosineHead
from zsl_tagger.model.heads import build_head
from zsl_tagger.model.local_global import LocalGlobalHead

B, L, D, K, TOP = 2, 7, 13, 11, 3


def made(top: int = TOP) -> LocalGlobalHead:
    torch.manual_seed(0)
    head = LocalGlobalHead(D, scale=5.0, bias=-0.7, top=top).eval()
    for layer in (head.of_image, head.of_patches):
        nn.init.normal_(layer.weight)
    return head


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, 1 + L, D, generator=generator), torch.randn(K, D, generator=generator)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b))


def expected(head: LocalGlobalHead, tokens: Tensor, queries: Tensor) -> np.ndarray:
    """Return the logits in float64 by the formula."""
    w, v = (layer.weight.detach().double().numpy() for layer in (head.of_image, head.of_patches))
    logits = np.zeros((B, K))
    for b, image in enumerate(tokens.double().numpy()):
        for k, query in enumerate(queries.double().numpy()):
            local = sorted((cosine(v @ patch, query) for patch in image[1:]), reverse=True)[: head.top]
            logits[b, k] = 5 * (cosine(w @ image[0], query) + sum(local) / len(local)) / 2 - 0.7
    return logits


@pytest.mark.parametrize("top", [1, TOP, L, L + 4])
def test_equals_the_formula(top: int) -> None:
    head, (tokens, queries) = made(top), inputs()
    with torch.no_grad():
        logits = head(tokens, queries)
        same, attention = head.score_with_attention(head.embed_tokens(tokens), queries)
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, expected(head, tokens, queries), atol=1e-5)
    assert_close(same, logits)
    assert attention.shape == (B, K, L)
    assert_close(attention.sum(-1), torch.ones(B, K))


def test_untrained_it_adds_the_local_cosine_to_clips() -> None:
    """Both streams are CLIP's cosine where all patches are the image's vector."""
    _, queries = inputs()
    tokens = torch.randn(B, 1, D).expand(B, 1 + L, D)
    head, clip = LocalGlobalHead(D), CosineHead(D, 100.0, -25.0)
    with torch.no_grad():
        assert_close(head(tokens, queries), clip(tokens[:, :1], queries), atol=1e-4, rtol=1e-4)


def test_a_logit_depends_on_its_image_and_label_alone() -> None:
    head, (tokens, queries) = made(), inputs()
    with torch.no_grad():
        together = head(tokens, queries)
        assert_close(head(tokens[1:], queries[[7, 3]]), together[1:, [7, 3]])
        assert_close(head(tokens, head.prepare(queries)), together)


def test_gradients_reach_every_parameter() -> None:
    head = made().train()
    head(*inputs()).square().sum().backward()
    assert [name for name, one in head.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_the_architecture_builds_it_again_and_wrong_inputs_are_named() -> None:
    head = made()
    again = build_head(head.architecture(), D, D)
    assert isinstance(again, LocalGlobalHead)
    assert again.state_dict().keys() == head.state_dict().keys()
    assert head.architecture() == again.architecture() == {"head": "local-global", "local_top": TOP}
    with pytest.raises(ValueError, match=r"expected tokens \(B, L, 13\)"):
        head(torch.zeros(1, L, D + 1), torch.zeros(2, D))
    with pytest.raises(ValueError, match="expected at least one patch, got top=0"):
        LocalGlobalHead(D, top=0)

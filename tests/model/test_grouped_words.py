"""zsl_tagger/model/grouped_words.py, against its formula written again, label by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import ml_decoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.heads import build_head

B, L, C, D, K, G, WORD_DIM = 2, 7, 13, 24, 11, 4, 5


def made(seed: int = 0, dropout: float = 0.0) -> GroupedWords:
    torch.manual_seed(seed)
    head = GroupedWords(C, WORD_DIM, G, dim=D, ffn_dim=17, heads=3, dropout=dropout).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    return head


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, L, C, generator=generator), torch.randn(K, WORD_DIM, generator=generator)


def expected(head: GroupedWords, tokens: Tensor, queries: Tensor) -> Tensor:
    """Return the logits in float64: a closed ML-Decoder of G groups gives a label's product with each state."""
    weights = {name: value.double() for name, value in head.state_dict().items()}
    states = {name: value for name, value in weights.items() if name.startswith(("embed.", "layer."))}
    states["group_queries"] = F.relu(weights["centres"] @ weights["word_embed.weight"].T + weights["word_embed.bias"])
    columns = []
    for q in queries.double():
        own = (weights["label_weights.weight"] @ q + weights["label_weights.bias"]) / 4  # (D,)
        closed = {**states, "group_weight": own.view(1, D, 1).repeat(G, 1, 1), "bias": torch.zeros(G).double()}
        products = ml_decoder(closed, 3, tokens, None)[0]  # (B, G)
        cosines = torch.tensor([float(q @ c / q.norm()) for c in weights["centres"]]).double()
        shares = torch.exp(50 * cosines) / torch.exp(50 * cosines).sum()
        columns.append(products @ shares + weights["bias"])
    return torch.stack(columns, dim=1)


def test_equals_the_formula() -> None:
    head, (tokens, queries) = made(), inputs()
    with torch.no_grad():
        logits = head(tokens, queries)
        same, attention = head.score_with_attention(head.embed_tokens(tokens), queries)
    assert logits.std() > 0.1
    assert_close(logits.double(), expected(head, tokens, queries), atol=1e-5, rtol=1e-5)
    assert_close(same, logits, atol=1e-5, rtol=1e-5)
    assert attention.shape == (B, K, L)
    assert_close(attention.sum(-1), torch.ones(B, K))


def test_a_logit_depends_on_its_image_and_label_alone() -> None:
    head, (tokens, queries) = made(), inputs()
    with torch.no_grad():
        together = head(tokens, queries)
        assert_close(head(tokens[1:], queries[[7, 3]]), together[1:, [7, 3]], atol=1e-5, rtol=1e-5)
        assert_close(head(tokens, head.prepare(queries)), together)


def test_groups_are_the_clusters_of_the_trained_labels() -> None:
    head, random = made(), np.random.default_rng(3)
    middles = np.eye(G, WORD_DIM)[:, ::-1]
    vectors = (np.repeat(middles, 6, axis=0) + 0.05 * random.normal(size=(6 * G, WORD_DIM))).astype(np.float32)
    head.group(vectors, seed=0)
    again = made(seed=1)
    again.group(vectors, seed=0)
    assert torch.equal(head.centres, again.centres)
    assert_close(head.centres.norm(dim=1), torch.ones(G))
    shares = head.prepare(torch.from_numpy(vectors)).groups.view(G, 6, G)
    assert sorted(shares.mean(dim=1).argmax(dim=1).tolist()) == list(range(G))
    assert shares.amax(dim=2).min() > 0.99
    with pytest.raises(UserError, match="groups=4 needs at least as many trained labels, got 3: lower groups"):
        head.group(vectors[:3], seed=0)


def test_gradients_reach_every_parameter() -> None:
    head = made().train()
    head(*inputs()).square().sum().backward()
    untouched = [name for name, one in head.named_parameters() if one.grad is None or one.grad.abs().max() < 1e-6]
    assert untouched in ([], ["layer.attention.k.bias"])  # a softmax ignores a bias of the keys
    assert not head.centres.requires_grad


def test_the_architecture_builds_it_again_and_wrong_inputs_are_named() -> None:
    head = made()
    again = build_head(head.architecture(), C, WORD_DIM)
    assert isinstance(again, GroupedWords)
    assert again.state_dict().keys() == head.state_dict().keys()
    assert head.architecture() == again.architecture() == {"dim": D, "ffn_dim": 17, "heads": 3, "groups": G}
    with pytest.raises(ValueError, match=r"expected queries \(K, 5\), got \(2, 6\)"):
        head(torch.zeros(1, L, C), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="expected tokens that are finite numbers"):
        head(torch.full((1, L, C), torch.nan), torch.ones(2, WORD_DIM))

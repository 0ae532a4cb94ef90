"""The ML-Decoder head (Ridnik et al. 2021, arXiv 2111.12933): tokens x queries -> logits.

Name map to the paper (section 3) and to the released code:

===================  ==========================================================  =========================
here                 what it is                                                  released state-dict name
===================  ==========================================================  =========================
``embed``            tokens = ReLU(Linear C -> D), no positional encoding        ``embed_standart``
``group_queries``    fixed random queries of the closed set, (G, D), never       ``query_embed``
                     trained (section 3.2, "non-learnable queries")
``word_embed``       queries = ReLU(Linear word_dim -> D) of word vectors (3.3)  ``wordvec_proj``
``layer``            one decoder layer without self-attention (3.2)              ``layers.0``
``group_weight``     group fully-connected, (G, D, f), f = ceil(K / G)           ``duplicate_pooling``
``bias``             (K,) closed set, (1,) word queries                          ``duplicate_pooling_bias``
===================  ==========================================================  =========================

Where we differ: the part of the layer that only depends on the queries is computed once per call instead
of once per image, so dropout on the queries is drawn once per batch; and attention is fused (SDPA).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEFAULT_GROUPS = 100


class CrossAttention(nn.Module):
    """Multi-head attention of queries over tokens, with the parameters of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"expected a width that the heads divide, got dim={dim} and heads={heads}")
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        for linear in (self.q, self.k, self.v):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """queries ``(K, D)``, tokens ``(B, L, D)`` -> ``(B, K, D)``."""
        q, k, v = self._project(queries, tokens)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, H, K, D/H)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, K, D)

    def with_weights(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same as :meth:`forward`, but without dropout, and the attention, mean over heads, ``(B, K, L)``."""
        q, k, v = self._project(queries, tokens)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, K, L)
        weights = scores.softmax(-1)
        mixed = weights @ v  # (B, H, K, D/H)
        return self.out(mixed.transpose(1, 2).flatten(2)), weights.mean(1)  # (B, K, D), (B, K, L)

    def _project(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, K, D/H)
        k = self.k(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D/H)
        v = self.v(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D/H)
        return q.expand(tokens.shape[0], -1, -1, -1), k, v


class DecoderLayer(nn.Module):
    """The paper's layer: t = LN1(t + drop(t)); t = LN2(t + drop(attention)); t = LN3(t + drop(FFN(t))).

    LN1(t + t) in evaluation looks redundant, but it is what the released weights were trained with.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention = CrossAttention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """queries ``(K, D)``, tokens ``(B, L, D)`` -> ``(B, K, D)``."""
        t = self.norm1(queries + self.dropout(queries))  # (K, D)
        return self._finish(t, self.attention(t, tokens))

    def with_attention(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the attention ``(B, K, L)``; for evaluation: attention itself has no dropout here."""
        t = self.norm1(queries + self.dropout(queries))  # (K, D)
        mixed, weights = self.attention.with_weights(t, tokens)
        return self._finish(t, mixed), weights

    def _finish(self, t: Tensor, mixed: Tensor) -> Tensor:
        t = self.norm2(t + self.dropout(mixed))  # (B, K, D)
        ffn = self.linear2(self.dropout(F.relu(self.linear1(t))))  # (B, K, D)
        return self.norm3(t + self.dropout(ffn))


class MLDecoder(nn.Module):
    """ML-Decoder over tokens, for a closed set of classes or for word queries.

    Args:
        in_channels: C of the tokens.
        num_classes: K of a closed set. Exactly one of ``num_classes`` and ``word_dim`` is given.
        word_dim: width of the word vectors that are given to :meth:`forward` as queries.
        groups: G of group decoding (closed set): each query answers ceil(K / G) classes. Default min(100, K).
        dim, ffn_dim, heads, dropout: of the decoder layer; the defaults are the released ones.

    Raises:
        ValueError: sizes that do not fit; the message says what to change.
    """

    group_queries: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int | None = None,
        word_dim: int | None = None,
        groups: int | None = None,
        dim: int = 768,
        ffn_dim: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        if (num_classes is None) == (word_dim is None):
            raise ValueError("give exactly one of num_classes (closed set) and word_dim (word queries)")
        self.in_channels, self.num_classes, self.word_dim, self.dim = in_channels, num_classes, word_dim, dim
        self.embed = nn.Linear(in_channels, dim)
        self.layer = DecoderLayer(dim, ffn_dim, heads, dropout)
        self.word_embed: nn.Linear | None = None
        if word_dim is not None:
            if groups is not None:
                raise ValueError("groups belong to a closed set: word queries have one query per label")
            self.word_embed = nn.Linear(word_dim, dim)
            self.group_weight = nn.Parameter(torch.empty(1, dim, 1))
            self.bias = nn.Parameter(torch.zeros(1))
        else:
            assert num_classes is not None
            groups = _checked_groups(num_classes, groups)
            self.register_buffer("group_queries", torch.randn(groups, dim))
            self.group_weight = nn.Parameter(torch.empty(groups, dim, math.ceil(num_classes / groups)))
            self.bias = nn.Parameter(torch.zeros(num_classes))
        for weight in self.group_weight:
            nn.init.xavier_normal_(weight)

    def forward(self, tokens: Tensor, queries: Tensor | None = None) -> Tensor:
        """Logits of every label for every image.

        Args:
            tokens: ``(B, L, C)`` float.
            queries: word vectors ``(K, word_dim)``; None for a closed set.

        Returns:
            ``(B, K)``. A label's logit does not depend on the other labels, nor an image's on the batch.
        """
        return self.score(self.embed_tokens(tokens), queries)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Step 1, once per image: ``(B, L, C)`` -> ``(B, L, D)``."""
        if tokens.ndim != 3 or tokens.shape[2] != self.in_channels:
            raise ValueError(f"expected tokens (B, L, {self.in_channels}), got {tuple(tokens.shape)}")
        return F.relu(self.embed(tokens))

    def score(self, embedded: Tensor, queries: Tensor | None = None) -> Tensor:
        """Steps 2 to 4, for any labels: embedded tokens ``(B, L, D)`` -> logits ``(B, K)``."""
        self._check_embedded(embedded)
        return self._logits(self.layer(self._query_states(queries), embedded))

    def score_with_attention(self, embedded: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits ``(B, K)`` and where each query looked, ``(B, number of queries, L)``, rows sum to 1."""
        self._check_embedded(embedded)
        states, weights = self.layer.with_attention(self._query_states(queries), embedded)
        return self._logits(states), weights

    def _check_embedded(self, embedded: Tensor) -> None:
        if embedded.ndim != 3 or embedded.shape[1] == 0 or embedded.shape[2] != self.dim:
            raise ValueError(f"expected embedded tokens (B, L >= 1, {self.dim}), got {tuple(embedded.shape)}")

    def _query_states(self, queries: Tensor | None) -> Tensor:
        if self.word_embed is None:
            if queries is not None:
                raise ValueError("this head has a closed set of classes: call it without queries")
            return self.group_queries  # (G, D)
        if queries is None or queries.ndim != 2 or queries.shape[1] != self.word_dim:
            got = None if queries is None else tuple(queries.shape)
            raise ValueError(f"expected queries (K, {self.word_dim}), got {got}")
        return F.relu(self.word_embed(queries))  # (K, D)

    def _logits(self, states: Tensor) -> Tensor:
        if self.word_embed is not None:
            return (states @ self.group_weight[0]).squeeze(-1) + self.bias  # (B, K, D) -> (B, K)
        grouped = torch.einsum("bgd,gdf->bgf", states, self.group_weight)  # (B, G, f)
        return grouped.flatten(1)[:, : self.num_classes] + self.bias  # (B, G * f) -> (B, K)


def _checked_groups(num_classes: int, groups: int | None) -> int:
    if num_classes < 1:
        raise ValueError(f"expected at least one class, got num_classes={num_classes}")
    if groups is None:
        return min(DEFAULT_GROUPS, num_classes)
    if not 1 <= groups <= num_classes:
        raise ValueError(f"expected 1 <= groups <= num_classes={num_classes}, got groups={groups}")
    return groups

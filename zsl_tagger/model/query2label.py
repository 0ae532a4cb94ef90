"""Query2Label (Liu et al. 2021, arXiv 2107.10834, section 3): a transformer decoder with a learned query per class.

F are the tokens after a linear layer C -> D, Q_0 the label embeddings ``(K, D)``, which are trained. In each layer i, a
residual connection and a norm follow each line, as in Vaswani et al. 2017::

    Q1  = MultiHead(Q_i-1, Q_i-1, Q_i-1)     self-attention among the labels
    Q2  = MultiHead(Q1, F, F)                cross-attention: labels attend to positions
    Q_i = FFN(Q2)

    y_k = W_k . Q_L,k + b_k                  a linear layer for each class

ML-Decoder has one such layer without self-attention, and groups of classes per query.

Differences from the paper: tokens have no positional encodings, as for the other heads of this project (mosaics of
cached features rely on it), and there is no encoder layer before the decoder. The two decoder layers are the paper's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.closed_head import ClosedHead
from zsl_tagger.model.ml_decoder import CrossAttention, range_of_float32

LAYERS = 2


class Query2LabelLayer(nn.Module):
    """Label states ``(B, K, D)``, or ``(K, D)`` for all images, and tokens ``(B, L, D)`` -> ``(B, K, D)``."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, dropout: float):
        super().__init__()
        self.self_attention = CrossAttention(dim, heads, dropout)
        self.attention = CrossAttention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, t: Tensor, tokens: Tensor) -> Tensor:
        batch = t if t.ndim == 3 else t.unsqueeze(0)  # (B or 1, K, D)
        mixed = self.self_attention(self.self_attention.q(batch), *self.self_attention.read(batch))
        t = self.norm1(t + self.dropout(mixed.view(t.shape)))
        return self._finish(t, self.attention(self.attention.q(t), *self.attention.read(tokens)))

    def with_weights(self, t: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as :meth:`forward`, but without dropout in the attentions, and the second, ``(B, K, L)``."""
        batch = t if t.ndim == 3 else t.unsqueeze(0)  # (B or 1, K, D)
        mixed, _ = self.self_attention.with_weights(self.self_attention.q(batch), *self.self_attention.read(batch))
        t = self.norm1(t + mixed if t.ndim == 3 else t + mixed.squeeze(0))
        mixed, weights = self.attention.with_weights(self.attention.q(t), *self.attention.read(tokens))
        return self._finish(t, mixed), weights

    def _finish(self, t: Tensor, mixed: Tensor) -> Tensor:
        t = self.norm2(t + self.dropout(mixed))  # (B, K, D)
        ffn = self.linear2(self.dropout(F.relu(self.linear1(t))))  # (B, K, D)
        return self.norm3(t + self.dropout(ffn))


class Query2Label(ClosedHead):
    """Query2Label head: tokens ``(B, L, C)`` -> logits ``(B, K)``.

    Args:
        dim, ffn_dim, heads, dropout: sizes of each of the :data:`LAYERS` layers.
    """

    kind = "query2label"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 768,
        ffn_dim: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(in_channels, num_classes, dim)
        self.embed = nn.Linear(in_channels, dim)
        self.label_embed = nn.Parameter(torch.randn(num_classes, dim))
        self.layers: Any = nn.ModuleList(Query2LabelLayer(dim, ffn_dim, heads, dropout) for _ in range(LAYERS))
        self.class_weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return the tokens after the linear layer: ``(B, L, C)`` -> ``(B, L, D)``."""
        with range_of_float32(tokens):
            return self.embed(super().embed_tokens(tokens))

    def _logits(self, embedded: Tensor) -> Tensor:
        t: Tensor = self.label_embed  # (K, D): the same for every image before attention
        for layer in self.layers:
            t = layer(t, embedded)  # (B, K, D)
        return self._classified(t)

    def _score(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        t: Tensor = self.label_embed  # (K, D): the same for every image before attention
        for layer in self.layers:
            t, weights = layer.with_weights(t, embedded)  # (B, K, D), (B, K, L)
        return self._classified(t), weights

    def _classified(self, t: Tensor) -> Tensor:
        return (t * self.class_weight).sum(dim=2) + self.bias  # (B, K, D) -> (B, K)

    def architecture(self) -> dict[str, Any]:
        """Return the head's kind and sizes for ``config.json``."""
        layer = self.layers[0]
        sizes = {"dim": self.dim, "ffn_dim": layer.linear1.out_features, "heads": layer.attention.heads}
        return super().architecture() | sizes

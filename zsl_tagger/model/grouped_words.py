"""Group decoding with word queries, an addition to the ML-Decoder paper.

In the paper, a few queries serve all classes of a closed set (section 3.2: each class has free weights over the state
of its group), but word queries serve one label each (3.3). Here the decoder has a fixed number of queries G and still
accepts any words, since a label's weights over a group's state are a linear map of its word vector q_k::

    c_g  = centre of a cluster of the trained labels' word vectors, length 1, never trained
    s_g  = state of the query ReLU(W c_g) after ML-Decoder's layer has looked at the image
    a_kg = softmax over g of 50 c_g . q_k / |q_k|     the group of label k, hardly ever two groups
    y_k  = sum_g a_kg s_g . (U q_k + u) / 4 + b

So K labels cost K products with each state instead of K queries. In ``benchmarks/results/zero_shot.json``, where each
label used only its nearest group, 16 groups were better than one query per label. The softmax avoids a jump between
groups, at which torch and ONNX Runtime could differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.errors import UserError
from zsl_tagger.model.ml_decoder import (
    DecoderLayer,
    check_embedded,
    check_numbers,
    check_queries,
    check_tokens,
    is_traced,
    range_of_float32,
)

SHARPNESS = 50.0
SCALE = 0.25
CLUSTERINGS = 4  # the one with the smallest distances is used


class GroupedLabels(NamedTuple):
    """Image-independent part of K labels.

    Attributes:
        states: each label's weights over a group's state, ``(K, D)``.
        groups: each label's weight in each group, ``(K, G)``; rows sum to 1.
    """

    states: Tensor
    groups: Tensor


class GroupedWords(nn.Module):
    """Head with G queries: tokens ``(B, L, C)`` and word vectors ``(K, word_dim)`` -> logits ``(B, K)``.

    Args:
        in_channels: C of the tokens.
        word_dim: width of the word vectors.
        groups: G.
        dim, ffn_dim, heads, dropout: see :class:`~zsl_tagger.model.ml_decoder.MLDecoder`.
    """

    centres: Tensor
    num_classes = None

    def __init__(
        self,
        in_channels: int,
        word_dim: int,
        groups: int,
        *,
        dim: int = 768,
        ffn_dim: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.in_channels, self.word_dim, self.dim = in_channels, word_dim, dim
        self.register_buffer("centres", F.normalize(torch.randn(groups, word_dim)))
        self.embed = nn.Linear(in_channels, dim)
        self.word_embed = nn.Linear(word_dim, dim)
        self.layer = DecoderLayer(dim, ffn_dim, heads, dropout)
        self.label_weights = nn.Linear(word_dim, dim)
        self.bias = nn.Parameter(torch.zeros(1))

    def group(self, vectors: np.ndarray, seed: int) -> None:
        """Cluster the word vectors of the trained labels, float32 ``(K, word_dim)``, into groups.

        Raises:
            UserError: there are fewer labels than groups.
        """
        groups = len(self.centres)
        if len(vectors) < groups:
            raise UserError(f"groups={groups} needs at least as many trained labels, got {len(vectors)}: lower groups")
        random = np.random.default_rng(seed)
        found = [kmeans2(vectors, groups, minit="++", seed=random)[0] for _ in range(CLUSTERINGS)]
        best = min(found, key=lambda centres: float(vq(vectors, centres)[1].sum()))  # (G, word_dim)
        self.centres.copy_(F.normalize(torch.from_numpy(best)))

    def forward(self, tokens: Tensor, queries: Tensor | GroupedLabels | None = None) -> Tensor:
        """Return the logits ``(B, K)``.

        Args:
            tokens: ``(B, L, C)``.
            queries: word vectors ``(K, word_dim)``, or the output of :meth:`prepare`.
        """
        return self.score(self.embed_tokens(tokens), queries)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return embedded tokens: ``(B, L, C)`` -> ``(B, L, D)``."""
        check_tokens(tokens, self.in_channels)
        with range_of_float32(tokens):
            return F.relu(self.embed(tokens))

    def prepare(self, queries: Tensor | None) -> GroupedLabels:
        """Precompute the image-independent part of labels ``(K, word_dim)``."""
        queries = check_queries(queries, self.word_dim)
        with range_of_float32(queries):
            cosines = F.normalize(queries) @ self.centres.T  # (K, G)
            return GroupedLabels(SCALE * self.label_weights(queries), (SHARPNESS * cosines).softmax(dim=1))

    def score(self, embedded: Tensor, queries: Tensor | GroupedLabels | None = None) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, L, D)``; ``queries`` as in :meth:`forward`."""
        check_embedded(embedded, self.dim)
        t, q = self._queries()
        with range_of_float32(embedded):
            read = self.layer.attention.read(embedded)
        logits = self._logits(self.layer(t, q, read), self._grouped(queries))
        if not self.training and not is_traced():
            check_numbers(logits, embedded)
        return logits

    def score_with_attention(
        self, embedded: Tensor, queries: Tensor | GroupedLabels | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and the attention of each label's group, ``(B, K, L)``; rows sum to 1."""
        check_embedded(embedded, self.dim)
        (t, q), labels = self._queries(), self._grouped(queries)
        mixed, weights = self.layer.attention.with_weights(q, *self.layer.attention.read(embedded))  # (B, G, L)
        return self._logits(self.layer.finish(t, mixed), labels), labels.groups @ weights  # (B, K), (B, K, L)

    def _queries(self) -> tuple[Tensor, Tensor]:
        with range_of_float32(self.bias):
            return self.layer.prepare(F.relu(self.word_embed(self.centres)))  # (G, D) each

    def _grouped(self, queries: Tensor | GroupedLabels | None) -> GroupedLabels:
        return queries if isinstance(queries, GroupedLabels) else self.prepare(queries)

    def _logits(self, states: Tensor, labels: GroupedLabels) -> Tensor:
        with range_of_float32(states):
            group_logits = states.to(labels.states.dtype) @ labels.states.T  # (B, G, D) @ (D, K) -> (B, G, K)
            return (group_logits * labels.groups.T).sum(dim=1) + self.bias  # (B, K)

    def architecture(self) -> dict[str, Any]:
        """Return the head's sizes for ``config.json``."""
        sizes = {"dim": self.dim, "ffn_dim": self.layer.linear1.out_features, "heads": self.layer.attention.heads}
        return sizes | {"groups": len(self.centres)}

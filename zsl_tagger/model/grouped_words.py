"""Group decoding with word queries. New: it is not in the ML-Decoder paper.

The paper lets a few queries answer for all classes of a closed set (section 3.2: each class has free weights over the
state of its group), but word queries one label each (3.3). Here the decoder has a fixed number of queries G and any
words can still be asked, since a label's weights over a group's state are a linear map of its word vector q_k::

    c_g  = centre of a cluster of the trained labels' word vectors, length 1, never trained
    s_g  = state of the query ReLU(W c_g) after ML-Decoder's layer has looked at the image
    a_kg = softmax over g of 50 c_g . q_k / |q_k|     the group of label k, hardly ever two of them
    y_k  = sum_g a_kg s_g . (U q_k + u) / 4 + b

So K labels cost K products with each state, and not K queries. In ``benchmarks/results/zero_shot.json``, where a label
had its nearest group alone, 16 groups were better than a query a label. The softmax has no jump between two groups, at
which torch and ONNX Runtime would differ.
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
CLUSTERINGS = 4  # the one with the least distances is taken


class GroupedLabels(NamedTuple):
    """Hold what of K labels does not depend on images.

    Attributes:
        states: each label's weights over a group's state, ``(K, D)``.
        groups: each label's share in each group, ``(K, G)``; rows sum to 1.
    """

    states: Tensor
    groups: Tensor


class GroupedWords(nn.Module):
    """Tokens ``(B, L, C)`` and word vectors ``(K, word_dim)`` -> logits ``(B, K)``; G queries look at an image.

    Args:
        in_channels: C of the tokens.
        word_dim: width of the word vectors.
        groups: G.
        dim, ffn_dim, heads, dropout: as of :class:`~zsl_tagger.model.ml_decoder.MLDecoder`.
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
        """Make the groups of the trained labels' word vectors, float32 ``(K, word_dim)``.

        Raises:
            UserError: fewer labels than groups.
        """
        groups = len(self.centres)
        if len(vectors) < groups:
            raise UserError(f"groups={groups} needs as many trained labels, there are {len(vectors)}: lower groups")
        random = np.random.default_rng(seed)
        found = [kmeans2(vectors, groups, minit="++", seed=random)[0] for _ in range(CLUSTERINGS)]
        best = min(found, key=lambda centres: float(vq(vectors, centres)[1].sum()))  # (G, word_dim)
        self.centres.copy_(F.normalize(torch.from_numpy(best)))

    def forward(self, tokens: Tensor, queries: Tensor | GroupedLabels | None = None) -> Tensor:
        """Return the logits ``(B, K)``.

        Args:
            tokens: ``(B, L, C)``.
            queries: word vectors ``(K, word_dim)``, or what :meth:`prepare` made of them.
        """
        return self.score(self.embed_tokens(tokens), queries)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return embedded tokens: ``(B, L, C)`` -> ``(B, L, D)``."""
        check_tokens(tokens, self.in_channels)
        with range_of_float32(tokens):
            return F.relu(self.embed(tokens))

    def prepare(self, queries: Tensor | None) -> GroupedLabels:
        """Compute what of labels ``(K, word_dim)`` does not depend on images."""
        queries = check_queries(queries, self.word_dim)
        with range_of_float32(queries):
            cosines = F.normalize(queries) @ self.centres.T  # (K, G)
            return GroupedLabels(SCALE * self.label_weights(queries), (SHARPNESS * cosines).softmax(dim=1))

    def score(self, embedded: Tensor, queries: Tensor | GroupedLabels | None = None) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, L, D)``; ``queries`` as of :meth:`forward`."""
        check_embedded(embedded, self.dim)
        t, q = self._queries()
        with range_of_float32(embedded):
            read = self.layer.attention.read(embedded)
        logits = self._logits(self.layer(t, q, read), self._of_labels(queries))
        if not self.training and not is_traced():
            check_numbers(logits, embedded)
        return logits

    def score_with_attention(
        self, embedded: Tensor, queries: Tensor | GroupedLabels | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and where each label's group looked, ``(B, K, L)``; rows sum to 1."""
        check_embedded(embedded, self.dim)
        (t, q), labels = self._queries(), self._of_labels(queries)
        mixed, weights = self.layer.attention.with_weights(q, *self.layer.attention.read(embedded))  # (B, G, L)
        return self._logits(self.layer.finish(t, mixed), labels), labels.groups @ weights  # (B, K), (B, K, L)

    def _queries(self) -> tuple[Tensor, Tensor]:
        with range_of_float32(self.bias):
            return self.layer.prepare(F.relu(self.word_embed(self.centres)))  # (G, D) each

    def _of_labels(self, queries: Tensor | GroupedLabels | None) -> GroupedLabels:
        return queries if isinstance(queries, GroupedLabels) else self.prepare(queries)

    def _logits(self, states: Tensor, labels: GroupedLabels) -> Tensor:
        with range_of_float32(states):
            of_groups = states.to(labels.states.dtype) @ labels.states.T  # (B, G, D) @ (D, K) -> (B, G, K)
            return (of_groups * labels.groups.T).sum(dim=1) + self.bias  # (B, K)

    def architecture(self) -> dict[str, Any]:
        """Return its sizes as ``config.json`` states them."""
        sizes = {"dim": self.dim, "ffn_dim": self.layer.linear1.out_features, "heads": self.layer.attention.heads}
        return sizes | {"groups": len(self.centres)}

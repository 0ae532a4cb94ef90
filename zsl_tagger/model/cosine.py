"""Head of a tagger without training: the cosine of the image vector and the text vector, as in CLIP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.ml_decoder import PreparedQueries

#: ``architecture["head"]`` of a model folder with this head.
COSINE = "cosine"

#: Final scale of the cosines in CLIP's training, for text towers that do not store it.
CLIP_SCALE = 100.0

#: Cosine with a score of 0.5 if neither the checkpoint nor the user gives a bias. CLIP's training compares captions
#: within a batch only, so cosines have no absolute meaning; matching pairs usually have 0.2 to 0.3.
CLIP_COSINE = 0.25


class CosineHead(nn.Module):
    """Score labels by cosines: ``scale * cosine(mean of the unit tokens, query) + bias``.

    It has the methods of :class:`~zsl_tagger.model.ml_decoder.MLDecoder` with word queries.

    Args:
        dim: dimension of the tokens and the queries, which share a space.
        scale, bias: convert cosines to logits.
    """

    num_classes = None

    def __init__(self, dim: int, scale: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.dim = self.word_dim = dim
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def architecture(self) -> dict[str, Any]:
        """Return the head's entry in ``config.json``; its sizes follow from the backbone."""
        return {"head": COSINE}

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return the tokens ``(B, L, D)`` scaled to length 1."""
        return F.normalize(tokens, dim=-1)

    def prepare(self, queries: Tensor) -> PreparedQueries:
        """Precompute the image-independent part of a label set: queries ``(K, D)``."""
        unit = F.normalize(queries, dim=-1)  # (K, D)
        return PreparedQueries(unit, unit * self.scale, ())

    def score(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, L, D)``."""
        return self.score_with_attention(embedded, queries)[0]

    def score_with_attention(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and the similarity of each position, ``(B, K, L)``; rows sum to 1."""
        prepared = queries if isinstance(queries, PreparedQueries) else self.prepare(queries)
        images = F.normalize(embedded.mean(dim=1), dim=-1)  # (B, D)
        logits = images @ prepared.states.T * self.scale + self.bias  # (B, K)
        alike = (embedded @ prepared.projected.T).softmax(dim=1)  # (B, L, K)
        return logits, alike.transpose(1, 2)

    def forward(self, tokens: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Return the logits ``(B, K)`` of tokens ``(B, L, D)`` and queries ``(K, D)``."""
        return self.score(self.embed_tokens(tokens), queries)

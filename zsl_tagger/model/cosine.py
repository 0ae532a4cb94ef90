"""The head of a tagger without training: the cosine of an image's vector and a text's, as CLIP classifies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.ml_decoder import PreparedQueries

#: ``architecture["head"]`` of a model folder with this head.
COSINE = "cosine"

#: What CLIP's training multiplied cosines by in the end, for text towers that do not say.
CLIP_SCALE = 100.0

#: Cosine at which a score is 0.5 where neither the checkpoint nor the user says a bias: CLIP's training compares
#: captions of one batch, so that its cosines have no fixed meaning. Matching pairs usually have 0.2 to 0.3.
CLIP_COSINE = 0.25


class CosineHead(nn.Module):
    """Score labels by cosines: ``scale * cosine(mean of the unit tokens, query) + bias``.

    It has the methods of :class:`~zsl_tagger.model.ml_decoder.MLDecoder` with word queries.

    Args:
        dim: width of the tokens and of the queries, which are in one space.
        scale, bias: what makes logits of cosines.
    """

    num_classes = None

    def __init__(self, dim: int, scale: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.dim = self.word_dim = dim
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def architecture(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the head; its sizes are those of the backbone."""
        return {"head": COSINE}

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """``(B, L, D)`` -> each of length 1, ``(B, L, D)``."""
        return F.normalize(tokens, dim=-1)

    def prepare(self, queries: Tensor) -> PreparedQueries:
        """Compute once what of a label set does not depend on images: queries ``(K, D)``."""
        unit = F.normalize(queries, dim=-1)  # (K, D)
        return PreparedQueries(unit, unit * self.scale, ())

    def score(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Embedded tokens ``(B, L, D)`` -> logits ``(B, K)``."""
        return self.score_with_attention(embedded, queries)[0]

    def score_with_attention(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and where each label is most alike, ``(B, K, L)``, rows sum to 1."""
        prepared = queries if isinstance(queries, PreparedQueries) else self.prepare(queries)
        images = F.normalize(embedded.mean(dim=1), dim=-1)  # (B, D)
        logits = images @ prepared.states.T * self.scale + self.bias  # (B, K)
        alike = (embedded @ prepared.projected.T).softmax(dim=1)  # (B, L, K)
        return logits, alike.transpose(1, 2)

    def forward(self, tokens: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Tokens ``(B, L, D)``, queries ``(K, D)`` -> logits ``(B, K)``."""
        return self.score(self.embed_tokens(tokens), queries)

"""Base class of the baseline heads for a closed set of classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsl_tagger.model.ml_decoder import check_embedded, check_numbers, check_tokens, is_traced, range_of_float32


class ClosedHead(nn.Module):
    """Map tokens ``(B, L, C)`` to logits ``(B, K)`` of K classes; subclasses implement ``_score``.

    It has the interface of a closed :class:`~zsl_tagger.model.ml_decoder.MLDecoder`, so that training, export and
    tagging treat both alike.

    Args:
        in_channels: C of the tokens.
        num_classes: K.
        dim: D of the embedded tokens; C if tokens are used directly.

    Attributes:
        kind: name of the head in settings and ``config.json``.
    """

    kind: ClassVar[str]
    word_dim = None

    def __init__(self, in_channels: int, num_classes: int, dim: int | None = None):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"expected at least one class, got num_classes={num_classes}")
        self.in_channels, self.num_classes, self.dim = in_channels, num_classes, dim or in_channels
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Tensor, queries: None = None) -> Tensor:
        """Return the logits ``(B, K)`` of tokens ``(B, L, C)``."""
        return self.score(self.embed_tokens(tokens), queries)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return the token-wise part of the head: ``(B, L, C)`` -> ``(B, L, D)``."""
        check_tokens(tokens, self.in_channels)
        return tokens.reshape(tokens.shape[0], -1, self.in_channels)  # tells an exported encoder its width

    def score(self, embedded: Tensor, queries: Tensor | None = None) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, L, D)``.

        Raises:
            ValueError: queries, which a closed set does not take; in evaluation also logits that are not numbers.
        """
        self._check(embedded, queries)
        with range_of_float32(embedded):
            logits = self._logits(embedded)
        if not self.training and not is_traced():
            check_numbers(logits, embedded)
        return logits

    def score_with_attention(self, embedded: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)``, and the weight of each position for each class, ``(B, K, L)``; rows sum to 1."""
        self._check(embedded, queries)
        return self._score(embedded)

    def _check(self, embedded: Tensor, queries: Tensor | None) -> None:
        if queries is not None:
            raise ValueError("this head has a closed set of classes: call it without queries")
        check_embedded(embedded, self.dim)

    def _logits(self, embedded: Tensor) -> Tensor:
        return self._score(embedded)[0]

    def _score(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def query_of(self, classes: Tensor) -> Tensor:
        """Return the row of the attention for each class, int64 ``(K,)`` -> ``(K,)``."""
        return classes

    def architecture(self) -> dict[str, Any]:
        """Return the head's kind and sizes for ``config.json``."""
        return {"head": self.kind, "classes": self.num_classes}

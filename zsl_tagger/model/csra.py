"""CSRA, class-specific residual attention (Zhu and Wu 2021, arXiv 2108.02456, section 3).

With the classifier ``m_i`` of class i, tokens ``x_j`` and temperature T::

    s_ij = exp(T x_j . m_i) / sum_k exp(T x_k . m_i)     attention of class i
    a_i  = sum_j s_ij x_j                                 class-specific pooling
    g    = (1/L) sum_j x_j                                average pooling
    y_i  = m_i . (g + lambda a_i)

Multi-head: the logits of H heads are summed, each with its own classifier and temperature but the same lambda. The
last of several heads has infinite T, which is max pooling (99 in the released code).

Differences from the paper: a bias for each class, and m_i is not normalised. The released code divides m_i by its
length, which bounds the logits by the length of a token; tokens of a frozen backbone cannot grow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zsl_tagger.model.closed_head import ClosedHead

#: Number of heads -> temperatures.
TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, math.inf),
    4: (1.0, 2.0, 4.0, math.inf),
    6: (1.0, 2.0, 3.0, 4.0, 5.0, math.inf),
    8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf),
}


class CSRA(ClosedHead):
    """Class-specific residual attention: tokens ``(B, L, C)`` -> logits ``(B, K)``.

    Args:
        weight: lambda, the weight of the class-specific pooling relative to the average.
        heads: number of heads, a key of :data:`TEMPERATURES`.
        temperature: T of a single head; several heads use the table.
    """

    kind = "csra"

    def __init__(
        self, in_channels: int, num_classes: int, *, weight: float = 0.1, heads: int = 1, temperature: float = 1.0
    ):
        super().__init__(in_channels, num_classes)
        if heads not in TEMPERATURES:
            raise ValueError(f"expected csra_heads to be one of {', '.join(map(str, TEMPERATURES))}, got {heads}")
        self.weight, self.temperature = weight, temperature
        self.temperatures = (temperature,) if heads == 1 else TEMPERATURES[heads]
        self.classifiers: Any = nn.ModuleList(nn.Linear(in_channels, num_classes, bias=False) for _ in range(heads))

    def _score(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        logits, weights = self.bias, torch.zeros_like(embedded[:, :1, :1])
        for classifier, temperature in zip(self.classifiers, self.temperatures, strict=True):
            scores = classifier(embedded).transpose(1, 2)  # (B, L, C) -> (B, K, L): x_j . m_i
            attention = _attention(scores, temperature)  # (B, K, L)
            pooled = 1 / scores.shape[2] + self.weight * attention  # (B, K, L): the weight of each x_j in y_i
            logits = logits + (pooled * scores).sum(dim=2)  # (B, K)
            weights = weights + pooled
        return logits, weights / weights.sum(dim=2, keepdim=True)

    def architecture(self) -> dict[str, Any]:
        """Return the head's kind and sizes for ``config.json``."""
        settings = {"lambda": self.weight, "heads": len(self.temperatures), "temperature": self.temperature}
        return super().architecture() | {f"csra_{name}": value for name, value in settings.items()}


def _attention(scores: Tensor, temperature: float) -> Tensor:
    """Return s from scores ``(B, K, L)``; at infinite temperature only the highest score counts."""
    if math.isfinite(temperature):
        return (temperature * scores).softmax(dim=2)
    highest = (scores == scores.amax(dim=2, keepdim=True)).to(scores.dtype)  # (B, K, L)
    return highest / highest.sum(dim=2, keepdim=True)

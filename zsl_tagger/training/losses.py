"""Losses over logits. Each returns one value per element, so that the caller states mean or sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119, eq. 4 to 7), elementwise.

    ``L = -y (1 - p)^gamma_pos log p - (1 - y) q^gamma_neg log(1 - q)`` with ``p = sigmoid(logit)`` and
    ``q = max(p - clip, 0)``; soft targets ``y`` in 0..1 weigh the two terms.

    Args:
        logits, targets: the same shape.

    Returns:
        the same shape, float.
    """
    positive = F.logsigmoid(logits)
    if gamma_pos:
        # exp(gamma log(1 - p)) instead of a power: its gradient is finite where p rounds to 1
        positive = positive * torch.exp(gamma_pos * F.logsigmoid(-logits))
    if clip:
        shifted = (torch.sigmoid(logits) - clip).clamp(min=0.0)
        negative = torch.log1p(-shifted)
    else:
        shifted = torch.sigmoid(logits)
        negative = F.logsigmoid(-logits)
    if gamma_neg:
        negative = negative * shifted**gamma_neg
    return -(targets * positive + (1 - targets) * negative)


def make_loss(
    name: str, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05, smoothing: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a name, as a function of logits and targets ``(B, K)``.

    ``asl``: :func:`asymmetric_loss`, ``(B, K)``. ``bce``: binary cross entropy ``(B, K)``. ``ce``: cross entropy with
    soft targets, ``-sum_k y_k log softmax_k``, ``(B,)``. The targets of the last two may be smoothed by s: for bce
    ``y (1 - s) + s / 2``, for ce ``y (1 - s) + s / K``.
    """
    if name == "asl":
        return lambda logits, targets: asymmetric_loss(
            logits, targets, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip
        )
    if name == "bce":
        return lambda logits, targets: F.binary_cross_entropy_with_logits(
            logits, targets * (1 - smoothing) + smoothing / 2, reduction="none"
        )
    if name == "ce":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    raise ValueError(f"expected a loss of asl, bce, ce; got {name!r}")

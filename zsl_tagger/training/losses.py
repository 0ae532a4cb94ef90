"""Losses over logits, without a reduction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zsl_tagger.errors import UserError

#: A custom loss: logits and targets -> elementwise loss, all ``(B, K)``. With partial labels it is called with a third
#: argument, 1 for unknown pairs (whose targets are 0) and 0 for known ones.
OwnLoss = Callable[..., Tensor]

#: Lower bound of 1 - p, so that its power is differentiable if p rounds to 1.
EPSILON = 1e-8


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    focal_gradient: bool = True,
) -> Tensor:
    """Return the elementwise asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119, eq. 4 to 7).

    ``L = -y (1 - p)^gamma_pos log p - (1 - y) q^gamma_neg log(1 - q)`` with ``p = sigmoid(logit)`` and
    ``q = max(p - clip, 0)``; targets ``y`` may be soft, in 0..1.

    Args:
        logits, targets: any shape, the same for both.
        focal_gradient: differentiate the focal weights ``(1 - p)^gamma_pos`` and ``q^gamma_neg`` too. The released
            training scripts treat them as constants, which changes the gradient but not the loss.

    Returns:
        float, the same shape.
    """
    positive, negative = _asymmetric_terms(logits, gamma_neg, gamma_pos, clip, focal_gradient)
    return -(targets * positive + (1 - targets) * negative)


def _asymmetric_terms(
    logits: Tensor, gamma_neg: float, gamma_pos: float, clip: float, focal_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the weighted log probabilities of :func:`asymmetric_loss` for targets of 1 and of 0."""
    positive = F.logsigmoid(logits)
    if gamma_pos:
        with _focal(focal_gradient):
            # exp(gamma log(1 - p)) instead of a power: the gradient stays finite if p rounds to 1
            weight = torch.exp(gamma_pos * F.logsigmoid(-logits))
        positive = positive * weight
    if clip:
        shifted = (torch.sigmoid(logits) - clip).clamp(min=0.0)
        negative = torch.log1p(-shifted)
    else:
        shifted = torch.sigmoid(logits)
        negative = F.logsigmoid(-logits)
    if gamma_neg:
        with _focal(focal_gradient):
            weight = shifted**gamma_neg
        negative = negative * weight
    return positive, negative


def asymmetric_loss_single(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    smoothing: float = 0.0,
    focal_gradient: bool = True,
) -> Tensor:
    """Return the released code's asymmetric loss for single-label data, one value per image.

    ``L = -sum_k s_k w_k log p_k`` with ``p = softmax(logits)``, the smoothed targets ``s = y (1 - smoothing) +
    smoothing / K`` and the focal weights ``w = y (1 - p)^gamma_pos + (1 - y) p^gamma_neg``. The released code has a
    smoothing of 0.1, and differentiates the weights.

    Args:
        logits, targets: ``(B, K)``; the targets of an image sum to 1.
        focal_gradient: see :func:`asymmetric_loss`.

    Returns:
        ``(B,)``, float.
    """
    log_p = logits.log_softmax(-1)
    with _focal(focal_gradient):
        of_target = (1 - log_p.exp()).clamp(min=EPSILON) ** gamma_pos if gamma_pos else torch.ones_like(log_p)
        weight = targets * of_target + (1 - targets) * torch.exp(gamma_neg * log_p)
    smoothed = targets * (1 - smoothing) + smoothing / logits.shape[-1]
    return -(smoothed * weight * log_p).sum(-1)  # (B, K) -> (B,)


def _focal(differentiated: bool) -> AbstractContextManager[object]:
    """Return the context manager for computing focal weights."""
    return nullcontext() if differentiated else torch.no_grad()


def loss_terms(
    name: str, gamma_neg: float, gamma_pos: float, clip: float, smoothing: float, focal_gradient: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function from logits to the losses for targets of 1 and of 0, both with the shape of the logits.

    Only for ``asl`` and ``bce``, which are linear in the target y: the loss of :func:`make_loss` is y times the first
    plus 1 - y times the second.
    """

    def terms(logits: Tensor) -> tuple[Tensor, Tensor]:
        if name == "asl":
            positive, negative = _asymmetric_terms(logits, gamma_neg, gamma_pos, clip, focal_gradient)
            return -positive, -negative
        positive, negative = -F.logsigmoid(logits), -F.logsigmoid(-logits)
        half = smoothing / 2
        return (1 - half) * positive + half * negative, (1 - half) * negative + half * positive

    if name not in ("asl", "bce"):
        raise ValueError(f"expected the loss asl or bce, got {name!r}")
    return terms


def make_loss(
    name: str,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    smoothing: float = 0.0,
    focal_gradient: bool = True,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the named loss as a function of logits and targets ``(B, K)``.

    ``asl``: :func:`asymmetric_loss`, ``(B, K)``. ``asl_single``: :func:`asymmetric_loss_single`, ``(B,)``. ``bce``:
    binary cross entropy ``(B, K)``. ``ce``: cross entropy with soft targets, ``-sum_k y_k log softmax_k``, ``(B,)``.
    The last three can smooth the targets by s: bce uses ``y (1 - s) + s / 2``, the others ``y (1 - s) + s / K``.
    """
    focus: dict[str, Any] = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "focal_gradient": focal_gradient}
    if name == "asl":
        return partial(asymmetric_loss, clip=clip, **focus)
    if name == "asl_single":
        return partial(asymmetric_loss_single, smoothing=smoothing, **focus)
    if name == "bce":
        return lambda logits, targets: F.binary_cross_entropy_with_logits(
            logits, targets * (1 - smoothing) + smoothing / 2, reduction="none"
        )
    if name == "ce":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    raise ValueError(f"expected the loss asl, asl_single, bce or ce, got {name!r}")


def own_losses(loss: OwnLoss, logits: Tensor, targets: Tensor, unknown: Tensor | None) -> Tensor:
    """Return the elementwise values of a custom loss, with the shape of the logits.

    Args:
        logits, targets: ``(B, K + N)``, for K labels and N random queries.
        unknown: ``(B, K)``, 1 for unknown pairs; None if all are known.

    Raises:
        UserError: the loss returns a different shape.
    """
    if unknown is None:
        losses = loss(logits, targets)
    else:
        losses = loss(logits, targets, F.pad(unknown, (0, logits.shape[1] - unknown.shape[1])))
    if losses.shape != logits.shape:
        raise UserError(
            f"expected the loss {loss_name(loss)} to return one value for each image and label, {tuple(logits.shape)}, "
            f"got {tuple(losses.shape)}"
        )
    return losses


def loss_name(loss: OwnLoss) -> str:
    """Return the name of a custom loss, for messages."""
    return getattr(loss, "__name__", type(loss).__name__)

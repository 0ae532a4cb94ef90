"""zsl_tagger/losses.py."""

from __future__ import annotations

import math

import pytest
import reference
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from zsl_tagger.losses import asymmetric_loss

SETTINGS = pytest.mark.parametrize(
    ("gamma_neg", "gamma_pos", "clip"), [(4, 0, 0.05), (4, 1, 0.05), (2, 1, 0), (0, 0, 0), (0.5, 0, 0.2)]
)


@pytest.mark.parametrize(
    ("logit", "target", "gamma_pos", "expected"),
    [
        (0.0, 1.0, 0.0, 0.693147),  # log 2
        (0.0, 1.0, 1.0, 0.346574),  # 0.5 log 2
        (0.0, 0.0, 0.0, 0.0245150),  # -0.45^4 log 0.55
        (0.0, 0.25, 0.0, 0.191673),  # a quarter of the first, three quarters of the third
        (math.log(3), 0.0, 0.0, 0.289074),  # p = 0.75: -0.7^4 log 0.3
        (-3.0, 0.0, 0.0, 0.0),  # p = 0.047 is under the clip of 0.05
        (-3.0, 1.0, 0.0, 3.048587),  # log(1 + e^3): the clip is for negatives alone
    ],
)
def test_hand_computed(logit: float, target: float, gamma_pos: float, expected: float) -> None:
    loss = asymmetric_loss(torch.tensor([logit]), torch.tensor([target]), gamma_pos=gamma_pos)
    assert_close(loss, torch.tensor([expected]), atol=1e-6, rtol=1e-5)


@SETTINGS
def test_equals_a_scalar_loop(gamma_neg: float, gamma_pos: float, clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 7, generator=generator, dtype=torch.float64).mul(4).round() / 4  # hard and soft
    options = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    expected = [
        [reference.asymmetric_loss(x, y, **options) for x, y in zip(xs, ys, strict=True)]
        for xs, ys in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert_close(asymmetric_loss(logits, targets, **options), torch.tensor(expected, dtype=torch.float64))


def test_without_focus_and_clip_it_is_cross_entropy() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64).repeat(2, 1).requires_grad_()
    targets = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, 33)
    loss = asymmetric_loss(logits, targets, gamma_neg=0, gamma_pos=0, clip=0)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss.sum(), logits), torch.autograd.grad(expected.sum(), logits))


@SETTINGS
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_extreme_logits_stay_finite(gamma_neg: float, gamma_pos: float, clip: float, target: float) -> None:
    logits = torch.tensor([-100.0, -30.0, 30.0, 100.0], requires_grad=True)
    loss = asymmetric_loss(logits, torch.full((4,), target), gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert gradient.isfinite().all()


def test_a_missed_positive_still_learns() -> None:
    logits = torch.tensor([-100.0], requires_grad=True)
    loss = asymmetric_loss(logits, torch.ones(1))
    assert_close(loss.detach(), torch.tensor([100.0]))
    assert_close(torch.autograd.grad(loss.sum(), logits)[0], torch.tensor([-1.0]))

"""Test zsl_tagger/training/losses.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from zsl_tagger.training.losses import asymmetric_loss, make_loss

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
    options: dict[str, Any] = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    expected = [
        [reference.asymmetric_loss(x, y, **options) for x, y in zip(xs, ys, strict=True)]
        for xs, ys in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert_close(asymmetric_loss(logits, targets, **options), torch.tensor(expected, dtype=torch.float64))


@SETTINGS
@pytest.mark.parametrize("focal_gradient", [True, False])
def test_gradients_equal_the_derivative_by_hand(
    gamma_neg: float, gamma_pos: float, clip: float, focal_gradient: bool
) -> None:
    """Test the loss with a differentiated focal weight, and with a constant one, as released."""
    logits = torch.linspace(-6, 6, 29, dtype=torch.float64).repeat(3, 1).requires_grad_()
    targets = torch.tensor([[0.0], [0.25], [1.0]], dtype=torch.float64).expand(3, 29)
    options: dict[str, Any] = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    expected = [
        [
            reference.asymmetric_loss_gradient(x, y, focal_gradient=focal_gradient, **options)
            for x, y in zip(xs, ys, strict=True)
        ]
        for xs, ys in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    loss = make_loss("asl", focal_gradient=focal_gradient, **options)(logits, targets)
    assert_close(torch.autograd.grad(loss.sum(), logits)[0], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(loss, make_loss("asl", **options)(logits, targets))


def test_a_differentiated_focal_weight_enlarges_the_gradients_of_negatives() -> None:
    """By a factor of 1 - gamma (1 - q) log(1 - q) / q, which is 5 for small q."""
    p = torch.tensor([0.06, 0.5])
    logits = torch.logit(p).requires_grad_()
    gradients = [
        torch.autograd.grad(asymmetric_loss(logits, torch.zeros(2), focal_gradient=kept).sum(), logits)[0]
        for kept in (True, False)
    ]
    assert_close(gradients[0] / gradients[1], torch.tensor([4.98, 3.92]), atol=0.01, rtol=0)


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


# --- by name ----------------------------------------------------------------------------------------------


def test_asl_by_name_has_the_settings() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = 4 * torch.randn(5, 7, generator=generator), torch.rand(5, 7, generator=generator).round()
    loss = make_loss("asl", gamma_neg=2.0, gamma_pos=1.0, clip=0.2, smoothing=0.3)(logits, targets)
    expected = [
        [reference.asymmetric_loss(x, y, 2.0, 1.0, 0.2) for x, y in zip(xs, ys, strict=True)]  # it has no smoothing
        for xs, ys in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    defaults = make_loss("asl")(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert_close(defaults, torch.tensor([[0.693147, 0.0245150]]))  # log 2, -0.45^4 log 0.55


@pytest.mark.parametrize(
    ("smoothing", "logit", "target", "expected"),
    [
        (0.0, 0.0, 1.0, 0.693147),  # log 2
        (0.0, math.log(3), 1.0, 0.287682),  # -log 0.75
        (0.0, math.log(3), 0.0, 1.386294),  # -log 0.25
        (0.0, math.log(3), 0.25, 1.111641),  # a quarter of the one, three quarters of the other
        (0.2, math.log(3), 1.0, 0.397543),  # target 0.9
        (0.2, math.log(3), 0.0, 1.276433),  # target 0.1
    ],
)
def test_bce_hand_computed(smoothing: float, logit: float, target: float, expected: float) -> None:
    loss = make_loss("bce", smoothing=smoothing)(torch.tensor([[logit]]), torch.tensor([[target]]))
    assert_close(loss, torch.tensor([[expected]]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_bce_equals_a_scalar_loop(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    expected = []
    for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        smooth, p = y * (1 - smoothing) + smoothing / 2, 1 / (1 + math.exp(-x))
        expected.append(-smooth * math.log(p) - (1 - smooth) * math.log(1 - p))
    loss = make_loss("bce", smoothing=smoothing)(logits, targets)
    assert loss.shape == (5, 7)
    assert_close(loss.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("smoothing", "targets", "expected"),
    [  # probabilities 0.2, 0.3, 0.5
        (0.0, [1.0, 0.0, 0.0], 1.609438),
        (0.0, [0.0, 0.25, 0.75], 0.820853),  # of two classes that were mixed
        (0.3, [1.0, 0.0, 0.0], 1.477262),  # targets 0.8, 0.1, 0.1
    ],
)
def test_ce_hand_computed(smoothing: float, targets: list[float], expected: float) -> None:
    logits = torch.tensor([[2.0, 3.0, 5.0]]).log() + 7
    loss = make_loss("ce", smoothing=smoothing)(logits, torch.tensor([targets]))
    assert_close(loss, torch.tensor([expected]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ce_equals_a_scalar_loop(smoothing: float) -> None:
    """Also if the targets of an image do not add up to 1 because it has several labels or none."""
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 7, generator=generator, dtype=torch.float64)
    expected = []
    for xs, ys in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(x) for x in xs)
        smooth = [y * (1 - smoothing) + smoothing / 7 for y in ys]
        expected.append(-sum(y * math.log(math.exp(x) / total) for x, y in zip(xs, smooth, strict=True)))
    loss = make_loss("ce", smoothing=smoothing)(logits, targets)
    assert loss.shape == (5,)
    assert_close(loss, torch.tensor(expected, dtype=torch.float64))


SINGLE_SETTINGS = pytest.mark.parametrize(
    ("gamma_neg", "gamma_pos", "smoothing"), [(4, 0, 0.1), (4, 0, 0), (4, 1, 0.1), (2, 2, 0.3), (0, 0, 0.1)]
)


@SINGLE_SETTINGS
@pytest.mark.parametrize("focal_gradient", [True, False])
def test_asl_single_equals_a_scalar_loop(
    gamma_neg: float, gamma_pos: float, smoothing: float, focal_gradient: bool
) -> None:
    """Compare losses and gradients; the first settings are those of the released code's ASLSingleLabel."""
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    options: dict[str, Any] = {
        "gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "smoothing": smoothing, "focal_gradient": focal_gradient,
    }  # fmt: skip
    expected = [
        reference.asymmetric_loss_single(xs, number % 7, **options) for number, xs in enumerate(logits.tolist())
    ]
    loss = make_loss("asl_single", **options)(logits, torch.eye(7, dtype=torch.float64)[:5])
    assert_close(loss, torch.tensor([value for value, _ in expected], dtype=torch.float64))
    gradients = torch.tensor([gradient for _, gradient in expected], dtype=torch.float64)
    assert_close(torch.autograd.grad(loss.sum(), logits)[0], gradients)


def test_asl_single_hand_computed() -> None:
    """Probabilities 0.2, 0.3 and 0.5, targets 0.8, 0.1, 0.1: only the term of the label has weight 1."""
    logits = torch.tensor([[2.0, 3.0, 5.0]]).log() + 7
    loss = make_loss("asl_single", smoothing=0.3)(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    expected = -0.8 * math.log(0.2) - 0.1 * 0.3**4 * math.log(0.3) - 0.1 * 0.5**4 * math.log(0.5)
    assert_close(loss, torch.tensor([expected]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_asl_single_without_focus_is_ce(smoothing: float) -> None:
    logits, targets = torch.randn(5, 7), torch.eye(7)[:5]
    loss = make_loss("asl_single", gamma_neg=0.0, smoothing=smoothing)(logits, targets)
    assert_close(loss, make_loss("ce", smoothing=smoothing)(logits, targets))


@pytest.mark.parametrize("gamma_pos", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("target", [0, 1])
def test_asl_single_of_extreme_logits_stays_finite(gamma_pos: float, target: int) -> None:
    logits = torch.tensor([[200.0, -30.0, 0.0]], requires_grad=True)
    loss = make_loss("asl_single", gamma_pos=gamma_pos, smoothing=0.1)(logits, torch.eye(3)[target : target + 1])
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("name", ["asl", "asl_single", "bce", "ce"])
def test_losses_decrease_along_the_gradient(name: str) -> None:
    """A step along the negative gradient lowers every loss, and gradient mode is unchanged afterwards."""
    logits = torch.zeros(2, 3, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    loss = make_loss(name)(logits, targets).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.is_grad_enabled()
    assert make_loss(name)(logits - 0.1 * gradient, targets).sum() < loss
    with torch.no_grad():
        assert not make_loss(name)(logits, targets).requires_grad
        assert not torch.is_grad_enabled()


def test_an_unknown_loss() -> None:
    with pytest.raises(ValueError, match="expected the loss asl, asl_single, bce or ce, got 'mse'"):
        make_loss("mse")

"""Test zsl_tagger/training/optim.py: learning rates by weight and step, and averaged weights."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.optim import make_ema, make_optimizer, make_schedule
from zsl_tagger.training.trainer import _without_functions

pytestmark = pytest.mark.usefixtures("one_torch_thread")


LR, DECAY = 0.03, 0.7


def make_model(name: str) -> TaggerModel:
    backbone = Backbone(name)
    return TaggerModel(backbone, MLDecoder(backbone.channels, word_dim=5, dim=24, ffn_dim=17, heads=3))


def settings_of(model: TaggerModel, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """Return (learning rate, weight decay) of each parameter in the optimiser, by name."""
    of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(of) == sum(len(group["params"]) for group in optimizer.param_groups)  # each once
    return {name: of[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in of}


def optimized(name: str, **values: Any) -> tuple[TaggerModel, dict[str, tuple[float, float]]]:
    model = make_model(name)
    optimizer = make_optimizer(model, TrainConfig(**{"lr": LR, "weight_decay": DECAY, **values}))
    return model, settings_of(model, optimizer)


# --- parameter groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lamb", "sgd"])
def test_head_and_backbone_have_their_learning_rates(name: str, scale: float, optimizer: str) -> None:
    model, settings = optimized(name, backbone_lr_scale=scale, optimizer=optimizer)
    assert set(settings) == {name for name, _ in model.named_parameters()}
    for parameter, (rate, _) in settings.items():
        assert rate == pytest.approx(LR if parameter.startswith("head.") else LR * scale)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_biases_and_norms_have_no_weight_decay(name: str, layer_decay: float) -> None:
    model, settings = optimized(name, layer_decay=layer_decay)
    spared = {
        f"{path}.{own}"
        for path, module in model.named_modules()
        for own, parameter in module.named_parameters(recurse=False)
        if own == "bias" or "norm" in type(module).__name__.lower()
    }
    assert len(spared) > 20
    assert "head.bias" in spared
    for parameter, (_, decay) in settings.items():
        assert decay == (0.0 if parameter in spared else DECAY), parameter


def test_layer_decay_of_a_transformer_by_hand() -> None:
    """The layers of test_vit: patches and positions, each block (the last one with the norm), and its classifier."""
    model, settings = optimized("test_vit", layer_decay=0.5, backbone_lr_scale=0.8)
    depth = len(model.backbone.network.blocks)
    for name, (rate, _) in settings.items():
        own = name.removeprefix("backbone.network.")
        if name.startswith("head."):
            assert rate == pytest.approx(LR), name
            continue
        if own.startswith("blocks."):
            layer = int(own.split(".")[1]) + 1
        else:
            layer = {"norm": depth, "head": depth + 1}.get(own.split(".")[0], 0)
        assert rate == pytest.approx(0.8 * LR * 0.5 ** (depth + 1 - layer)), name


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_layer_decay_falls_towards_the_input(name: str) -> None:
    model, settings = optimized(name, layer_decay=0.5)
    backbone = [(key, rate) for key, (rate, _) in settings.items() if key.startswith("backbone.")]
    stem = next(rate for key, rate in backbone if model.get_parameter(key).ndim == 4)
    assert stem == min(rate for _, rate in backbone) < max(rate for _, rate in backbone) <= LR
    exponents = [math.log(rate / LR) / math.log(0.5) for _, rate in backbone]
    np.testing.assert_allclose(exponents, np.round(exponents), atol=1e-6)  # whole powers of it
    assert {rate for key, (rate, _) in settings.items() if key.startswith("head.")} == {LR}


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_a_frozen_backbone_is_left_out(layer_decay: float) -> None:
    _, settings = optimized("test_vit", freeze=True, layer_decay=layer_decay)
    assert settings
    assert all(name.startswith("head.") for name in settings)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_parameters_without_gradient_are_left_out(layer_decay: float) -> None:
    model = make_model("test_resnet")
    model.backbone.leave_out_unused(64)
    unused = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    optimizer = make_optimizer(model, TrainConfig(layer_decay=layer_decay))
    assert unused
    assert set(settings_of(model, optimizer)) == {name for name, _ in model.named_parameters()} - unused


def test_an_update_uses_the_groups() -> None:
    """With plain SGD a weight moves by its learning rate times the gradient plus its weight decay."""
    model = make_model("test_resnet")
    config = TrainConfig(lr=LR, weight_decay=DECAY, backbone_lr_scale=0.5, optimizer="momentum")
    optimizer = make_optimizer(model, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = LR if name.startswith("head.") else LR / 2
        decay = DECAY if parameter.ndim > 1 else 0.0
        assert_close(parameter.detach(), before[name] - rate * (1 + decay * before[name]), msg=name)


def test_unknown_optimizer() -> None:
    with pytest.raises(UserError, match=r"timm has no optimizer 'adamm'; it has: .*adamw, .*lamb, .*sgd"):
        make_optimizer(make_model("test_resnet"), TrainConfig(optimizer="adamm"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may be had there")
@pytest.mark.parametrize("name", ["fusedadam"])
def test_unavailable_optimizer(name: str) -> None:
    with pytest.raises(UserError, match=name):
        make_optimizer(make_model("test_resnet"), TrainConfig(optimizer=name))


# --- schedules --------------------------------------------------------------------------------------------


def rates(steps: int, first: float = LR, **values: Any) -> np.ndarray:
    """Return the learning rates of two groups by step, ``(steps, 2)``; the second has half the rate of the first."""
    groups = [{"params": [nn.Parameter(torch.zeros(3))], "lr": first * share} for share in (1, 0.5)]
    optimizer = torch.optim.AdamW(groups, lr=first)
    schedule = make_schedule(optimizer, TrainConfig(**values), steps)
    rates_by_step = []
    for _ in range(steps):
        rates_by_step.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return np.array(rates_by_step)


STEPS = 101


def test_onecycle() -> None:
    """Smith 2018 with torch's defaults: a cosine from 1/25 up to the peak and down to 1/250,000."""
    lr = rates(STEPS, schedule="onecycle", warmup=0.2)
    peak = 0.2 * STEPS - 1  # in steps, as torch counts: 19.2
    for step in range(STEPS):
        if step <= peak:
            expected = LR + (LR / 25 - LR) * (1 + math.cos(math.pi * step / peak)) / 2
        else:
            share = (step - peak) / (STEPS - 1 - peak)
            expected = LR / 25e4 + (LR - LR / 25e4) * (1 + math.cos(math.pi * share)) / 2
        assert lr[step, 0] == pytest.approx(expected, rel=1e-6), step
    assert lr[:, 0].argmax() in (19, 20)
    np.testing.assert_allclose(lr[:, 1], lr[:, 0] / 2)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("steps", [3, 4, 5, 7, 101])
def test_onecycle_rises_and_falls_in_short_runs(steps: int, warmup: float) -> None:
    lr = rates(steps, schedule="onecycle", warmup=warmup)[:, 0]
    assert lr[0] == pytest.approx(LR / 25)
    assert lr[-1] == pytest.approx(LR / 25e4)
    top = lr.argmax()
    assert 0 < top < steps - 1
    assert LR / 2 < lr[top] <= LR * (1 + 1e-9)
    assert (np.diff(lr[: top + 1]) > 0).all()
    assert (np.diff(lr[top:]) < 0).all()


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_cosine(warmup: float) -> None:
    lr = rates(STEPS, schedule="cosine", warmup=warmup)
    rise = round(warmup * STEPS)
    lowest = 0.5 * LR * 1e-3  # of the group with the lowest learning rate
    for column, top in enumerate((LR, LR / 2)):
        for step in range(STEPS):
            if step < rise:
                expected = top * (1e-3 + (1 - 1e-3) * step / rise)
            else:
                share = (step - rise) / (STEPS - rise)
                expected = lowest + (top - lowest) * (1 + math.cos(math.pi * share)) / 2
            assert lr[step, column] == pytest.approx(expected, rel=1e-6), step
    assert lr[:, 0].argmax() == rise
    assert lr[-1, 0] < 0.002 * LR


def test_timm_cosine_is_the_a2_schedule() -> None:
    """By epoch: the warm-up replaces the first epochs of a cosine over 30 epochs; then 4 epochs at the minimum."""
    values = {"epochs": 30, "cooldown_epochs": 4, "warmup": 5 / 30, "warmup_lr": 1e-4, "min_lr": 1e-6}
    lr = rates(34 * 3, schedule="timm_cosine", **values)
    for column, top in enumerate((LR, LR / 2)):
        for epoch in range(34):
            if epoch < 5:
                expected = 1e-4 + (top - 1e-4) * epoch / 5
            elif epoch < 30:
                expected = 1e-6 + (top - 1e-6) * (1 + math.cos(math.pi * epoch / 30)) / 2
            else:
                expected = 1e-6
            np.testing.assert_allclose(lr[3 * epoch : 3 * epoch + 3, column], expected, rtol=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_constant(warmup: float) -> None:
    lr = rates(STEPS, schedule="constant", warmup=warmup)[:, 0]
    rise = round(warmup * STEPS)
    np.testing.assert_allclose(lr[:rise], [LR * (1e-3 + (1 - 1e-3) * step / rise) for step in range(rise)], rtol=1e-6)
    np.testing.assert_allclose(lr[rise:], LR)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_runs_of_a_few_steps(schedule: str, warmup: float, steps: int) -> None:
    lr = rates(steps, schedule=schedule, warmup=warmup)
    assert (lr > 0).all()
    assert (lr <= LR * (1 + 1e-9)).all()


@pytest.mark.parametrize("optimizer", ["adafactor", "adagrad", "adadelta", "lion", "sgd", "rmsprop", "lamb"])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_every_schedule_takes_every_optimizer(optimizer: str, schedule: str) -> None:
    config = TrainConfig(optimizer=optimizer, schedule=schedule, lr=LR)  # type: ignore[arg-type]
    made = make_optimizer(make_model("test_vit"), config)
    lr_schedule = make_schedule(made, config, 20)
    for group in made.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    made.step()
    lr_schedule.step()
    assert 0 < made.param_groups[0]["lr"] < LR * 1.001


@pytest.mark.parametrize("values", [
    {"schedule": "onecycle"}, {"schedule": "cosine"}, {"schedule": "cosine", "warmup": 0.0}, {"schedule": "constant"},
    {"schedule": "constant", "warmup": 0.0},
    {"schedule": "timm_cosine", "epochs": 4, "cooldown_epochs": 1, "min_lr": 1e-6, "warmup": 0.5},
])  # fmt: skip
@pytest.mark.parametrize("stopped_at", [0, 3, 4, 5, 13])
def test_schedule_continues_after_saving_and_loading(values: dict[str, Any], stopped_at: int) -> None:
    """Both are stored without executable code, as in a checkpoint."""
    config = TrainConfig(**values)

    def make() -> tuple[Optimizer, Any]:
        groups = [{"params": [nn.Parameter(torch.zeros(3))], "lr": LR * share} for share in (1, 0.5)]
        optimizer = torch.optim.AdamW(groups, lr=LR)
        return optimizer, make_schedule(optimizer, config, 20)

    def run(optimizer: Optimizer, schedule: Any, steps: int) -> list[list[float]]:
        history = []
        for _ in range(steps):
            history.append([group[name] for group in optimizer.param_groups for name in ("lr", "betas")])
            optimizer.step()
            schedule.step()
        return history

    whole = run(*make(), 20)
    optimizer, schedule = make()
    run(optimizer, schedule, stopped_at)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": _without_functions(schedule.state_dict())}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    optimizer, schedule = make()
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    assert run(optimizer, schedule, 20 - stopped_at) == whole[stopped_at:]


# --- averaged weights -------------------------------------------------------------------------------------


def averages(decay: float, steps: int) -> tuple[list[float], list[Tensor]]:
    """Return the average after each step of a weight that is 1, 2, 3, ..."""
    part = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(part.weight)
    ema = make_ema(part, TrainConfig(ema=decay))
    assert ema is not None
    values, averaged = [], []
    for step in range(steps):
        nn.init.constant_(part.weight, step + 1.0)
        ema.update(part, step)
        values.append(step + 1.0)
        averaged.append(ema.module.weight.detach().clone())
    return values, averaged


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9997])
def test_averaged_weights_equal_a_loop(decay: float) -> None:
    """The first two steps are copied; then the decay rises by 1 - (1 + t)^(-2/3) to its final value."""
    values, averaged = averages(decay, 53)
    expected = 0.0
    for step, value in enumerate(values):
        t = step - 1
        now = 0.0 if t <= 0 else min(1 - (1 + t) ** (-2 / 3), decay)
        expected = now * expected + (1 - now) * value
        assert_close(averaged[step], torch.tensor([[expected]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.9997])
def test_average_without_warmup_equals_the_released_code(decay: float) -> None:
    """Compute e <- decay e + (1 - decay) m for every weight and statistic from the first update on, in float64."""
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).double()
    expected = {name: value.numpy().copy() for name, value in part.state_dict().items()}
    ema = make_ema(part, TrainConfig(ema=decay, ema_warmup=False))
    assert ema is not None
    optimizer = torch.optim.SGD(part.parameters(), 0.5)
    for step in range(23):
        part(torch.randn(7, 3, dtype=torch.float64) + step).square().mean().backward()
        optimizer.step()
        ema.update(part, step)
        now = {name: value.numpy() for name, value in part.state_dict().items() if name != "1.num_batches_tracked"}
        for name, value in now.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
            np.testing.assert_allclose(ema.module.state_dict()[name], expected[name], rtol=1e-12, err_msg=name)
    assert not torch.allclose(ema.module.state_dict()["1.running_mean"], part.state_dict()["1.running_mean"])


def test_short_runs_move_away_from_the_initial_weights() -> None:
    values, averaged = averages(0.9997, 20)
    assert averaged[-1].item() > 0.5 * values[-1]


def test_no_averaged_weights() -> None:
    assert make_ema(nn.Linear(3, 5), TrainConfig(ema=0.0)) is None


def test_averaged_weights_are_a_copy_with_buffers() -> None:
    part = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    ema = make_ema(part, TrainConfig(ema=0.9))
    assert ema is not None
    part.train()
    part(torch.randn(7, 3) + 2)
    ema.update(part, 0)
    assert set(ema.module.state_dict()) == set(part.state_dict())
    for name, value in part.state_dict().items():
        assert_close(ema.module.state_dict()[name], value)
    nn.init.zeros_(next(part.parameters()))
    assert next(ema.module.parameters()).abs().max() > 0

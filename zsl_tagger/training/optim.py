"""Build the optimiser, learning-rate schedule and averaged weights from the settings, with timm and torch."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from zsl_tagger.errors import UserError
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training.config import TrainConfig

#: Warm-up starts, and the cosine ends, at this share of the learning rate.
FLOOR = 1e-3

#: timm copies the weights until one step after ``update_after_step``; with -2 it averages from step 0.
AVERAGE_FROM_FIRST_STEP = -2


def check_optimizer(name: str) -> None:
    """Raise a UserError if timm has no optimiser of this name."""
    if name not in list_optimizers():
        raise UserError(f"timm has no optimizer {name!r}; it has: {', '.join(list_optimizers())}")


def make_optimizer(model: TaggerModel, config: TrainConfig) -> Optimizer:
    """Return the optimiser, with learning rates by part of the model.

    The head has ``lr``; the backbone has ``lr * backbone_lr_scale``, times ``layer_decay`` per layer below the last.
    Biases and norms have no weight decay.

    Raises:
        UserError: timm has no such optimiser, or cannot create it on this machine.
    """
    check_optimizer(config.optimizer)
    groups = [{**group, "lr": config.lr} for group in param_groups_weight_decay(model.head, config.weight_decay)]
    if not config.freeze:
        scale = config.lr * config.backbone_lr_scale
        groups += [
            {**group, "lr": scale * layer_scale}
            for group in _backbone_groups(model.backbone.network, config)
            for layer_scale in (group.pop("lr_scale", 1.0),)
        ]
    groups = [group for group in groups if group["params"]]
    try:
        optimizer: Optimizer = create_optimizer_v2(groups, opt=config.optimizer, lr=config.lr, filter_bias_and_bn=False)
    except Exception as error:  # the type of the error depends on the optimiser and its package
        reason = str(error) or "it needs a GPU or a package that is not installed"
        raise UserError(f"cannot create the optimizer {config.optimizer!r}: {reason}") from None
    return optimizer


def _backbone_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    if config.layer_decay == 1.0:
        groups: list[dict[str, Any]] = param_groups_weight_decay(network, config.weight_decay)
        return groups
    return list(param_groups_layer_decay(network, config.weight_decay, layer_decay=config.layer_decay))


class TimmCosine:
    """Step timm's cosine schedule once per epoch, as its training script does; same interface as torch's schedules.

    The warm-up replaces the first epochs of the cosine. After ``epochs`` epochs the learning rate stays at ``min_lr``.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, steps: int):
        epochs = config.epochs + config.cooldown_epochs
        self._steps_per_epoch, self._done, self._optimizer = max(1, steps // epochs), 0, optimizer
        self._by_epoch = CosineLRScheduler(
            optimizer,
            t_initial=config.epochs,
            lr_min=config.min_lr,
            warmup_t=round(config.warmup * config.epochs),
            warmup_lr_init=config.warmup_lr,
        )

    def step(self) -> None:
        self._done += 1
        self._by_epoch.step(self._done // self._steps_per_epoch)

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["steps"]
        self._by_epoch.step(self._done // self._steps_per_epoch)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler | TimmCosine:
    """Return the learning-rate schedule, which scales the learning rate of each group."""
    if config.schedule == "timm_cosine":
        return TimmCosine(optimizer, config, steps)
    warmup = round(config.warmup * steps)
    if config.schedule == "onecycle" and steps > 2:
        rates = [group["lr"] for group in optimizer.param_groups]
        share = min(max(config.warmup, 1.5 / steps), 1 - 1.5 / steps)  # at least one step up and one down
        momentum = not {"momentum", "betas"}.isdisjoint(optimizer.defaults)  # Adafactor and Adagrad have none
        return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=share, cycle_momentum=momentum)
    after: LRScheduler
    if config.schedule == "constant":
        after = LinearLR(optimizer, 1.0, 1.0)
    else:
        lowest = min(group["lr"] for group in optimizer.param_groups) * FLOOR
        after = CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=lowest)
    if warmup == 0:
        return after
    rise = LinearLR(optimizer, FLOOR, 1.0, total_iters=warmup)
    return SequentialLR(optimizer, [rise, after], milestones=[warmup])


def make_ema(part: nn.Module, config: TrainConfig) -> ModelEmaV3 | None:
    """Return the averaged weights and statistics of a module; None if ``ema`` is 0.

    With ``ema_warmup`` the decay at step t is ``min(ema, 1 - (1 + t)^(-2/3))``, so that short runs work too. Without it
    the decay is constant, as in the released code, and the average starts from the initial weights.
    """
    if not config.ema:
        return None
    if config.ema_warmup:
        return ModelEmaV3(part, decay=config.ema, use_warmup=True)
    return ModelEmaV3(part, decay=config.ema, update_after_step=AVERAGE_FROM_FIRST_STEP)

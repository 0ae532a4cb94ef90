"""Run the training steps: draw images and labels, compute the loss and update the weights; resumable at any step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zsl_tagger.errors import UserError
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.model.torch_files import read_torch_file
from zsl_tagger.system.progress import Progress
from zsl_tagger.system.signals import StopRequest, watching_signals
from zsl_tagger.training.augment import BatchMix, seed_everything
from zsl_tagger.training.checkpoint import Stopped, read_checkpoint, save_checkpoint, write_tensors
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import ImageSchedule, LoadedPart, PartialTargets, Split, Targets
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.log import RunLog, measured_text
from zsl_tagger.training.losses import OwnLoss, make_loss, own_losses
from zsl_tagger.training.optim import make_ema, make_optimizer, make_schedule
from zsl_tagger.training.partial_labels import PartialLoss
from zsl_tagger.training.query_augment import QueryAugment

CHECKPOINT_FILE, BEST_FILE = "checkpoint.pt", "best.pt"

#: Steps between two checks of the loss, which synchronise with the GPU. It is also checked before saving.
CHECK_LOSS_EVERY = 10

Validate = Callable[[TaggerModel], ValidationFigures]
PartsFrom = Callable[[int], Generator[LoadedPart, None, None]]  # first step -> this process's parts


class StepLabels(NamedTuple):
    """Labels of a step.

    Args:
        labels: int64 ``(K,)``, indices among the trained labels.
        queries: ``(K, word_dim)``; None for a closed set.
        weights: weights of the labels in the loss, float32 ``(K,)``; None if all are 1.
    """

    labels: np.ndarray
    queries: Tensor | None
    weights: np.ndarray | None


class TrainNetwork(nn.Module):
    """Compute logits in training, from images or from features of a frozen backbone.

    Args:
        freeze: keep the backbone in evaluation mode, without gradients.
        from_features: whether inputs are backbone tokens.
    """

    def __init__(self, model: TaggerModel, freeze: bool, from_features: bool):
        super().__init__()
        self.model, self.freeze, self.from_features = model, freeze, from_features
        if freeze:
            model.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> TrainNetwork:
        super().train(mode)
        if self.freeze:
            self.model.backbone.eval()
        return self

    def forward(self, inputs: Tensor, queries: Tensor | None) -> Tensor:
        """Return logits ``(B, K)`` for pixels, uint8 or float ``(B, S, S, 3)``, or for tokens ``(B, L, C)``."""
        if self.from_features:
            return self.model.score(self.model.embed(inputs.float()), queries)
        with torch.no_grad() if self.freeze else contextlib.nullcontext():
            tokens = self.model.backbone_tokens(inputs)
        return self.model.score(self.model.embed(tokens), queries)


class Trainer:
    """Run the training steps.

    Args:
        model: the model, on the accelerator's device.
        parts_from: returns the process's parts from a given step on, ``accumulate`` of them per step.
        data: fingerprint of the training data; checkpoints from other data are rejected.
        priors: priors of the trained labels, see :class:`~zsl_tagger.training.partial_labels.PartialLoss`.
        own_loss: custom loss instead of the one in the settings.

    Attributes:
        step: number of completed steps.
        started: start of the run on the monotonic clock.
        faults: reason by index of each unreadable image.
    """

    def __init__(
        self,
        model: TaggerModel,
        split: Split,
        targets: Targets | PartialTargets,
        schedule: ImageSchedule,
        config: TrainConfig,
        accelerator: Accelerator,
        *,
        from_features: bool,
        parts_from: PartsFrom,
        validate: Validate,
        folder: Path,
        data: str,
        priors: np.ndarray | None = None,
        own_loss: OwnLoss | None = None,
    ):
        self.model, self.split, self.targets, self.schedule, self.config = model, split, targets, schedule, config
        self.accelerator, self.parts_from, self.validate, self.data = accelerator, parts_from, validate, data
        self.checkpoint, self.best_path = folder / CHECKPOINT_FILE, folder / BEST_FILE
        self.vectors = torch.from_numpy(split.vectors).to(accelerator.device) if not config.closed else None
        self.augment = QueryAugment(config)
        self.mix = BatchMix(config) if config.mixup or config.cutmix else None
        self.loss = make_loss(
            config.loss, config.gamma_neg, config.gamma_pos, config.clip, config.smoothing, config.focal_gradient
        )
        self.partial_loss = None if config.softmax else PartialLoss(config, priors)
        self.own_loss = own_loss
        network: nn.Module = TrainNetwork(model, config.freeze, from_features)
        self.trained: nn.Module = model.head if config.freeze else model
        self.ema = make_ema(self.trained, config)
        optimizer = make_optimizer(model, config)
        self.lr_schedule = make_schedule(optimizer, config, schedule.steps)
        if config.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.step, self.started, self._seconds_before = 0, time.monotonic(), 0.0
        self.best = ValidationFigures()
        self.best_step: int | None = None  # None: nothing measured on validation
        self.faults: dict[int, str] = {}

    # --- the run ------------------------------------------------------------------------------------------

    def run(self, log: RunLog | None, progress: Progress, stop: StopRequest) -> None:
        """Train to the end.

        Raises:
            Stopped: a signal stopped the run; all steps up to ``step`` are saved.
            UserError: the loss is not finite, or memory or disk is full; the last checkpoint stays.
        """
        loaded = self.parts_from(self.step)
        try:
            self._run(loaded, log, progress, stop)
        finally:
            loaded.close()  # ends the reader processes, even if a traceback still refers to them

    def _run(self, loaded: Iterator[LoadedPart], log: RunLog | None, progress: Progress, stop: StopRequest) -> None:
        steps, per_epoch = self.schedule.steps, self.schedule.steps_per_epoch
        total, new_steps, since = torch.zeros((), device=self.accelerator.device), 0, time.monotonic()
        measured: dict[str, float] = {}
        self.network.train()
        while self.step < steps:
            total += self._train_step(loaded)
            self.step, new_steps = self.step + 1, new_steps + 1
            epoch_ends = self.step % per_epoch == 0
            saves = epoch_ends or self.step % self.config.checkpoint_every == 0
            progress.update(self.step)
            stop_now = self.accelerator.num_processes == 1 and stop.signal is not None
            if saves or new_steps >= CHECK_LOSS_EVERY or stop_now:
                values = self._measure(float(total), new_steps, since)
                if epoch_ends and (self.step // per_epoch % self.config.validate_every == 0 or self.step == steps):
                    values |= self._validate().measured()
                if log is not None:
                    log.write(values)
                measured |= values
                progress.update(self.step, measured_text(measured))
                stopping = self._shared_signal(stop)
                if saves or stopping:
                    self.save()
                if stopping:
                    raise Stopped(stopping, self.step)
                total.zero_()
                new_steps, since = 0, time.monotonic()

    def _train_step(self, loaded: Iterator[LoadedPart]) -> Tensor:
        """Update the weights once and return this process's share of the loss."""
        seed = (self.config.seed, self.step)
        chosen = self._choose_labels()
        total = torch.zeros((), device=self.accelerator.device)
        for turn in range(self.config.accumulate):
            last = turn == self.config.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                part = next(loaded)
                self.faults.update(part.faults)
                # Dropout must differ between processes and parts, and be the same in a resumed run.
                seed_everything((*seed, turn, self.accelerator.process_index))
                loss = self._loss(part, chosen, turn)
                # Processes average their gradients, but the loss is a sum over them.
                self.accelerator.backward(loss * self.accelerator.num_processes)
                total += loss.detach()
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_schedule.step()
        if self.ema is not None:
            self.ema.update(self.trained, self.step)
        return total

    def _choose_labels(self) -> StepLabels:
        """Choose the labels of a step."""
        if self.vectors is None:
            return StepLabels(np.arange(len(self.split.labels)), None, None)
        annotated = self.targets.annotated(self.schedule.batch(self.step))
        labels = self.augment.labels(annotated, len(self.split.labels), (self.config.seed, self.step, 1))
        vectors = self.vectors[torch.from_numpy(labels).to(self.vectors.device)]
        queries = self.augment.queries(vectors, (self.config.seed, self.step, 2))
        return StepLabels(labels, queries, self.augment.label_weights(labels, annotated))

    def _loss(self, part: LoadedPart, chosen: StepLabels, turn: int) -> Tensor:
        """Return the contribution of part number ``turn`` to the step's loss, the sum over all parts and processes."""
        device = self.accelerator.device
        inputs = part.inputs.to(device, non_blocking=True)
        inputs, targets, unknown = self._mix_batch(inputs, part.rows, chosen)  # targets, unknown: (b, K)
        if self.config.target_threshold is not None:
            targets = (targets > self.config.target_threshold).float()
            unknown = None if unknown is None else unknown * (1 - targets)
        if chosen.queries is None:
            logits = self.network(inputs, None).float()
            losses = self._elementwise(logits, targets, unknown, chosen)  # (b, K), or (b,) for a softmax
            count = losses.shape[1] if losses.ndim == 2 else 1
        else:
            weights = self._weights(part.rows, chosen).to(device)  # (b, K)
            step_seed = (self.config.seed, self.step, 4)
            part_seed = (*step_seed, turn, self.accelerator.process_index)
            queries, targets, weights = self.augment.with_random(chosen.queries, targets, weights, step_seed, part_seed)
            logits = self.network(inputs, queries).float()
            losses = self._elementwise(logits, targets, unknown, chosen) * weights  # (b, K + N)
            count = len(chosen.labels) + self.config.random_queries
        if self.config.reduction == "sum":
            return losses.sum()
        images = len(self.schedule.batch(self.step))  # in all parts
        return losses.sum() / (images * count)

    def _mix_batch(self, inputs: Tensor, rows: np.ndarray, chosen: StepLabels) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a part's inputs, targets and unknown pairs ``(b, K)``, mixed if the settings say so.

        Unknown pairs are None if labels are complete.
        """
        targets = torch.from_numpy(self.targets.matrix(rows)[:, chosen.labels]).to(inputs.device)
        all_unknown = self.targets.unknown(rows)  # (b, all labels)
        unknown = None if all_unknown is None else torch.from_numpy(all_unknown[:, chosen.labels]).to(inputs.device)
        if self.mix is None:
            return inputs, targets, unknown
        seed = (self.config.seed, self.step, 3, self.accelerator.process_index)
        if unknown is None:
            return *self.mix(inputs, targets, seed), None
        inputs, both = self.mix(inputs, torch.cat([targets, unknown], dim=1), seed)  # both: (b, 2 K)
        targets, unknown = both.chunk(2, dim=1)
        return inputs, targets, unknown

    def _elementwise(self, logits: Tensor, targets: Tensor, unknown: Tensor | None, chosen: StepLabels) -> Tensor:
        """Return the loss of each pair of image and label, or of each image for a loss with softmax."""
        if self.own_loss is not None:
            return own_losses(self.own_loss, logits, targets, unknown)
        if unknown is None or self.partial_loss is None:
            return self.loss(logits, targets)
        epoch = self.step // self.schedule.steps_per_epoch
        return self.partial_loss(logits, targets, unknown, chosen.labels, epoch)

    def _weights(self, rows: np.ndarray, chosen: StepLabels) -> Tensor:
        """Return the weight in the loss of each chosen label on each image, float32 ``(b, K)``."""
        weights = np.ones((len(rows), len(chosen.labels)), np.float32)
        if chosen.weights is not None:
            weights *= chosen.weights
        target_weights = self.targets.weights(rows)  # (b, all labels)
        if target_weights is not None:
            weights *= target_weights[:, chosen.labels]
        return torch.from_numpy(weights)

    # --- measurements -------------------------------------------------------------------------------------

    def _measure(self, total: float, steps: int, since: float) -> dict[str, float]:
        """Return loss, learning rate and speed over the last ``steps`` steps.

        Raises:
            UserError: the loss is not finite.
        """
        own = torch.tensor([total], device=self.accelerator.device)
        loss = float(self.accelerator.reduce(own, "sum")) / steps
        rate = float(self.lr_schedule.get_last_lr()[0])
        if not np.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.step} (learning rate {rate:.2g}); the last checkpoint was kept: "
                "lower lr, set clip_grad=1 or set precision=fp32, and start again in a new --output"
            )
        pace = steps * self.config.batch_size / max(time.monotonic() - since, 1e-9)
        epoch = self.step / self.schedule.steps_per_epoch
        return {"step": self.step, "epoch": epoch, "loss": loss, "lr": rate, "images_per_s": pace}

    def _validate(self) -> ValidationFigures:
        figures = self.validate(self.averaged())
        self.network.train()
        selected_by = figures.selection_metric()
        if selected_by is None:
            return figures
        name, value = selected_by
        if value > self.best.measured().get(name, -1.0):
            self.best, self.best_step = figures, self.step
            if self.accelerator.is_main_process:
                state = self.averaged_part().state_dict()
                write_tensors(self.best_path, state)
        return figures

    def averaged_part(self) -> nn.Module:
        """Return the trained part of the model with averaged weights, which is validated and saved."""
        return self.trained if self.ema is None else self.ema.module

    def averaged(self) -> TaggerModel:
        part = self.averaged_part()
        if isinstance(part, TaggerModel):
            return part
        model = self.model
        averaged = TaggerModel(model.backbone, part, model.reading, model.class_evidence)  # type: ignore[arg-type]
        averaged.normalize_by(*model.normalization)
        return averaged.to(self.accelerator.device)

    def load_best(self) -> None:
        """Load the weights that were best on validation; without validation, keep the last ones."""
        if self.best_step is not None:
            self.accelerator.wait_for_everyone()
            state = read_torch_file(self.best_path)
            self.averaged_part().load_state_dict(state)

    # --- checkpoints --------------------------------------------------------------------------------------

    def _shared_signal(self, stop: StopRequest) -> int:
        """Return the signal that any process received, or 0, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stop.signal or 0
        own = torch.tensor([stop.signal or 0], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())

    @property
    def seconds(self) -> float:
        """Return the duration of the run so far, including the time before interruptions."""
        return self._seconds_before + time.monotonic() - self.started

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content: dict[str, Any] = {
            "config": self.config.as_dict(),
            "data": self.data,
            "step": self.step,
            "seconds": self.seconds,
            "weights": self.trained.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": _without_functions(self.lr_schedule.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": {} if self.best_step is None else {**self.best.measured(), "step": self.best_step},
            "faults": self.faults,
        }
        save_checkpoint(self.checkpoint, content)

    def resume(self) -> None:
        """Continue from the checkpoint.

        Raises:
            UserError: there is none, or it has other settings or data.
        """
        content = read_checkpoint(self.checkpoint)
        # The default of a setting that older checkpoints lack is the behaviour before the setting existed.
        now, then = self.config.as_dict(), TrainConfig().as_dict() | content["config"]
        changed = [name for name in {**then, **now} if now.get(name) != then.get(name) and name not in _MAY_CHANGE]
        if changed:
            changes = ", ".join(f"{name} {then.get(name)!r} -> {now.get(name)!r}" for name in sorted(changed))
            raise UserError(f"{self.checkpoint} has other settings ({changes}): resume with the original ones")
        # The fingerprint covers the initial weights. Versions without ema_warmup drew them differently.
        comparable = "ema_warmup" in content["config"]
        if comparable and content["data"] != self.data:
            raise UserError(
                f"{self.checkpoint} has other images, labels, word vectors or initial weights: "
                "resume with the original ones"
            )
        self.trained.load_state_dict(content["weights"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.lr_schedule.load_state_dict(content["lr_schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.step, self.faults = content["step"], content["faults"]
        self.best, self.best_step = ValidationFigures.from_saved(content["best"]), content["best"].get("step")
        self._seconds_before = content["seconds"]


def run_trainer(trainer: Trainer, folder: Path, is_main: bool = True) -> None:
    """Run a trainer to the end with a log in ``folder`` and a progress bar, and stop cleanly on a signal.

    Args:
        is_main: whether this process writes the log and shows the progress.

    Raises:
        Stopped, UserError: see :meth:`Trainer.run`.
    """
    log = RunLog(folder, trainer.step) if is_main else None
    progress = Progress("training", trainer.schedule.steps, done=trainer.step, unit="steps", shown=is_main)
    try:
        with watching_signals() as stop, progress:
            trainer.run(log, progress, stop)
    finally:
        if log is not None:
            log.close()


#: Settings that do not affect the result of a run.
_MAY_CHANGE = frozenset({"workers", "checkpoint_every", "bake_words", "compile", "channels_last"})


def _without_functions(state: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule's state without functions, which could not be loaded safely."""
    kept = {name: value for name, value in state.items() if not callable(value) and name != "_schedulers"}
    if "_schedulers" in state:
        kept["_schedulers"] = [_without_functions(one) for one in state["_schedulers"]]
    return kept


@contextlib.contextmanager
def explained_memory_errors(config: TrainConfig) -> Iterator[None]:
    """Turn errors about memory into UserErrors that name the settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if "dataloader worker" in text:
            raise UserError(
                "a process that reads images was killed, probably because memory ran out: lower --set workers (0 "
                f"reads images in the main process), then use --resume ({str(error).splitlines()[0]})"
            ) from None
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        labels = "" if config.closed else ", or labels_per_step"
        raise UserError(
            f"out of memory with batch_size={config.batch_size} in {config.accumulate} parts of images of "
            f"{config.image_size} px: raise accumulate (the result stays the same), or lower batch_size, "
            f"image_size{labels}; precision=bf16 needs about half the memory"
        ) from None

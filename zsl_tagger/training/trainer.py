"""Run the steps of a training: draw images and labels, compute the loss, update; resumable at any step."""

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
from zsl_tagger.training.data import ImageSchedule, PartialTargets, Shown, Split, Targets
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.log import RunLog, measured_text
from zsl_tagger.training.losses import OwnLoss, make_loss, own_losses
from zsl_tagger.training.optim import make_ema, make_optimizer, make_schedule
from zsl_tagger.training.partial_labels import PartialLoss
from zsl_tagger.training.query_augment import QueryAugment

CHECKPOINT_FILE, BEST_FILE = "checkpoint.pt", "best.pt"

#: Steps between two looks at the loss, which make a GPU wait; what is saved was looked at before.
LOOK_EVERY = 10

Validate = Callable[[TaggerModel], ValidationFigures]
ShownFrom = Callable[[int], Generator[Shown, None, None]]  # from a step on, what this process is shown


class Asked(NamedTuple):
    """Hold what a step asks of its images.

    Args:
        labels: int64 ``(K,)``.
        queries: ``(K, word_dim)``; None for a closed set.
        weights: of the labels in the loss, float32 ``(K,)``; None where all are 1.
    """

    labels: np.ndarray
    queries: Tensor | None
    weights: np.ndarray | None


class TrainNetwork(nn.Module):
    """Compute logits as in training: from images, or from features of a frozen backbone.

    Args:
        from_features: inputs are backbone tokens.
        freeze: the backbone has no gradient and stays in evaluation mode.
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
        """uint8 or float ``(B, S, S, 3)``, or tokens ``(B, L, C)`` -> logits ``(B, K)``."""
        if self.from_features:
            return self.model.score(self.model.embed(inputs.float()), queries)
        with torch.no_grad() if self.freeze else contextlib.nullcontext():
            tokens = self.model.backbone_tokens(inputs)
        return self.model.score(self.model.embed(tokens), queries)


class Trainer:
    """Run the steps.

    Args:
        model: already on the accelerator's device.
        shown_from: gives the process's parts from a step on; ``accumulate`` a step.
        data: fingerprint of what is trained on; a checkpoint of other data is refused.
        priors: of the trained labels, see :class:`~zsl_tagger.training.partial_labels.PartialLoss`.
        own_loss: in place of that of the settings.

    Attributes:
        step: steps done.
        started: when the run began, by the monotonic clock.
        faults: images that could not be read, and why.
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
        shown_from: ShownFrom,
        validate: Validate,
        folder: Path,
        data: str,
        priors: np.ndarray | None = None,
        own_loss: OwnLoss | None = None,
    ):
        self.model, self.split, self.targets, self.schedule, self.config = model, split, targets, schedule, config
        self.accelerator, self.shown_from, self.validate, self.data = accelerator, shown_from, validate, data
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
        self.best_step: int | None = None  # None: nothing was measured on validation
        self.faults: dict[int, str] = {}

    # --- the run ------------------------------------------------------------------------------------------

    def run(self, log: RunLog | None, progress: Progress, stop: StopRequest) -> None:
        """Train to the end.

        Raises:
            Stopped: a signal came; everything up to ``step`` is saved.
            UserError: the loss is no number, or memory or disk is full; the last checkpoint stays.
        """
        shown = self.shown_from(self.step)
        try:
            self._run(shown, log, progress, stop)
        finally:
            shown.close()  # ends the processes that read images, also where a traceback holds on to them

    def _run(self, shown: Iterator[Shown], log: RunLog | None, progress: Progress, stop: StopRequest) -> None:
        steps, per_epoch = self.schedule.steps, self.schedule.steps_per_epoch
        total, seen_steps, since = torch.zeros((), device=self.accelerator.device), 0, time.monotonic()
        measured: dict[str, float] = {}
        self.network.train()
        while self.step < steps:
            total += self._train_step(shown)
            self.step, seen_steps = self.step + 1, seen_steps + 1
            epoch_ends = self.step % per_epoch == 0
            saves = epoch_ends or self.step % self.config.checkpoint_every == 0
            progress.update(self.step)
            if saves or seen_steps >= LOOK_EVERY or (self.accelerator.num_processes == 1 and stop.signal is not None):
                values = self._look(float(total), seen_steps, since)
                if epoch_ends and (self.step // per_epoch % self.config.validate_every == 0 or self.step == steps):
                    values |= self._validate().measured()
                if log is not None:
                    log.write(values)
                measured |= values
                progress.update(self.step, measured_text(measured))
                stopping = self._agreed(stop)
                if saves or stopping:
                    self.save()
                if stopping:
                    raise Stopped(stopping, self.step)
                total.zero_()
                seen_steps, since = 0, time.monotonic()

    def _train_step(self, shown: Iterator[Shown]) -> Tensor:
        """Update the weights once and return this process's share of the loss."""
        seed = (self.config.seed, self.step)
        asked = self._ask()
        total = torch.zeros((), device=self.accelerator.device)
        for turn in range(self.config.accumulate):
            last = turn == self.config.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                part = next(shown)
                self.faults.update(part.faults)
                # Dropout differs between processes and parts, and is the same in a resumed run.
                seed_everything((*seed, turn, self.accelerator.process_index))
                loss = self._loss(part, asked, turn)
                self.accelerator.backward(loss * self.accelerator.num_processes)  # gradients are averaged over them
                total += loss.detach()
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_schedule.step()
        if self.ema is not None:
            self.ema.update(self.trained, self.step)
        return total

    def _ask(self) -> Asked:
        """Choose the labels of a step."""
        if self.vectors is None:
            return Asked(np.arange(len(self.split.labels)), None, None)
        annotated = self.targets.annotated(self.schedule.batch(self.step))
        labels = self.augment.labels(annotated, len(self.split.labels), (self.config.seed, self.step, 1))
        vectors = self.vectors[torch.from_numpy(labels).to(self.vectors.device)]
        queries = self.augment.queries(vectors, (self.config.seed, self.step, 2))
        return Asked(labels, queries, self.augment.label_weights(labels, annotated))

    def _loss(self, part: Shown, asked: Asked, turn: int) -> Tensor:
        """Return the part ``turn``'s share of the step's loss, so that the parts of all processes add up to it."""
        device = self.accelerator.device
        inputs = part.inputs.to(device, non_blocking=True)
        inputs, targets, unknown = self._mixed(inputs, part.rows, asked)  # (b, K) each, or no unknown ones
        if self.config.target_threshold is not None:
            targets = (targets > self.config.target_threshold).float()
            unknown = None if unknown is None else unknown * (1 - targets)
        if asked.queries is None:
            logits = self.network(inputs, None).float()
            losses = self._elementwise(logits, targets, unknown, asked)  # (b, K), or (b,) of a softmax
            count = losses.shape[1] if losses.ndim == 2 else 1
        else:
            weights = self._weights(part.rows, asked).to(device)  # (b, K)
            of_step = (self.config.seed, self.step, 4)
            of_part = (*of_step, turn, self.accelerator.process_index)
            queries, targets, weights = self.augment.with_random(asked.queries, targets, weights, of_step, of_part)
            logits = self.network(inputs, queries).float()
            losses = self._elementwise(logits, targets, unknown, asked) * weights  # (b, K + N)
            count = len(asked.labels) + self.config.random_queries
        if self.config.reduction == "sum":
            return losses.sum()
        images = len(self.schedule.batch(self.step))  # of all parts
        return losses.sum() / (images * count)

    def _mixed(self, inputs: Tensor, rows: np.ndarray, asked: Asked) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a part's inputs, targets ``(b, K)`` and which of these are unknown, all mixed alike."""
        targets = torch.from_numpy(self.targets.matrix(rows)[:, asked.labels]).to(inputs.device)
        of_images = self.targets.unknown(rows)  # (b, all labels)
        unknown = None if of_images is None else torch.from_numpy(of_images[:, asked.labels]).to(inputs.device)
        if self.mix is None:
            return inputs, targets, unknown
        seed = (self.config.seed, self.step, 3, self.accelerator.process_index)
        if unknown is None:
            return *self.mix(inputs, targets, seed), None
        inputs, both = self.mix(inputs, torch.cat([targets, unknown], dim=1), seed)  # (b, 2 K): shares mix alike
        targets, unknown = both.chunk(2, dim=1)
        return inputs, targets, unknown

    def _elementwise(self, logits: Tensor, targets: Tensor, unknown: Tensor | None, asked: Asked) -> Tensor:
        """Return the loss of each pair of image and label, or of each image where the loss is a softmax's."""
        if self.own_loss is not None:
            return own_losses(self.own_loss, logits, targets, unknown)
        if unknown is None or self.partial_loss is None:
            return self.loss(logits, targets)
        epoch = self.step // self.schedule.steps_per_epoch
        return self.partial_loss(logits, targets, unknown, asked.labels, epoch)

    def _weights(self, rows: np.ndarray, asked: Asked) -> Tensor:
        """Return the weight in the loss of each asked label on each image ``rows``, float32 ``(b, K)``."""
        weights = np.ones((len(rows), len(asked.labels)), np.float32)
        if asked.weights is not None:
            weights *= asked.weights
        of_targets = self.targets.weights(rows)  # (b, all labels)
        if of_targets is not None:
            weights *= of_targets[:, asked.labels]
        return torch.from_numpy(weights)

    # --- what is measured ---------------------------------------------------------------------------------

    def _look(self, total: float, steps: int, since: float) -> dict[str, float]:
        """Return loss, learning rate and speed since the last look.

        Raises:
            UserError: the loss is not a number.
        """
        mine = torch.tensor([total], device=self.accelerator.device)
        loss = float(self.accelerator.reduce(mine, "sum")) / steps
        rate = float(self.lr_schedule.get_last_lr()[0])
        if not np.isfinite(loss):
            raise UserError(
                f"the loss became {loss} by step {self.step} (learning rate {rate:.2g}); the checkpoint stays. "
                "Lower lr, set clip_grad=1, or precision=fp32, in a new --output"
            )
        pace = steps * self.config.batch_size / max(time.monotonic() - since, 1e-9)
        epoch = self.step / self.schedule.steps_per_epoch
        return {"step": self.step, "epoch": epoch, "loss": loss, "lr": rate, "images_per_s": pace}

    def _validate(self) -> ValidationFigures:
        figures = self.validate(self.averaged())
        self.network.train()
        decisive = figures.decisive()
        if decisive is None:
            return figures
        name, value = decisive
        if value > self.best.measured().get(name, -1.0):
            self.best, self.best_step = figures, self.step
            if self.accelerator.is_main_process:
                state = self.averaged_part().state_dict()
                write_tensors(self.best_path, state)
        return figures

    def averaged_part(self) -> nn.Module:
        """Return the trained part with its averaged weights, which is validated and saved."""
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
        """Give the averaged part the weights that were best on validation; without validation it has the last ones."""
        if self.best_step is not None:
            self.accelerator.wait_for_everyone()
            state = read_torch_file(self.best_path)
            self.averaged_part().load_state_dict(state)

    # --- what is kept -------------------------------------------------------------------------------------

    def _agreed(self, stop: StopRequest) -> int:
        """Return the signal that any process has got, 0 for none, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stop.signal or 0
        mine = torch.tensor([stop.signal or 0], device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    @property
    def seconds(self) -> float:
        """Return the seconds spent on the run so far, before interruptions too."""
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
            "lr_schedule": _plain(self.lr_schedule.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": {} if self.best_step is None else {**self.best.measured(), "step": self.best_step},
            "faults": self.faults,
        }
        save_checkpoint(self.checkpoint, content)

    def resume(self) -> None:
        """Continue from the checkpoint.

        Raises:
            UserError: there is none, or it is of other settings or data.
        """
        content = read_checkpoint(self.checkpoint)
        # A setting that an older checkpoint lacks is at its default, which is what was done before there was a choice.
        now, then = self.config.as_dict(), TrainConfig().as_dict() | content["config"]
        changed = [name for name in {**then, **now} if now.get(name) != then.get(name) and name not in _MAY_CHANGE]
        if changed:
            told = ", ".join(f"{name} {then.get(name)!r} -> {now.get(name)!r}" for name in sorted(changed))
            raise UserError(f"{self.checkpoint} was trained with other settings ({told}): to resume, keep them")
        # The fingerprint covers the initial weights, and before there was ema_warmup heads started with other draws.
        comparable = "ema_warmup" in content["config"]
        if comparable and content["data"] != self.data:
            raise UserError(
                f"{self.checkpoint} was trained on other images, labels, word vectors or initial weights: "
                "to resume, keep them"
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
    """Run a trainer to its end with a log in ``folder``, progress, and an end in good order on a signal.

    Args:
        is_main: of several processes, the one that writes the log and shows the progress.

    Raises:
        Stopped, UserError: as :meth:`Trainer.run`.
    """
    log = RunLog(folder, trainer.step) if is_main else None
    progress = Progress("training", trainer.schedule.steps, done=trainer.step, unit="steps", shown=is_main)
    try:
        with watching_signals() as stop, progress:
            trainer.run(log, progress, stop)
    finally:
        if log is not None:
            log.close()


#: Settings that change how a run is carried out and not what comes of it.
_MAY_CHANGE = frozenset({"workers", "checkpoint_every", "bake_words", "compile", "channels_last"})


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule's state without its functions, which cannot be read back as data."""
    nested = {name: [_plain(one) for one in value] for name, value in state.items() if name == "_schedulers"}
    kept = {name: value for name, value in state.items() if not callable(value) and name != "_schedulers"}
    return kept | nested


@contextlib.contextmanager
def told_memory_errors(config: TrainConfig) -> Iterator[None]:
    """Say what to lower where memory does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if "dataloader worker" in text:
            raise UserError(
                "a process that reads images was killed, most likely for want of memory: lower --set workers "
                f"(0 reads in the main process), then --resume ({str(error).splitlines()[0]})"
            ) from None
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        labels = "" if config.closed else ", or labels_per_step"
        raise UserError(
            f"out of memory with batch_size={config.batch_size} in {config.accumulate} parts of images of "
            f"{config.image_size} px: raise accumulate (the result stays the same), or lower batch_size, "
            f"image_size{labels}; precision=bf16 takes about half"
        ) from None

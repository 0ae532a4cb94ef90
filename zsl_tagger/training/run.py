"""Perform one training run from start to end, for ``zsl-tagger train``."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather_object
from timm.layers import convert_sync_batchnorm

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.model.backbone import own_size
from zsl_tagger.model.cosine import COSINE
from zsl_tagger.model.heads import OwnHead
from zsl_tagger.model.local_global import LOCAL_GLOBAL
from zsl_tagger.model.tagger_model import TaggerModel, softmax_log_odds
from zsl_tagger.system.files import json_bytes, locked, remove_leftovers, write_errors, write_whole
from zsl_tagger.system.progress import duration, phase
from zsl_tagger.system.threads import default_workers, keep_freed_memory
from zsl_tagger.system.untrusted_text import spreadsheet_cell
from zsl_tagger.tagging.class_evidence import EvidenceWords, LabelEvidence, Scoring
from zsl_tagger.tagging.model_folder import CONFIG_FILE, TRAIN_CONFIG_FILE, ModelFolder, read_config
from zsl_tagger.training.augment import Augment, seed_everything
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import (
    LoadedPart,
    Schedule,
    Split,
    Targets,
    TrainingImages,
    image_loader,
    parts,
    split_for_training,
)
from zsl_tagger.training.features import FeatureCache, check_disk_space
from zsl_tagger.training.finish import Outcome, remove_scratch, write_model
from zsl_tagger.training.initial import IMAGENET_CLASSES, initial_model, model_to_start_from
from zsl_tagger.training.log import CSV_FILE, CURVES_FILE, TENSORBOARD_FOLDER, draw_curves
from zsl_tagger.training.losses import OwnLoss, loss_name
from zsl_tagger.training.optim import check_optimizer
from zsl_tagger.training.partial_labels import (
    PRIORS_FILE,
    check_partial_labels,
    known_share,
    priors_csv,
    read_priors,
)
from zsl_tagger.training.recipes import read_recipe
from zsl_tagger.training.trainer import BEST_FILE, CHECKPOINT_FILE, Trainer, explained_memory_errors, run_trainer
from zsl_tagger.training.validation import Scores, score_rows, validation_metrics
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import unit_length

logger = logging.getLogger(__name__)

RUN_FOLDER, CACHE_FOLDER, UNREADABLE_FILE = "run", "cache", "unreadable.csv"


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """Options of one run.

    Attributes:
        images: root folder of the image paths; None: the one recorded in the data set.
        cache: folder to keep features of a frozen backbone for other runs; None: a temporary one in the run's folder.
        head: builds a custom head instead of the one in the settings, see docs/paper.md.
        loss: custom loss instead of the one in the settings, see :data:`zsl_tagger.training.losses.OwnLoss`.
    """

    data: Path
    output: Path
    config: TrainConfig
    images: Path | None = None
    cache: Path | None = None
    resume: bool = False
    overwrite: bool = False
    head: OwnHead | None = None
    loss: OwnLoss | None = None


def resolve_config(
    *,
    recipe: str | None = None,
    backbone: str | None = None,
    init: str | None = None,
    settings: Sequence[str] = (),
    file: Path | None = None,
) -> TrainConfig:
    """Resolve the settings of a command.

    They come from a recipe or a file, then from the architecture of the initial model, then from ``settings``.

    Raises:
        UserError: unknown names, invalid values, or both a recipe and a file.
    """
    if recipe is not None and file is not None:
        raise UserError("give --recipe or --config, not both: a saved configuration has all settings")
    config = TrainConfig.read(file) if file is not None else read_recipe(recipe or "my-photos")
    given = ([f"backbone={backbone}"] if backbone else []) + ([f"init={init}"] if init else []) + [*settings]
    requested = config.changed(given)
    names = {setting.partition("=")[0].strip() for setting in given}
    if requested.project_tokens and file is None and "image_size" not in names:
        size = own_size(requested.backbone)
        requested = dataclasses.replace(requested, image_size=size) if size else requested
    source = model_to_start_from(requested.init)
    if source is None:
        return requested
    shape = read_config(source)
    if shape.architecture.get("head") == COSINE:
        raise UserError(
            f"{source} is an untrained CLIP tagger, and its head has nothing to train: start from the tower's weights, "
            "with --init timm or a weights file"
        )
    sizes = ("backbone", "dim", "ffn_dim", "heads")
    same = {name: shape.architecture[name] for name in sizes if name in shape.architecture}  # some heads lack sizes
    if requested.head == LOCAL_GLOBAL and "local_top" in shape.architecture:
        same["local_top"] = shape.architecture["local_top"]
    if requested.head == "words" and not shape.closed_set and shape.architecture.get("groups"):
        same["groups"] = shape.architecture["groups"]
    pixels = ("image_size", "interpolation", *(() if names & {"resize", "crop_pct"} else ("resize", "crop_pct")))
    taken = {**same, **{name: getattr(shape.preprocessing, name) for name in pixels}}
    taken["project_tokens"] = shape.architecture.get("projection") in ("tokens", "both")
    adopted = dataclasses.replace(requested, **{name: value for name, value in taken.items() if name not in names})
    if adopted.backbone != same["backbone"]:
        raise UserError(
            f"{source} has the backbone {same['backbone']}, but {adopted.backbone} was requested: "
            "leave --backbone out, or start from other weights"
        )
    return adopted


def train(run: TrainRun) -> Outcome | None:
    """Train, and write the model folder ``run.output``.

    Returns:
        the result; None if ``resume`` finds a finished model, and in all processes except the main one.

    Raises:
        UserError: the run cannot start or continue; saved files stay.
        Stopped: a signal stopped the run; ``resume`` continues it.
    """
    if run.resume and (run.output / CONFIG_FILE).is_file():
        logger.info("%s is a finished model: nothing to resume", run.output)
        return None
    dataset = load_dataset(run.data)
    root = _image_root(dataset, run.images)
    split = split_for_training(dataset, run.config)
    accelerator = make_accelerator(run.config)
    run = dataclasses.replace(run, config=run.config.for_processes(accelerator.num_processes))
    keep_freed_memory()
    try:
        with _messages_from_main_only(accelerator):
            outcome = _Run(run, dataset, root, split, accelerator).perform()
        return outcome if accelerator.is_main_process else None
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)  # another run in this process may use another precision


@contextmanager
def _messages_from_main_only(accelerator: Accelerator) -> Iterator[None]:
    """Log only errors, and hide progress bars, in all processes except the main one."""
    package = logging.getLogger("zsl_tagger")
    before = package.level
    if not accelerator.is_main_process:
        package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(before)


def summary(outcome: Outcome | None, output: Path) -> list[str]:
    """Return the lines to print at the end."""
    if outcome is None:
        return []
    figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in outcome.validation.measured().items())
    kept = "" if outcome.best_step is None else f" (step {outcome.best_step:,} of {outcome.steps:,})"
    return [
        f"{output}: trained in {duration(outcome.seconds)}",
        f"  validation{kept}: {figures}" if figures else "  validation: no images to measure on",
        f"  curves: {output / RUN_FOLDER / CURVES_FILE}",
        f"  try it: zsl-tagger tag PHOTOS --model {output}",
    ]


class _Run:
    """Steps and state of a run."""

    def __init__(self, run: TrainRun, dataset: PreparedDataset, root: Path, split: Split, accelerator: Accelerator):
        self.run, self.config, self.dataset, self.root = run, run.config, dataset, root
        self.split, self.accelerator = split, accelerator
        self.folder = run.output / RUN_FOLDER
        self.single = dataset.single_label
        self.workers = default_workers() if run.config.workers is None else run.config.workers
        self.faults: dict[int, str] = {}
        self.cache: FeatureCache | None = None
        self.priors: np.ndarray | None = None

    def perform(self) -> Outcome:
        self._check()  # before anything is written
        with self._locked_output(), explained_memory_errors(self.config):
            return self._train()

    def _train(self) -> Outcome:
        start = time.monotonic()
        seed_everything((self.config.seed, 0))  # for random initial weights
        with phase("loading the initial weights"):
            classes, vectors = len(self.split.labels), self.split.vectors
            model, initial = initial_model(self.config, self.dataset, classes, vectors, self.run.head)
        for line in [*self.split.notes, *initial]:
            logger.info("%s", line)
        for side in self.config.sides:
            model.backbone.check_size(side)
        if not self.config.freeze:
            model.backbone.leave_out_unused(self.config.image_size)
        if self._syncs_batch_norm:
            model.backbone.network = convert_sync_batchnorm(model.backbone.network)
        model = model.to(self.accelerator.device)
        if self.config.channels_last:
            model.backbone.to(memory_format=torch.channels_last)
        self._log_start()
        if self.config.cache_views:
            self._fill_cache(model)
        trainer = self._trainer(model)
        trainer.started = start
        if self.run.resume:
            trainer.resume()
            logger.info("resumed at step %s of %s", f"{trainer.step:,}", f"{trainer.schedule.steps:,}")
        else:
            self._start_over(trainer)
        self._run_steps(trainer)
        trainer.load_best()
        return self._finish(trainer, initial)

    # --- before the steps ---------------------------------------------------------------------------------

    @contextmanager
    def _locked_output(self) -> Iterator[None]:
        """Create and lock the output folder, in the main process on behalf of all."""
        output = self.run.output
        if not self.accelerator.is_main_process:
            self.accelerator.wait_for_everyone()
            yield
            return
        was_there = output.exists()
        with write_errors(output):
            self._check_output()
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(output):
            remove_leftovers(self.folder)
            self.accelerator.wait_for_everyone()
            try:
                yield
            finally:
                _remove_empty(self.folder, *(() if was_there else (output,)))

    def _start_over(self, trainer: Trainer) -> None:
        """Delete an earlier run in the folder, now that all checks have passed, and save the initial state."""
        if self.accelerator.is_main_process:
            (self.run.output / CONFIG_FILE).unlink(missing_ok=True)
            remove_scratch(
                self.folder, (BEST_FILE, CSV_FILE, TENSORBOARD_FOLDER, CURVES_FILE, UNREADABLE_FILE, PRIORS_FILE)
            )
            write_whole(self.run.output / TRAIN_CONFIG_FILE, json_bytes(self.config.as_dict()))
        trainer.save()

    def _check_output(self) -> None:
        """Raise a UserError if the output folder has other content."""
        output = self.run.output
        if output.exists() and not output.is_dir():
            raise UserError(f"--output {output} is a file, expected a folder")
        began = (self.folder / CHECKPOINT_FILE).is_file() or (output / CONFIG_FILE).is_file()
        if self.run.resume and not (self.folder / CHECKPOINT_FILE).is_file():
            raise UserError(f"nothing to resume: there is no {self.folder / CHECKPOINT_FILE}")
        if began and not self.run.resume and not self.run.overwrite:
            raise UserError(f"{output} already contains a run: --resume continues it, --overwrite starts over")
        names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
        if names and not began and RUN_FOLDER not in names and not self.run.overwrite:
            raise UserError(f"{output} contains other files ({', '.join(names[:3])}): give a new or empty folder")

    def _check(self) -> None:
        """Raise a UserError for problems that would otherwise appear after an hour of computing features."""
        check_optimizer(self.config.optimizer)
        Augment(self.config)
        if self.run.loss is None:
            check_partial_labels(self.dataset, self.split, self.config)
        elif self.config.unknown_labels != "ignore":
            raise UserError(
                f"unknown_labels={self.config.unknown_labels} is only for built-in losses; {loss_name(self.run.loss)} "
                "gets the unknown labels as its third argument: leave unknown_labels out"
            )
        if self.config.label_priors:
            self.priors = read_priors(Path(self.config.label_priors), self.split.labels)
        if self.config.loss == "asl_single" and not self.single:
            raise UserError(
                f"loss=asl_single needs exactly one label per image, {self.run.data} has images with several or none: "
                "set loss=asl"
            )
        size, processes, accumulate = self.config.batch_size, self.accelerator.num_processes, self.config.accumulate
        if size % (processes * accumulate):
            raise UserError(
                f"batch_size={size} does not divide among {processes} processes x accumulate={accumulate}: "
                f"set batch_size to a multiple of {processes * accumulate}"
            )
        self._check_short_batch()
        if self._syncs_batch_norm and self.accelerator.device.type != "cuda":
            raise UserError(
                f"sync_batch_norm needs CUDA GPUs, got {processes} processes on {self.accelerator.device.type}: set "
                f"sync_batch_norm=false; batch norm is then computed over {size // processes // accumulate} images"
            )

    def _check_short_batch(self) -> None:
        """Raise a UserError if a process would have no image of an epoch's last batch."""
        config = self.config
        short = Schedule(self.split.train, config).images_per_epoch % config.batch_size
        if 0 < short < self.accelerator.num_processes * config.accumulate:
            raise UserError(
                f"the last batch of an epoch has {short} images for {self.accelerator.num_processes} processes x "
                f"accumulate={config.accumulate}: set drop_last=true or change batch_size"
            )

    @property
    def _syncs_batch_norm(self) -> bool:
        return self.config.sync_batch_norm and self.accelerator.num_processes > 1 and not self.config.freeze

    def _log_start(self) -> None:
        split, config = self.split, self.config
        if len(split.train) < config.batch_size <= Schedule(split.train, config).images_per_epoch:
            logger.info(
                "%d training images are fewer than batch_size=%d: some appear twice in a step",
                len(split.train), config.batch_size,
            )  # fmt: skip
        held = f", {len(split.held_out)} held out to measure zero-shot" if split.held_out else ""
        if self.dataset.partial:
            known = known_share(self.dataset, split)
            logger.info(
                "partial labels: %.1f %% of the labels of training images are known; unknown_labels=%s",
                100 * known, config.unknown_labels,
            )  # fmt: skip
        logger.info(
            "%s",
            f"{len(split.train):,} training images, {len(split.val):,} for validation; {len(split.labels):,} labels"
            f"{held}; {self.accelerator.num_processes} x {self.accelerator.device.type}, {config.precision}",
        )
        if not len(split.val):
            logger.warning("no validation images: the last weights are kept, and thresholds are not chosen")

    def _fill_cache(self, model: TaggerModel) -> None:
        folder = self.run.cache or self.folder / CACHE_FOLDER
        rows = np.sort(np.concatenate([self.split.train, self.split.val]))
        check_disk_space(folder, len(rows), model, self.config)
        cache = FeatureCache(folder, self.root, self.dataset.paths, rows, self.config)
        start = time.monotonic()
        cache.fill(model, self.accelerator)
        logger.info(
            "features of %s photos, %d views each: %.0f s",
            f"{len(rows):,}", self.config.cache_views, time.monotonic() - start,
        )  # fmt: skip
        self.cache = cache
        self._drop_unreadable(cache.faults)

    def _drop_unreadable(self, faults: dict[int, str]) -> None:
        self.faults.update(faults)
        bad = np.array(list(faults), np.int64)
        train, val = (np.setdiff1d(rows, bad) for rows in (self.split.train, self.split.val))
        if not len(train):
            raise UserError(f"no training image can be read below {self.root}: check --images")
        self.split = dataclasses.replace(self.split, train=train, val=val)
        self._check_short_batch()

    def _trainer(self, model: TaggerModel) -> Trainer:
        config, split = self.config, self.split
        targets = Targets(self.dataset, split.columns)
        schedule = Schedule(split.train, config)

        def parts_from(step: int) -> Generator[LoadedPart, None, None]:
            ordered = parts(reader_schedule, step, self.accelerator.process_index, self.accelerator.num_processes)
            if self.cache is not None:
                return self.cache.load(ordered)
            images = TrainingImages(self.root, self.dataset.paths, split.train, config)
            return image_loader(images, ordered, self.workers)

        reader_schedule = Schedule(split.train, config)  # separate, because readers are some steps ahead
        annotation = [np.concatenate([targets.positives_of(int(row)) for row in split.train])]
        if self.dataset.partial:
            annotation.append(np.concatenate([targets.negatives_of(int(row)) for row in split.train]))
        if self.priors is not None:
            annotation.append(self.priors)
        weights = [value for name, value in model.state_dict().items() if value.is_floating_point()]
        return Trainer(
            model, split, targets, schedule, config, self.accelerator,
            from_features=self.cache is not None,
            parts_from=parts_from,
            validate=lambda averaged: validation_metrics(self._score(averaged), split, self.dataset, self.single),
            folder=self.folder,
            data=fingerprint(
                [self.dataset.paths[row] for row in split.train],
                list(split.labels), split.vectors, *annotation, *weights,
            ),
            priors=self.priors,
            own_loss=self.run.loss,
        )  # fmt: skip

    # --- during and after ---------------------------------------------------------------------------------

    def _run_steps(self, trainer: Trainer) -> None:
        try:
            run_trainer(trainer, self.folder, self.accelerator.is_main_process)
        finally:
            self.faults.update(trainer.faults)

    def _score(self, model: TaggerModel) -> Scores:
        """Return log-odds of the trained labels, then the held-out ones, on all processes' validation images."""
        split, rows = self.split, self.split.val[self.accelerator.process_index :: self.accelerator.num_processes]
        queries = None
        if not self.config.closed:
            held = unit_length(self.dataset.word_vectors[split.held_out_columns])
            queries = torch.from_numpy(np.concatenate([split.vectors, held])).to(self.accelerator.device)
        scores, faults = score_rows(
            model, queries, self.dataset, rows,
            root=str(self.root), preprocessing=self.config.preprocessing, workers=self.workers, cache=self.cache,
        )  # fmt: skip
        self.faults.update(faults)
        if self.config.softmax:  # log-odds, as in tag
            scores = Scores(scores.rows, softmax_log_odds(torch.from_numpy(scores.logits)).numpy())
        scores = scores.joined(self.evidence)
        if self.accelerator.num_processes == 1:
            return scores
        gathered = gather_object([(scores.rows, scores.logits)])
        rows = np.concatenate([rows for rows, _ in gathered])
        order = np.argsort(rows, kind="stable")
        return Scores(rows[order], np.concatenate([logits for _, logits in gathered])[order])

    @cached_property
    def evidence(self) -> LabelEvidence | None:
        """Return how class probabilities are added to the logits of labels; None without class evidence."""
        if not self.config.class_evidence:
            return None
        keys = [normalize_label(label) for label in (*self.split.labels, *self.split.held_out)]
        return LabelEvidence.of(keys, EvidenceWords(ModelFolder().class_words(IMAGENET_CLASSES)), Scoring())

    def _finish(self, trainer: Trainer, initial: list[str]) -> Outcome:
        model = trainer.averaged()
        scores = self._score(model)
        validation = validation_metrics(scores, self.split, self.dataset, self.single)
        selected_by = validation.selection_metric()
        if self.accelerator.num_processes > 1:
            self.faults = {row: reason for faults in gather_object([self.faults]) for row, reason in faults.items()}
        unreadable = {self.dataset.paths[row]: reason for row, reason in sorted(self.faults.items())}
        outcome = Outcome(
            validation=validation,
            best_step=None if selected_by is None else trainer.best_step,
            steps=trainer.step,
            seconds=trainer.seconds,
            initial=initial,
            unreadable=unreadable,
            own_head=type(model.head).__name__ if self.run.head else "",
            own_loss=loss_name(self.run.loss) if self.run.loss else "",
        )
        if self.accelerator.is_main_process:
            self._report_unreadable()
            draw_curves(self.folder, f"{self.dataset.info.get('name') or self.run.data.name}, {self.config.recipe}" + (
                f": {selected_by[0]} {100 * selected_by[1]:.1f}" if selected_by else ""))  # fmt: skip
            if self.dataset.partial and len(scores.rows):
                probabilities = sigmoid(scores.logits[:, : len(self.split.labels)])
                write_whole(self.folder / PRIORS_FILE, priors_csv(self.split.labels, probabilities))
            write_model(model, self.run.output, self.dataset, self.split, scores, self.config, outcome)
            remove_scratch(self.folder, (CHECKPOINT_FILE, BEST_FILE, CACHE_FOLDER))
        self.accelerator.wait_for_everyone()
        return outcome

    def _report_unreadable(self) -> None:
        if not self.faults:
            return
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("path", "reason"))
        writer.writerows(
            (spreadsheet_cell(self.dataset.paths[row]), spreadsheet_cell(reason))
            for row, reason in sorted(self.faults.items())
        )
        write_whole(self.folder / UNREADABLE_FILE, text.getvalue().encode("utf-8", "surrogateescape"))
        row, reason = min(self.faults.items())
        logger.warning(
            "%d images could not be read and were left out or replaced by others, e.g. %s: %s; full list: %s",
            len(self.faults), self.dataset.paths[row], reason, self.folder / UNREADABLE_FILE,
        )  # fmt: skip


def _remove_empty(*folders: Path) -> None:
    """Remove the empty folders of a run that failed before writing anything."""
    for folder in folders:
        with suppress(OSError):  # not empty
            folder.rmdir()


def _image_root(dataset: PreparedDataset, images: Path | None) -> Path:
    root = images or dataset.image_root
    if root is None:
        raise UserError(f"{dataset.folder} does not record the folder of its images: give --images DIR")
    if not root.is_dir():
        raise UserError(f"{dataset.folder}: {root} is not a folder of images: give --images DIR")
    return root


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of a run: a GPU if there is one, with the precision from the settings."""
    on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a CUDA GPU: set precision=bf16 or fp32")
    if PartialState._shared_state:
        AcceleratorState._reset_state(reset_partial_state=True)
    precision = {"fp32": "no"}.get(config.precision, config.precision)
    return Accelerator(mixed_precision=precision, cpu=not on_gpu)

"""Choose thresholds, and the bias of untrained labels, on validation data: ``zsl-tagger calibrate``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.choices import Split
from zsl_tagger.errors import UserError, some
from zsl_tagger.evaluation.data import EvaluationData, data_of_dataset
from zsl_tagger.evaluation.processes import Compute
from zsl_tagger.evaluation.results import CalibrationRecord
from zsl_tagger.evaluation.scoring import score_with_model, trained_labels
from zsl_tagger.evaluation.thresholds import calibrate_unseen, choose_thresholds, sigmoid
from zsl_tagger.system.files import check_free, folder_inside, whole_folder
from zsl_tagger.tagging.model_folder import (
    CONFIG_FILE,
    LABELS_FILE,
    ModelFolder,
    check_own_folder,
    named_folder,
    write_config,
    write_labels,
)

logger = logging.getLogger(__name__)

#: With fewer images, a warning says that the thresholds depend on chance.
FEW_IMAGES = 50
#: Folder in a model folder with replaced thresholds, in subfolders 1, 2 and so on.
BACKUPS = "before_calibration"


@dataclass(frozen=True, kw_only=True)
class CalibrateRun(Compute):
    """Options of one run, and what computes its scores.

    Attributes:
        model: a model folder, or "packaged" for the packaged one, which is never changed.
        precision: required share of correct tags per label, 0..1; None: the best F1.
        output: folder for the calibrated model; None: replace the thresholds of ``model``.
    """

    model: Path
    data: Path
    output: Path | None = None
    split: Split = "val"
    precision: float | None = None
    images: Path | None = None


def calibrate(run: CalibrateRun) -> list[str]:
    """Choose and store thresholds; return lines to print.

    A trained label with positives gets its own threshold, any other trained label of the data the common one. For
    labels never trained, a bias is added to the logits and a single threshold is used. Both are chosen on the data's
    labels that the model was not trained on (see ``holdout_labels`` of training); without any, the bias is 0 and the
    threshold is the common one.

    Raises:
        UserError: no image of the split shows a trained label, or the output already exists.
    """
    if run.precision is not None and not 0 < run.precision <= 1:
        raise UserError(f"expected --precision above 0 and at most 1, got {run.precision}")
    if run.output is None:
        check_own_folder(run.model)
    folder = ModelFolder(named_folder(run.model))
    if run.output is not None:
        check_free(run.output)
    elif folder.path.resolve() == PACKAGED.resolve():
        raise UserError(
            "the packaged model is part of the installation and is not changed: --output DIR writes a calibrated copy"
        )
    data = _known(data_of_dataset(run.data, run.split, run.images), folder)
    is_trained = np.isin(data.labels, list(trained_labels(folder.path, data.labels)))
    if not data.targets[:, is_trained].any():
        raise UserError(
            f"no image of the split {run.split} of {data.name} shows a label that {run.model} was trained on: "
            "there is nothing to choose thresholds on"
        )
    if run.split == "test":
        logger.warning("thresholds are chosen on test images: results on these images will be too optimistic")
    logits, data = _scored(folder, data, run)
    targets = data.targets
    chosen = _choose(logits, data, is_trained, run.precision)
    own = dict(zip([data.labels[k] for k in np.flatnonzero(is_trained)], chosen.own.tolist(), strict=True))
    lines = _lines(run, data, folder, targets, is_trained, chosen)
    if run.output is None:
        lines.append(f"  the previous thresholds are kept in {_back_up(folder.path)}")
    target = nullcontext(folder.path) if run.output is None else _copied(folder.path, run.output)
    with target as place:
        _store(folder, place, own, chosen, run, data)
    return lines


def _scored(folder: ModelFolder, data: EvaluationData, run: CalibrateRun) -> tuple[np.ndarray, EvaluationData]:
    """Return log-odds with each label's bias ``(N, K)`` for the readable images, and these images."""
    scored = score_with_model(folder.path, data, None, run)
    if scored.faults:
        logger.warning("%d images cannot be read and are skipped", len(scored.faults))
    if (images := len(data.images) - len(scored.faults)) < FEW_IMAGES:
        logger.warning(
            "only %d images of the split %s can be read: with fewer than %d, thresholds depend strongly on which "
            "images they are",
            images, run.split, FEW_IMAGES,
        )  # fmt: skip
    keep = np.array([row not in scored.faults for row in range(len(data.images))])
    return scored.logits[keep] + _own_biases(folder, data.labels), data.rows(keep)


class _Chosen(NamedTuple):
    """The chosen thresholds and bias.

    Attributes:
        own: thresholds of trained labels, ``(K,)``; ``common``: threshold for all of them together.
        default: threshold of labels never trained; ``bias``: added to their logits.
        held: number of untrained labels on which the last two were chosen.
    """

    own: np.ndarray
    common: float
    default: float
    bias: float
    held: int


def _choose(logits: np.ndarray, data: EvaluationData, is_trained: np.ndarray, precision: float | None) -> _Chosen:
    targets = data.targets

    def unknown(columns: np.ndarray) -> np.ndarray | None:
        return None if data.ignored is None else data.ignored[:, columns]

    own, common = choose_thresholds(
        sigmoid(logits[:, is_trained]), targets[:, is_trained], precision=precision, unknown=unknown(is_trained)
    )
    held = ~is_trained & targets.any(axis=0)
    if not held.any():
        return _Chosen(own, common, common, 0.0, 0)
    joined = np.concatenate([np.flatnonzero(is_trained), np.flatnonzero(held)])
    bias = calibrate_unseen(logits[:, is_trained], logits[:, held], targets[:, joined], unknown(joined))
    default = choose_thresholds(
        sigmoid(logits[:, held] + bias), targets[:, held], precision=precision, unknown=unknown(held)
    )[1]
    return _Chosen(own, common, default, bias, int(held.sum()))


def _lines(
    run: CalibrateRun,
    data: EvaluationData,
    folder: ModelFolder,
    targets: np.ndarray,
    is_trained: np.ndarray,
    chosen: _Chosen,
) -> list[str]:
    """Return lines that describe the result."""
    rule = "the best F1" if run.precision is None else f"a precision of {run.precision:.0%}"
    shown, own = int((targets[:, is_trained].sum(axis=0) > 0).sum()), chosen.own
    lines = [
        f"{run.output or run.model}: thresholds for {rule}, on {len(targets):,} images of {data.name}, "
        f"split {run.split}",
        f"  {len(own)} trained labels, {shown} of them with positives: thresholds {own.min():.2f} to {own.max():.2f}, "
        f"common one {chosen.common:.2f}",
    ]
    if chosen.held:
        lines.append(
            f"  labels never trained: bias {chosen.bias:+.2f} and threshold {chosen.default:.2f}, "
            f"chosen on {chosen.held} of them"
        )
    else:
        lines.append(
            f"  labels never trained: threshold {chosen.default:.2f}, as for trained ones; no label of the split was "
            "held out of training (train --set holdout_labels=0.1) to choose a bias"
        )
    if folder.config.precision_shifts:
        lines.append(
            "  tag --precision no longer works: it shifted the previous thresholds; use calibrate --precision instead"
        )
    return lines


def _own_biases(folder: ModelFolder, labels: list[str]) -> np.ndarray:
    """Return each label's bias in ``labels.json``, float32 ``(K,)``, which tagging adds to the log-odds."""
    words = folder.words()
    listed = {words.key(label.name): label.bias for label in folder.labels()}
    return np.array([listed.get(words.key(label), 0.0) for label in labels], np.float32)


@contextmanager
def _copied(source: Path, output: Path) -> Iterator[Path]:
    """Copy the files of a model folder, without subfolders, to a folder that gets its final name on success."""
    with whole_folder(output) as place:
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, place / path.name)
        yield place


def _back_up(folder: Path) -> Path:
    """Copy the files with thresholds to a new subfolder of the model folder, and return it."""
    files = [folder / CONFIG_FILE, folder / LABELS_FILE]
    backups = folder_inside(folder, BACKUPS)
    number = next(number for number in count(1) if not (backups / str(number)).exists())
    last = backups / str(number - 1)
    if last.is_dir() and all((last / file.name).read_bytes() == file.read_bytes() for file in files):
        return last
    with whole_folder(backups / str(number)) as place:
        for file in files:
            shutil.copyfile(file, place / file.name)
    return backups / str(number)


def _known(data: EvaluationData, folder: ModelFolder) -> EvaluationData:
    """Return the data restricted to labels that the model can score."""
    words = folder.words()
    known = np.array([label in words for label in data.labels], bool)
    if not known.all():
        names = data.restricted(np.flatnonzero(~known)).labels
        logger.warning("%d labels are unknown to the model and are skipped: %s", len(names), some(names))
    if not known.any():
        raise UserError(f"{folder.path} knows none of the labels of {data.name}")
    return data.restricted(np.flatnonzero(known))


def _store(
    folder: ModelFolder,
    place: Path,
    own: dict[str, float],
    chosen: _Chosen,
    run: CalibrateRun,
    data: EvaluationData,
) -> None:
    """Write the labels and configuration of ``folder``, with the chosen values, to the folder ``place``."""
    words = folder.words()
    of_key = {words.key(name): threshold for name, threshold in own.items()}
    labels = []
    for label in folder.labels():
        threshold = of_key.get(words.key(label.name), label.threshold) if label.seen else chosen.default
        labels.append(replace(label, threshold=threshold))
    record = CalibrationRecord(data=data.name, split=run.split, images=len(data.images), precision=run.precision)
    provenance = {**folder.config.provenance, "calibration": record.to_json()}
    config = replace(
        folder.config,
        default_threshold=chosen.default,
        unseen_bias=chosen.bias,
        provenance=provenance,
        precision_shifts=(),
    )
    write_labels(place, labels)
    write_config(place, config)

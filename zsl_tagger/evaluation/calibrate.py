"""What ``zsl-tagger calibrate`` does: thresholds and the bias of labels never trained, chosen on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError, some
from zsl_tagger.evaluation.data import EvaluationData, data_of_dataset
from zsl_tagger.evaluation.processes import Compute
from zsl_tagger.evaluation.scoring import score_with_model, trained_labels
from zsl_tagger.evaluation.thresholds import calibrate_unseen, choose_thresholds, sigmoid
from zsl_tagger.tagging.model_folder import ModelFolder, VocabularyLabel, write_config, write_labels


@dataclass(frozen=True)
class CalibrateRun:
    """The options of one run.

    Attributes:
        precision: the share of a label's tags that shall be right, 0..1; None: the best F1.
    """

    model: Path
    data: Path
    split: str
    precision: float | None
    images: Path | None
    compute: Compute
    note: Callable[[str], None]
    progress: Callable[[int, int], None]


def calibrate(run: CalibrateRun) -> list[str]:
    """Choose and store; returns lines for a person.

    A trained label with positives gets a threshold of its own, any other trained label of the data the common one.
    Labels never trained follow one rule: a bias is added to their logits, then one threshold holds for all of them.
    The bias, and that threshold, are chosen on the data's labels that the model was not trained on
    (``holdout_labels`` of training makes such); without any, the bias is 0 and the threshold the common one.

    Raises:
        UserError: no image of the split shows a label the model was trained on.
    """
    if run.precision is not None and not 0 < run.precision <= 1:
        raise UserError(f"expected --precision above 0 and at most 1, got {run.precision}")
    folder = ModelFolder(run.model)
    if folder.path.resolve() == PACKAGED.resolve():
        raise UserError("the packaged model belongs to the installation: copy its folder and calibrate the copy")
    data = _known(data_of_dataset(run.data, run.split, run.images), folder, run)
    is_trained = np.isin(data.labels, list(trained_labels(run.model, data.labels)))
    if not data.targets[:, is_trained].any():
        raise UserError(
            f"no image of the split {run.split} of {data.name} shows a label that {run.model} was trained on: "
            "there is nothing to choose thresholds by"
        )
    if run.split == "test":
        run.note("thresholds are chosen on test images: figures measured on them afterwards will be too good")
    scored = score_with_model(run.model, data, None, run.compute, run.progress)
    if scored.faults:
        run.note(f"{len(scored.faults)} images cannot be read and are left out")
    keep = np.array([row not in scored.faults for row in range(len(data.images))])
    logits, targets = scored.logits[keep], data.targets[keep]
    own, common = choose_thresholds(sigmoid(logits[:, is_trained]), targets[:, is_trained], precision=run.precision)
    held = ~is_trained & targets.any(axis=0)
    bias, default = 0.0, common
    if held.any():
        joined = np.concatenate([targets[:, is_trained], targets[:, held]], axis=1)
        bias = calibrate_unseen(logits[:, is_trained], logits[:, held], joined)
        default = choose_thresholds(sigmoid(logits[:, held] + bias), targets[:, held], precision=run.precision)[1]
    names = [label for label, trained in zip(data.labels, is_trained, strict=True) if trained]
    _store(folder, dict(zip(names, own.tolist(), strict=True)), default, bias, run, data)
    rule = "the best F1" if run.precision is None else f"a precision of {run.precision:.0%}"
    lines = [
        f"{run.model}: thresholds for {rule}, on {int(keep.sum()):,} images of {data.name}, split {run.split}",
        f"  {len(names)} trained labels, {int((targets[:, is_trained].sum(axis=0) > 0).sum())} of them with positives: "
        f"thresholds {own.min():.2f} to {own.max():.2f}, in common {common:.2f}",
    ]
    if held.any():
        lines.append(
            f"  labels never trained: bias {bias:+.2f} and threshold {default:.2f}, by {int(held.sum())} of them"
        )
    else:
        lines.append(
            f"  labels never trained: threshold {default:.2f}, that of trained ones; no label of the split was kept "
            "out of training (train --set holdout_labels=0.1) to choose a bias by"
        )
    return lines


def _known(data: EvaluationData, folder: ModelFolder, run: CalibrateRun) -> EvaluationData:
    """The labels that the model can be asked."""
    words = folder.words()
    known = np.array([label in words for label in data.labels], bool)
    if not known.all():
        names = data.restricted(np.flatnonzero(~known)).labels
        run.note(f"{len(names)} labels are not known to the model and are left out: {some(names)}")
    if not known.any():
        raise UserError(f"{folder.path} knows none of the labels of {data.name}")
    return data.restricted(np.flatnonzero(known))


def _store(
    folder: ModelFolder, own: dict[str, float], default: float, bias: float, run: CalibrateRun, data: EvaluationData
) -> None:
    words = folder.words()
    of_key = {words.key(name): threshold for name, threshold in own.items()}
    labels = []
    for label in folder.labels():
        threshold = of_key.get(words.key(label.name), label.threshold) if label.seen else default
        labels.append(VocabularyLabel(label.name, threshold, label.seen))
    chosen = {
        "data": data.name, "split": run.split, "images": len(data.images), "precision": run.precision,
    }  # fmt: skip
    provenance = {**folder.config.provenance, "calibration": chosen}
    config = replace(folder.config, default_threshold=default, unseen_bias=bias, provenance=provenance)
    write_labels(folder.path, labels)
    write_config(folder.path, config)

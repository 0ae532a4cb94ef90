"""Compute the loss of images whose labels are partial, by what ``unknown_labels`` makes of the unknown ones.

With y the target of a known pair of image and label, u = 1 for an unknown pair (where images are mixed, y and u are
shares), P and N the loss of a positive and of a negative by ``loss``, and N_u that of a negative with
``gamma_unknown``::

    L = y P + (1 - y - u) N + u m N_u

=============  ==================================================================================================
``ignore``     m = 0: unknown pairs add no loss
``negative``   m = 1: they are taken as absent ("assume negative"). With ``loss=bce`` and ``smoothing``, which moves
               all targets, this is AN-LS of Cole et al. 2021 (arXiv 2106.09708)
``weak``       m = 1 / (K - 1) for K labels: WAN of the same paper; on an image with one positive the
               assumed negatives weigh as much as that
``reject``     LL-R of Kim et al. 2022 (arXiv 2206.03740): m = 0 for the unknown pairs of a batch with the
               largest loss, which are likely to be positives, and 1 for the others. Their share grows by
               ``reject_rate`` with each epoch, from 0 in the first
``selective``  CSL of Ben-Baruch et al. 2022 (arXiv 2110.10955): m = 0 for labels whose prior is above
               ``prior_threshold``, and for the ``likelihood_top`` x images most likely unknown pairs of the batch, by
               the model's own logits; 1 for the others. Priors are in the file ``label_priors``
=============  ==================================================================================================

A batch is what one process computes at once: with several processes, or ``accumulate``, a part of a step's images.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.format import DATA_FILE, NEGATIVES_COLUMN
from zsl_tagger.errors import UserError, some
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import Split, Targets
from zsl_tagger.training.losses import loss_terms

#: In the folder ``run`` of a model that was trained on partial labels.
PRIORS_FILE = "label_priors.csv"


class PartialLoss:
    """Compute the loss of logits where some targets are unknown.

    Args:
        config: its loss must be ``asl`` or ``bce``.
        priors: of the trained labels, float ``(K,)`` in 0..1, for ``selective``; None: only likelihood decides.
    """

    def __init__(self, config: TrainConfig, priors: np.ndarray | None = None):
        self.config, self.priors = config, priors
        gamma = config.gamma_neg if config.gamma_unknown is None else config.gamma_unknown
        options = (config.gamma_pos, config.clip, config.smoothing, config.focal_gradient)
        self._known = loss_terms(config.loss, config.gamma_neg, *options)
        self._unknown = loss_terms(config.loss, gamma, *options)

    def __call__(self, logits: Tensor, targets: Tensor, unknown: Tensor, labels: np.ndarray, epoch: int) -> Tensor:
        """Return the loss of each pair, ``(B, K + N)``.

        Args:
            logits: ``(B, K + N)``, of K labels and N random queries, whose targets are known.
            targets: the same shape, in 0..1; ``unknown``: ``(B, K)`` in 0..1, with ``targets`` at most 1 together.
            labels: places of the K labels among the trained ones, int64 ``(K,)``.
            epoch: from 0.
        """
        count = unknown.shape[1]
        unknown = torch.nn.functional.pad(unknown, (0, logits.shape[1] - count))  # (B, K + N)
        positive, negative = self._known(logits)
        losses = targets * positive + (1 - targets - unknown) * negative
        if self.config.unknown_labels == "ignore":
            return losses
        assumed = self._unknown(logits)[1]
        return losses + unknown * self._factor(logits, assumed, unknown, labels, epoch) * assumed

    @torch.no_grad()
    def _factor(
        self, logits: Tensor, assumed: Tensor, unknown: Tensor, labels: np.ndarray, epoch: int
    ) -> Tensor | float:
        """Return the factor m of each pair ``(B, K + N)``, or one for all."""
        mode = self.config.unknown_labels
        if mode == "weak":
            return 1.0 / max(len(labels) - 1, 1)
        if mode == "reject":
            pairs = int((unknown > 0).sum())
            share = min(1.0, self.config.reject_rate * epoch)
            return 1 - _largest(assumed, unknown > 0, math.ceil(share * pairs - 1e-9))
        if mode == "selective":
            factor = 1 - _largest(logits, unknown > 0, self.config.likelihood_top * len(logits))
            if self.priors is not None:
                often = torch.from_numpy(self.priors[labels] > self.config.prior_threshold).to(logits.device)
                factor[:, : len(labels)] *= (~often).to(factor)
            return factor
        return 1.0


def _largest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Return 1 for the ``count`` largest values among some of a matrix, 0 elsewhere; the same shape."""
    chosen = torch.zeros_like(values).flatten()
    count = min(count, int(among.sum()))
    if count:
        chosen[values.masked_fill(~among, -torch.inf).flatten().topk(count).indices] = 1.0
    return chosen.view_as(values)


# --- the data ---------------------------------------------------------------------------------------------------


def check_partial_labels(dataset: PreparedDataset, split: Split, config: TrainConfig) -> None:
    """Raise a UserError where the settings and what is known of the labels do not go together."""
    if not dataset.partial:
        if config.unknown_labels != "ignore":
            raise UserError(
                f"unknown_labels={config.unknown_labels} needs partial labels, and those of {dataset.folder} are "
                f"complete: its {DATA_FILE} has no column {NEGATIVES_COLUMN}"
            )
        return
    if config.softmax:
        raise UserError(
            f"loss={config.loss} compares all labels of an image, and those of {dataset.folder} are partial: "
            "set loss=asl or bce"
        )
    targets = Targets(dataset, split.columns)
    if config.unknown_labels == "ignore" and not any(len(targets.absent(int(row))) for row in split.train):
        raise UserError(
            f"{dataset.folder}: no label is known to be absent from a training image, so that unknown_labels=ignore "
            "would learn that every label is true: set unknown_labels=negative, weak, reject or selective"
        )


def known_share(dataset: PreparedDataset, split: Split) -> float:
    """Return which share of the pairs of training image and trained label is known, 0..1."""
    targets = Targets(dataset, split.columns)
    known = sum(len(targets.of(int(row))) + len(targets.absent(int(row))) for row in split.train)
    return known / (len(split.train) * len(split.labels))


# --- priors -----------------------------------------------------------------------------------------------------


def priors_csv(labels: Sequence[str], probabilities: np.ndarray) -> bytes:
    """Return the content of ``label_priors.csv``: of each label the mean probability over images ``(N, K)``.

    The paper estimates how often a label is true in this way, by a model that was trained with ``ignore``: the labels
    that are known say how often somebody looked for them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "prior"))
    writer.writerows(
        (label, f"{prior:.6f}") for label, prior in zip(labels, probabilities.mean(axis=0).tolist(), strict=True)
    )
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_priors(path: Path, labels: Sequence[str]) -> np.ndarray:
    """Return the priors of labels, float64 ``(K,)``, from a CSV file with the columns label and prior.

    Raises:
        UserError: it cannot be read, a prior is not in 0..1, or a label has none (file and line).
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, None)
            if header != ["label", "prior"]:
                raise UserError(f"{path}: expected the columns label,prior; got {','.join(header or []) or 'nothing'}")
            found = {row[0]: _prior(row, f"{path}:{rows.line_num}") for row in rows if row}
    except OSError as error:
        raise UserError(f"cannot read label_priors={path}: {error.strerror}") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None
    missing = [label for label in labels if label not in found]
    if missing:
        raise UserError(
            f"{path} has no prior of {len(missing)} trained labels: {some(missing)}; a training on the same "
            f"labels writes such a file, run/{PRIORS_FILE}"
        )
    return np.array([found[label] for label in labels])


def _prior(row: list[str], where: str) -> float:
    try:
        value = float(row[1])
    except (ValueError, IndexError):
        value = math.nan
    if len(row) != 2 or not 0 <= value <= 1:
        raise UserError(f"{where}: expected a label and its prior in 0..1, got {','.join(row)}")
    return value

"""Compute the loss of images with partial labels, depending on ``unknown_labels``.

Let y be the target of a known pair of image and label and u = 1 for an unknown pair (shares if images are mixed), P
and N the losses of a positive and of a negative by ``loss``, and N_u that of a negative with ``gamma_unknown``::

    L = y P + (1 - y - u) N + u m N_u

=============  ==================================================================================================
``ignore``     m = 0: unknown pairs add no loss
``negative``   m = 1: they are treated as absent ("assume negative"). With ``loss=bce`` and ``smoothing``, which
               smooths all targets, this is AN-LS of Cole et al. 2021 (arXiv 2106.09708)
``weak``       m = 1 / (K - 1) for K labels: WAN of the same paper; together, the assumed negatives of an image
               with one positive have the weight of that positive
``reject``     LL-R of Kim et al. 2022 (arXiv 2206.03740): m = 0 for the unknown pairs of a batch with the
               largest loss, which are probably positives, and 1 for the others. The share of these pairs is 0
               in the first epoch and grows by ``reject_rate`` per epoch
``selective``  CSL of Ben-Baruch et al. 2022 (arXiv 2110.10955): m = 0 for labels whose prior is above
               ``prior_threshold``, and for the ``likelihood_top`` x images unknown pairs of the batch with the
               largest logits; 1 for the others. Priors are in the file ``label_priors``
=============  ==================================================================================================

A batch is what one process computes at once: only a part of a step's images with several processes or ``accumulate``.
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

#: File in the ``run`` folder of a model trained on partial labels.
PRIORS_FILE = "label_priors.csv"


class PartialLoss:
    """Compute the loss when some targets are unknown.

    Args:
        config: settings with the loss ``asl`` or ``bce``.
        priors: priors of the trained labels, float ``(K,)`` in 0..1, for ``selective``; None: use the logits only.
    """

    def __init__(self, config: TrainConfig, priors: np.ndarray | None = None):
        self.config, self.priors = config, priors
        gamma = config.gamma_neg if config.gamma_unknown is None else config.gamma_unknown
        options = (config.gamma_pos, config.clip, config.smoothing, config.focal_gradient)
        self._known = loss_terms(config.loss, config.gamma_neg, *options)
        self._unknown = loss_terms(config.loss, gamma, *options)

    def __call__(self, logits: Tensor, targets: Tensor, unknown: Tensor, labels: np.ndarray, epoch: int) -> Tensor:
        """Return the elementwise loss, ``(B, K + N)``.

        Args:
            logits: ``(B, K + N)``, for K labels and N random queries, whose targets are known.
            targets: the same shape, in 0..1.
            unknown: ``(B, K)`` in 0..1; with ``targets`` it sums to at most 1.
            labels: indices of the K labels among the trained ones, int64 ``(K,)``.
            epoch: number of the epoch, from 0.
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
        """Return the factor m for each pair ``(B, K + N)``, or a single one for all."""
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
                frequent = torch.from_numpy(self.priors[labels] > self.config.prior_threshold).to(logits.device)
                factor[:, : len(labels)] *= (~frequent).to(factor)
            return factor
        return 1.0


def _largest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Return a matrix with 1 for the ``count`` largest of the values selected by ``among``, and 0 elsewhere."""
    chosen = torch.zeros_like(values).flatten()
    count = min(count, int(among.sum()))
    if count:
        chosen[values.masked_fill(~among, -torch.inf).flatten().topk(count).indices] = 1.0
    return chosen.view_as(values)


# --- the data ---------------------------------------------------------------------------------------------------


def check_partial_labels(dataset: PreparedDataset, split: Split, config: TrainConfig) -> None:
    """Raise a UserError if the settings do not fit the annotation of the labels."""
    if not dataset.partial:
        if config.unknown_labels != "ignore":
            raise UserError(
                f"unknown_labels={config.unknown_labels} needs partial labels, but the labels of {dataset.folder} are "
                f"complete: its {DATA_FILE} has no column {NEGATIVES_COLUMN}"
            )
        return
    if config.softmax:
        raise UserError(
            f"loss={config.loss} needs complete labels, but the labels of {dataset.folder} are partial: "
            "set loss=asl or bce"
        )
    targets = Targets(dataset, split.columns)
    if config.unknown_labels == "ignore" and not any(len(targets.negatives_of(int(row))) for row in split.train):
        raise UserError(
            f"{dataset.folder}: no label is known to be absent from any training image, so with unknown_labels=ignore "
            "the model would learn that all labels are present: set unknown_labels=negative, weak, reject or selective"
        )


def known_share(dataset: PreparedDataset, split: Split) -> float:
    """Return the share of (training image, trained label) pairs that are known, 0..1."""
    targets = Targets(dataset, split.columns)
    known = sum(len(targets.positives_of(int(row))) + len(targets.negatives_of(int(row))) for row in split.train)
    return known / (len(split.train) * len(split.labels))


# --- priors -----------------------------------------------------------------------------------------------------


def priors_csv(labels: Sequence[str], probabilities: np.ndarray) -> bytes:
    """Return the content of ``label_priors.csv``: each label's mean over the probabilities ``(N, K)``.

    The paper estimates the frequency of labels in this way, with a model trained with ``ignore``, because counts of
    known labels also depend on how often annotators checked for them.
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
        UserError: the file cannot be read, a prior is not in 0..1, or a label has no prior.
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
            f"{path} has no prior for {len(missing)} trained labels: {some(missing)}; training on the same labels "
            f"writes such a file, run/{PRIORS_FILE}"
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

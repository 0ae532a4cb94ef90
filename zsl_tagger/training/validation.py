"""Measure the model on validation images, which decides the step whose weights are kept."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.evaluation.metrics import harmonic_mean, mean_average_precision, precision_recall_f1_at_k
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.progress import Progress
from zsl_tagger.tagging.class_evidence import LabelEvidence
from zsl_tagger.training.data import Split, leave_signals_to_parent, read_all
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.figures import ValidationFigures

AT_ONCE = 32  # images through the model
TOP = 3  # of F1@3 and recall@3


class PlainImages(Dataset):
    """Read images as tagging does: uint8 ``(S, S, 3)``, or None and the reason where one cannot be read."""

    def __init__(self, dataset: PreparedDataset, rows: np.ndarray, root: str, preprocessing: Preprocessing):
        self.paths, self.root, self.preprocessing = [dataset.paths[row] for row in rows], root, preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return torch.from_numpy(load_array(f"{self.root}/{self.paths[index]}", self.preprocessing).copy())
        except ImageError as error:
            return str(error)


@dataclass(frozen=True)
class Scores:
    """What the model says of images.

    Attributes:
        rows: int64 ``(N,)`` of the data set.
        logits: float32 ``(N, K)``.
        classes: probabilities of the backbone's classes, float32 ``(N, C)``; None of a model without class evidence.
    """

    rows: np.ndarray
    logits: np.ndarray
    classes: np.ndarray | None = None

    def joined(self, evidence: LabelEvidence | None) -> Scores:
        """Return the scores with log-odds in place of logits, as tagging computes them."""
        if evidence is None or self.classes is None:
            return self
        return Scores(self.rows, evidence.join(self.logits, self.classes), self.classes)


@torch.inference_mode()
def score_rows(
    model: TaggerModel,
    queries: Tensor | None,
    dataset: PreparedDataset,
    rows: np.ndarray,
    *,
    root: str,
    preprocessing: Preprocessing,
    workers: int,
    cache: FeatureCache | None = None,
) -> tuple[Scores, dict[int, str]]:
    """Return the logits of images, with the model in evaluation mode, and which images could not be read.

    Args:
        queries: unit word vectors ``(K, word_dim)``; None for a closed set.
    """
    if cache is not None:
        return score_cached(model, queries, cache, rows), {}
    model.eval()
    kept, said, faults = [], [], {}
    batches = closing(_batches(dataset, rows, root, preprocessing, workers))
    with batches as waiting, Progress("validating", len(rows)) as progress:
        for these, pixels, bad in waiting:
            faults.update(bad)
            if len(these):
                kept.append(these)
                said.append(_said(model, model.backbone_tokens(pixels.to(model.mean.device)), queries))
            progress.advance(len(these) + len(bad))
    return _scores(model, queries, kept, said), faults


@torch.inference_mode()
def score_cached(model: TaggerModel, queries: Tensor | None, cache: FeatureCache, rows: np.ndarray) -> Scores:
    """Return the logits of images whose features are cached, of those that could be read.

    Args:
        queries: as of :func:`score_rows`.
    """
    model.eval()
    rows = np.array([row for row in rows if int(row) not in cache.faults], rows.dtype)
    kept = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
    said = []
    with Progress("validating", len(rows)) as progress:
        for these in kept:
            said.append(_said(model, cache.stack(these.tolist()).to(model.mean.device).float(), queries))
            progress.advance(len(these))
    return _scores(model, queries, kept, said)


Said = tuple[np.ndarray, np.ndarray | None]  # logits (b, K), class probabilities (b, C)


def _said(model: TaggerModel, tokens: Tensor, queries: Tensor | None) -> Said:
    """Return the model's logits of images, from their backbone tokens ``(b, L, C)``."""
    queries = None if queries is None else queries.to(tokens.device)
    logits: np.ndarray = model.score(model.embed(tokens), queries).float().cpu().numpy()
    return logits, model.classes(tokens).float().cpu().numpy() if model.class_evidence else None


def _scores(model: TaggerModel, queries: Tensor | None, rows: list[np.ndarray], said: list[Said]) -> Scores:
    width = model.head.num_classes if queries is None else len(queries)
    logits = np.concatenate([np.zeros((0, width or 0), np.float32), *(logits for logits, _ in said)])
    classes = [classes for _, classes in said if classes is not None]
    return Scores(np.concatenate([np.zeros(0, np.int64), *rows]), logits, np.concatenate(classes) if classes else None)


def _batches(
    dataset: PreparedDataset, rows: np.ndarray, root: str, preprocessing: Preprocessing, workers: int
) -> Generator[tuple[np.ndarray, Tensor, dict[int, str]], None, None]:
    images = PlainImages(dataset, rows, root, preprocessing)
    loader: DataLoader[list[Tensor | str]] = DataLoader(
        images,
        batch_size=AT_ONCE,
        num_workers=workers if len(rows) > AT_ONCE else 0,
        collate_fn=list,
        worker_init_fn=leave_signals_to_parent,
    )
    start = 0
    for batch in read_all(loader):
        these, start = rows[start : start + len(batch)], start + len(batch)
        good = np.array([not isinstance(item, str) for item in batch], bool)
        faults = {int(row): item for row, item in zip(these, batch, strict=True) if isinstance(item, str)}
        pixels = [item for item in batch if not isinstance(item, str)]
        yield these[good], torch.stack(pixels) if pixels else torch.zeros(0), faults


def validation_metrics(scores: Scores, split: Split, dataset: PreparedDataset, single: bool) -> ValidationFigures:
    """Return what the scores are worth; nothing is measured without images."""
    if not len(scores.rows):
        return ValidationFigures()
    targets, unknown = dataset.targets(scores.rows), dataset.unknown(scores.rows)
    trained, held = targets[:, split.columns], targets[:, split.held_out_columns]
    open_trained, open_held = (
        None if unknown is None else unknown[:, columns] for columns in (split.columns, split.held_out_columns)
    )  # what nobody looked for counts neither for nor against
    count = len(split.labels)
    own = ~held.any(axis=1) if single else np.ones(len(targets), bool)  # of a held-out label only: not of the trained
    val_map = val_top1 = val_f1_at_3 = heldout_map = None
    if trained[own].any():
        val_map = mean_average_precision(scores.logits[own, :count], trained[own], open_trained)
        if single:
            best = scores.logits[own, :count].argmax(axis=1)
            val_top1 = float(trained[own][np.arange(own.sum()), best].mean())
        else:
            top = min(TOP, count)
            val_f1_at_3 = precision_recall_f1_at_k(scores.logits[own, :count], trained[own], top, open_trained)[2]
    if held.any():
        heldout_map = mean_average_precision(scores.logits[:, count:], held, open_held)
    return ValidationFigures(
        val_map=val_map,
        val_f1_at_3=val_f1_at_3,
        val_top1=val_top1,
        heldout_map=heldout_map,
        harmonic_mean=None if val_map is None or heldout_map is None else harmonic_mean(val_map, heldout_map),
    )

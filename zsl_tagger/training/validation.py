"""Measure the model on validation images, to select the step whose weights are kept."""

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

BATCH_SIZE = 32  # images through the model at a time
TOP = 3  # K of F1@K


class PlainImages(Dataset):
    """Read images as tagging does: uint8 ``(S, S, 3)``, or the reason why an image cannot be read."""

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
    """Scores of images.

    Attributes:
        rows: int64 ``(N,)``, indices of the data set's images.
        logits: float32 ``(N, K)``.
        classes: probabilities of the backbone's classes, float32 ``(N, C)``; None for models without class evidence.
    """

    rows: np.ndarray
    logits: np.ndarray
    classes: np.ndarray | None = None

    def joined(self, evidence: LabelEvidence | None) -> Scores:
        """Return the scores with log-odds instead of logits, as computed in tagging."""
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
    """Return scores of images, with the model in evaluation mode, and the unreadable images with reasons.

    Args:
        queries: unit word vectors ``(K, word_dim)``; None for a closed set.
    """
    if cache is not None:
        return score_cached(model, queries, cache, rows), {}
    model.eval()
    kept, predictions, faults = [], [], {}
    batches = closing(_batches(dataset, rows, root, preprocessing, workers))
    with batches as waiting, Progress("validating", len(rows)) as progress:
        for these, pixels, bad in waiting:
            faults.update(bad)
            if len(these):
                kept.append(these)
                predictions.append(_predict(model, model.backbone_tokens(pixels.to(model.mean.device)), queries))
            progress.advance(len(these) + len(bad))
    return _scores(model, queries, kept, predictions), faults


@torch.inference_mode()
def score_cached(model: TaggerModel, queries: Tensor | None, cache: FeatureCache, rows: np.ndarray) -> Scores:
    """Return scores of the readable images from cached features.

    Args:
        queries: see :func:`score_rows`.
    """
    model.eval()
    rows = np.array([row for row in rows if int(row) not in cache.faults], rows.dtype)
    kept = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    predictions = []
    with Progress("validating", len(rows)) as progress:
        for these in kept:
            tokens = cache.stack(these.tolist()).to(model.mean.device).float()  # (b, L, C)
            predictions.append(_predict(model, tokens, queries))
            progress.advance(len(these))
    return _scores(model, queries, kept, predictions)


Prediction = tuple[np.ndarray, np.ndarray | None]  # logits (b, K), class probabilities (b, C)


def _predict(model: TaggerModel, tokens: Tensor, queries: Tensor | None) -> Prediction:
    """Return the model's predictions for backbone tokens ``(b, L, C)``."""
    queries = None if queries is None else queries.to(tokens.device)
    logits: np.ndarray = model.score(model.embed(tokens), queries).float().cpu().numpy()
    return logits, model.classes(tokens).float().cpu().numpy() if model.class_evidence else None


def _scores(
    model: TaggerModel, queries: Tensor | None, rows: list[np.ndarray], predictions: list[Prediction]
) -> Scores:
    width = model.head.num_classes if queries is None else len(queries)
    logits = np.concatenate([np.zeros((0, width or 0), np.float32), *(logits for logits, _ in predictions)])
    classes = [classes for _, classes in predictions if classes is not None]
    return Scores(np.concatenate([np.zeros(0, np.int64), *rows]), logits, np.concatenate(classes) if classes else None)


def _batches(
    dataset: PreparedDataset, rows: np.ndarray, root: str, preprocessing: Preprocessing, workers: int
) -> Generator[tuple[np.ndarray, Tensor, dict[int, str]], None, None]:
    images = PlainImages(dataset, rows, root, preprocessing)
    loader: DataLoader[list[Tensor | str]] = DataLoader(
        images,
        batch_size=BATCH_SIZE,
        num_workers=workers if len(rows) > BATCH_SIZE else 0,
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
    """Compute the validation figures; all are None without images."""
    if not len(scores.rows):
        return ValidationFigures()
    targets, unknown = dataset.targets(scores.rows), dataset.unknown(scores.rows)
    trained, held = targets[:, split.columns], targets[:, split.held_out_columns]
    open_trained, open_held = (
        None if unknown is None else unknown[:, columns] for columns in (split.columns, split.held_out_columns)
    )  # unknown labels are excluded
    count = len(split.labels)
    # In single-label data no trained label is correct for an image of a held-out label.
    used = ~held.any(axis=1) if single else np.ones(len(targets), bool)
    val_map = val_top1 = val_f1_at_3 = heldout_map = None
    if trained[used].any():
        val_map = mean_average_precision(scores.logits[used, :count], trained[used], open_trained)
        if single:
            best = scores.logits[used, :count].argmax(axis=1)
            val_top1 = float(trained[used][np.arange(used.sum()), best].mean())
        else:
            top = min(TOP, count)
            val_f1_at_3 = precision_recall_f1_at_k(scores.logits[used, :count], trained[used], top, open_trained)[2]
    if held.any():
        heldout_map = mean_average_precision(scores.logits[:, count:], held, open_held)
    return ValidationFigures(
        val_map=val_map,
        val_f1_at_3=val_f1_at_3,
        val_top1=val_top1,
        heldout_map=heldout_map,
        harmonic_mean=None if val_map is None or heldout_map is None else harmonic_mean(val_map, heldout_map),
    )

"""Training batches: photos and mosaics as sets of tokens, and the labels asked of them at a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsl_tagger.packaged.features import FULL_VIEWS, HALF_VIEWS, THIRD_VIEWS, View, read_features
from zsl_tagger.packaged.targets import Targets

Reader = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """One way to fill an image's tokens: ``parts`` photos, each in one of ``views``."""

    parts: int
    views: tuple[View, ...]


LAYOUTS = (Layout(1, FULL_VIEWS), Layout(4, HALF_VIEWS), Layout(9, THIRD_VIEWS))


@dataclass(frozen=True)
class Phase:
    """How images are drawn for a part of the training.

    Attributes:
        until: fraction of the training at which the phase ends.
        photos: probability of each photo, ``(N,)``.
        layouts: probability of each of ``LAYOUTS``.
    """

    until: float
    photos: np.ndarray
    layouts: tuple[float, ...]


def rarity(counted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Probability ``(N,)`` of photos: in proportion to 1 / sqrt(count) of their rarest word.

    Args:
        counted: bool ``(N, V)``, which of the counted words each photo has.
        annotated: bool ``(N,)``; other photos get 0.
    """
    counts = np.maximum(counted[annotated].sum(axis=0), 1)
    weights = (counted / np.sqrt(counts)).max(axis=1) * annotated
    return weights / weights.sum()


def mixture(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    """Probability ``(N,)``: each share spread evenly over a bool mask ``(N,)`` of photos."""
    probability = sum(share * mask / max(mask.sum(), 1) for share, mask in parts)
    return probability / np.sum(probability)


@dataclass(frozen=True)
class Batch:
    """``features`` (B, tokens, 352); ``values``, ``weights`` (B, K) of the labels whose columns are ``asked`` (K,)."""

    features: Tensor
    asked: np.ndarray
    values: Tensor
    weights: Tensor


class Sampler:
    """Draws batches.

    Args:
        cache: folder of the cached features.
        targets: of all photos.
        phases: in order; the last one ends at 1.
        keep_tokens: tokens kept of each image, at random: faster, and no place can be relied on.
        labels: K asked at a step: those true of some image of the batch, at most two thirds, and random others.
        random_weight: weight of the random labels, which stand for many more that were not drawn.
    """

    def __init__(
        self,
        cache: Path,
        targets: Targets,
        phases: tuple[Phase, ...],
        *,
        keep_tokens: int,
        labels: int,
        random_weight: float,
    ):
        self.targets, self.phases = targets, phases
        self.keep_tokens, self.labels, self.random_weight = keep_tokens, labels, random_weight
        count = len(targets.values)
        self.readers = {view: read_features(cache, view, count) for layout in LAYOUTS for view in layout.views}

    def batch(self, size: int, progress: float, rng: np.random.Generator) -> Batch:
        """A batch for a training that is done to the fraction ``progress``."""
        phase = next(phase for phase in self.phases if progress < phase.until)
        images = [self._image(phase, rng) for _ in range(size)]
        features = torch.from_numpy(np.stack([image[0] for image in images])).float()
        values = np.stack([image[1] for image in images])  # (B, V)
        weights = np.stack([image[2] for image in images])  # (B, V)
        asked, label_weights = self._asked(values * weights, rng)
        return Batch(
            features,
            asked,
            torch.from_numpy(values[:, asked]),
            torch.from_numpy(weights[:, asked] * label_weights),
        )

    def _image(self, phase: Phase, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        layout = LAYOUTS[rng.choice(len(LAYOUTS), p=phase.layouts)]
        photos = rng.choice(len(phase.photos), size=layout.parts, p=phase.photos).tolist()
        views = [layout.views[rng.integers(len(layout.views))] for _ in photos]
        tokens = np.concatenate([self.readers[view](photo) for view, photo in zip(views, photos, strict=True)])
        tokens = tokens[rng.permutation(len(tokens))[: self.keep_tokens]]
        values = self.targets.values[photos].max(axis=0)
        # What one part does not know, the mosaic does not know either, unless another part shows it.
        weights = np.where(values > 0.5, np.float32(1.0), self.targets.weights[photos].min(axis=0))
        return tokens, values, weights

    def _asked(self, certain: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        true = np.flatnonzero(certain.max(axis=0) > 0.3)
        if len(true) > 2 * self.labels // 3:
            true = rng.choice(true, 2 * self.labels // 3, replace=False)
        others = np.setdiff1d(np.arange(certain.shape[1]), true)
        random = rng.choice(others, min(self.labels - len(true), len(others)), replace=False)
        weights = np.concatenate([np.ones(len(true)), np.full(len(random), self.random_weight)])
        return np.concatenate([true, random]), weights.astype(np.float32)

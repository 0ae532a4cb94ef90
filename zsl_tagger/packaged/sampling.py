"""Choose the photos of each step in the packaged model's training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import draw_layouts, mosaic


@dataclass(frozen=True)
class Phase:
    """Sampling of images during one phase of the training.

    Attributes:
        until: fraction of the training at which the phase ends.
        photos: probability of each photo, ``(N,)``.
        mosaics: factor in 0..1 for the settings' shares of mosaics.
    """

    until: float
    photos: np.ndarray
    mosaics: float


def rarity(counted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Return the probability of each photo, ``(N,)``, proportional to 1 / sqrt(count) of its rarest word.

    Args:
        counted: bool ``(N, V)``, the words of each photo among those to count.
        annotated: bool ``(N,)``; other photos have probability 0.
    """
    counts = np.maximum(counted[annotated].sum(axis=0), 1)
    weights = (counted / np.sqrt(counts)).max(axis=1) * annotated
    return weights / weights.sum()


def mixture(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    """Return the probability of each photo, ``(N,)``: each share is divided equally among the photos of its mask."""
    probability = sum(share * mask / max(mask.sum(), 1) for share, mask in parts)
    return probability / np.sum(probability)


class PhasedSchedule:
    """Draw the images of each step by phase; replaces :class:`zsl_tagger.training.data.Schedule`.

    Args:
        phases: the phases in order; the last one ends at 1.
    """

    def __init__(self, phases: tuple[Phase, ...], config: TrainConfig):
        self.phases, self.config = phases, config
        self.steps_per_epoch = config.min_epoch_steps
        self.steps = config.epochs * config.min_epoch_steps

    def batch(self, step: int) -> np.ndarray:
        """Return the mosaics of a step, int64 ``(batch_size, MOST_PHOTOS)``."""
        phase = next(phase for phase in self.phases if step / self.steps < phase.until)
        random = np.random.default_rng([self.config.seed, 43, step])
        shares = (phase.mosaics * self.config.mosaic4, phase.mosaics * self.config.mosaic9)
        counts = draw_layouts(self.config.batch_size, *shares, random)
        photos = random.choice(len(phase.photos), counts.sum(), p=phase.photos)  # (all photos of the batch,)
        return np.stack([mosaic(own) for own in np.split(photos, np.cumsum(counts)[:-1])])

"""Choose which photos the packaged model's training shows in which step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import draw_layouts, mosaic


@dataclass(frozen=True)
class Phase:
    """How images are drawn during one part of the training.

    Attributes:
        until: fraction of the training at which the phase ends.
        photos: probability of each photo, ``(N,)``.
        mosaics: share of the settings' mosaics that are shown, 0..1.
    """

    until: float
    photos: np.ndarray
    mosaics: float


def rarity(counted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Return the probability ``(N,)`` of each photo: in proportion to 1 / sqrt(count) of its rarest word.

    Args:
        counted: bool ``(N, V)``, which of the counted words each photo has.
        annotated: bool ``(N,)``; other photos get 0.
    """
    counts = np.maximum(counted[annotated].sum(axis=0), 1)
    weights = (counted / np.sqrt(counts)).max(axis=1) * annotated
    return weights / weights.sum()


def mixture(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    """Return the probability ``(N,)`` of each photo: each share spread evenly over a bool mask ``(N,)`` of photos."""
    probability = sum(share * mask / max(mask.sum(), 1) for share, mask in parts)
    return probability / np.sum(probability)


class PhasedSchedule:
    """Draw the images of each step by phase, in place of :class:`zsl_tagger.training.data.Schedule`.

    Args:
        phases: in order; the last one ends at 1.
    """

    def __init__(self, phases: tuple[Phase, ...], config: TrainConfig):
        self.phases, self.config = phases, config
        self.steps_per_epoch = config.min_epoch_steps
        self.steps = config.epochs * config.min_epoch_steps

    def batch(self, step: int) -> np.ndarray:
        """Return the images of a step, mosaics, int64 ``(batch_size, MOST_PHOTOS)``."""
        phase = next(phase for phase in self.phases if step / self.steps < phase.until)
        random = np.random.default_rng([self.config.seed, 43, step])
        shares = (phase.mosaics * self.config.mosaic4, phase.mosaics * self.config.mosaic9)
        counts = draw_layouts(self.config.batch_size, *shares, random)
        photos = random.choice(len(phase.photos), counts.sum(), p=phase.photos)  # (all photos of the batch,)
        return np.stack([mosaic(own) for own in np.split(photos, np.cumsum(counts)[:-1])])

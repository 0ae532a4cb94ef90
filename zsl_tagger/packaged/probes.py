"""Fit the probes of trained words (:mod:`zsl_tagger.tagging.probes`): logistic regressions on pooled features.

They are fitted together, by AdamW with a decaying learning rate; few epochs regularise them. benchmarks/README.md
explains the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from zsl_tagger.packaged.calibration import HeldOutPhotos, WordsOfLabels, fit_scoring
from zsl_tagger.packaged.targets import Targets
from zsl_tagger.tagging.class_evidence import LabelEvidence
from zsl_tagger.tagging.probes import write_probes

EPOCHS, BATCH, RATE, DECAY = 4, 256, 2e-3, 0.05
#: Minimum number of training photos with a word for it to have a probe: a scoring fits only words that all have one.
LEAST_POSITIVES = 1
#: Weight of a probe's log-odds relative to the log-odds from decoder and evidence. Held-out photos alone would give a
#: larger weight, but they are from the collections that the probes were fitted to.
WEIGHT = 1.0
#: The same for words that name an object, for which the detector is the better judge on other photos.
OBJECT_WEIGHT = 0.4


@dataclass(frozen=True)
class FittedProbes:
    """Probes of V words.

    Attributes:
        weights: float32 ``(V, F)``.
        offsets: float32 ``(V,)``.
        numbers: number of each word's probe among the distinct ones, ascending from 0; None for a word that has none.
            Words with the same targets, such as synonyms, share a probe.
    """

    weights: np.ndarray
    offsets: np.ndarray
    numbers: list[int | None]

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Return the probes' log-odds of features ``(N, F)``, float32 ``(N, V)``; 0 for words without a probe."""
        fitted = np.array([number is not None for number in self.numbers])
        return np.where(fitted, features @ self.weights.T + self.offsets, np.float32(0))

    def scaled(self, factors: np.ndarray) -> FittedProbes:
        """Return the same probes, multiplied by a factor for each word, ``(V,)``."""
        return FittedProbes(self.weights * factors[:, None], self.offsets * factors, self.numbers)

    def save(self, path: Path) -> None:
        """Write the distinct probes."""
        first: dict[int, int] = {}  # number -> word
        for word, number in enumerate(self.numbers):
            if number is not None:
                first.setdefault(number, word)
        words = list(first.values())
        write_probes(path, self.weights[words], self.offsets[words])


def fit_probes(features: np.ndarray, targets: Targets, *, seed: int = 0) -> FittedProbes:
    """Fit the probes of all words to training photos.

    Args:
        features: pooled features, float32 ``(N, F)``.
        targets: targets of the same photos.
    """
    values, weights = torch.from_numpy(targets.values), torch.from_numpy(targets.weights)  # (N, V) each
    centre, scale = features.mean(axis=0), features.std(axis=0).mean()  # (F,), ()
    x = torch.from_numpy((features - centre) / scale)  # (N, F)
    share = ((values * weights).sum(0) + 0.5) / (weights.sum(0) + 1)  # (V,)
    probes = torch.nn.Linear(x.shape[1], values.shape[1])
    torch.nn.init.zeros_(probes.weight)
    with torch.no_grad():
        probes.bias.copy_(torch.logit(share))
    _train(probes, x, values, weights, seed)
    fitted = probes.weight.detach().numpy() / scale  # (V, F)
    offsets = probes.bias.detach().numpy() - fitted @ centre  # (V,)
    return FittedProbes(fitted.astype(np.float32), offsets.astype(np.float32), _numbers(targets))


def _train(probes: torch.nn.Linear, x: torch.Tensor, values: torch.Tensor, weights: torch.Tensor, seed: int) -> None:
    batches = max(1, len(x) // BATCH)
    optimizer = torch.optim.AdamW(probes.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * batches)
    random = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=random)[: batches * BATCH].chunk(batches):
            terms = torch.nn.functional.binary_cross_entropy_with_logits(
                probes(x[rows]), values[rows], weights[rows], reduction="sum"
            )
            optimizer.zero_grad()
            (terms / len(rows)).backward()
            optimizer.step()
            schedule.step()


def _numbers(targets: Targets) -> list[int | None]:
    """Number the words by their distinct targets; None for words with too few positives."""
    positives = (targets.values > 0.5).sum(axis=0)  # (V,)
    numbers: dict[bytes, int] = {}
    return [
        numbers.setdefault(targets.values[:, word].tobytes() + targets.weights[:, word].tobytes(), len(numbers))
        if positives[word] >= LEAST_POSITIVES
        else None
        for word in range(len(targets.words))
    ]


def factors_of_probes(photos: HeldOutPhotos, words: WordsOfLabels, is_default: np.ndarray) -> np.ndarray:
    """Return the factor of each word's probe, ``(V,)``, so that it can be added to the decoder's logit.

    Args:
        photos: with logits of the decoder alone.
        is_default: bool ``(V,)``, words of the default vocabulary, to which the scoring is fitted.
    """
    scoring = fit_scoring(*photos.of_words(words, np.flatnonzero(is_default)))
    scales = LabelEvidence(words.classes, scoring, words.objects).scales  # (V,)
    named = np.array([word is not None and word.names for word in words.objects])
    return np.where(named, OBJECT_WEIGHT, WEIGHT) / scales

"""Calibrate scores, so that a score is the probability that its word is correct.

Everything is fitted on photos held out of training. First, for each kind of word (:mod:`.class_words`), a logistic
regression (Platt 1999) scales and shifts the log-odds of the default
:class:`~zsl_tagger.tagging.class_evidence.Scoring`. For words that stand for objects (:mod:`.objects`), a second one
adds the detector's evidence. Then each word gets a bias, the most probable one under a normal prior with standard
deviation ``PRIOR``, so that the bias of a rare word stays close to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.tagging.class_evidence import (
    ABOVE,
    KINDS,
    NAMES,
    OBJECT_ABOVE,
    OBJECT_NAMES,
    OTHER,
    ClassWord,
    Evidence,
    EvidenceWords,
    LabelEvidence,
    Scoring,
    Weights,
)

PRIOR = 0.3  # standard deviation of a word's bias, in logits
STEPS = 25  # iterations of Newton's method
PRECISIONS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
MIN_TAGS = 50  # minimum number of tags to measure a precision on


@dataclass(frozen=True)
class HeldOutPhotos:
    """Predictions and annotation of N held-out photos for V words.

    Attributes:
        logits: logits of the decoder, float32 ``(N, V)``.
        classes: probabilities of classes and objects, float32 ``(N, C)``.
        truth: bool ``(N, V)``.
        known: bool ``(N, V)``; False if the annotation does not decide whether the word is correct.
    """

    logits: np.ndarray
    classes: np.ndarray
    truth: np.ndarray
    known: np.ndarray

    def select(self, rows: np.ndarray) -> HeldOutPhotos:
        """Return a subset of the photos."""
        return HeldOutPhotos(self.logits[rows], self.classes[rows], self.truth[rows], self.known[rows])

    def of_words(self, words: WordsOfLabels, columns: np.ndarray) -> tuple[HeldOutPhotos, WordsOfLabels]:
        """Return the photos with a subset of the V words, and these words."""
        photos = HeldOutPhotos(self.logits[:, columns], self.classes, self.truth[:, columns], self.known[:, columns])
        classes, objects = ([of_all[column] for column in columns] for of_all in (words.classes, words.objects))
        return photos, WordsOfLabels(classes, objects)


@dataclass(frozen=True)
class WordsOfLabels:
    """Classes and objects of each of V words, or None."""

    classes: list[ClassWord | None]
    objects: list[ClassWord | None]

    @classmethod
    def of(cls, keys: Sequence[str], words: EvidenceWords) -> WordsOfLabels:
        """Look up normalised words."""
        return cls([words.classes.get(key) for key in keys], [words.objects.get(key) for key in keys])

    def log_odds(self, photos: HeldOutPhotos, scoring: Scoring) -> np.ndarray:
        """Return log-odds without biases, float ``(N, V)``."""
        return LabelEvidence(self.classes, scoring, self.objects).join(photos.logits, photos.classes)


def fit_scoring(photos: HeldOutPhotos, words: WordsOfLabels) -> Scoring:
    """Fit scale, weight and offset of each kind of word.

    The ratio of evidence to logit is not fitted, but kept from the default :class:`Scoring`: annotated photos rarely
    show a single class, so the fitted ratio would be too small (benchmarks/README.md). The one of objects is fitted,
    after the rest, so that words without objects are scored as by a model without a detector.
    """
    kinds = np.array([OTHER if word is None else NAMES if word.names else ABOVE for word in words.classes])
    plain = words.log_odds(photos, Scoring())  # (N, V)
    scoring = Scoring(**{kind: _fit_kind(photos, plain, kinds == kind, getattr(Scoring(), kind)) for kind in KINDS})
    without = words.log_odds(photos, scoring)  # (N, V), without evidence of objects
    named = np.array([word is not None and word.names for word in words.objects])
    above = np.array([word is not None and not word.names for word in words.objects])
    fitted = {
        kind: _fit_objects(photos, without, columns, words)
        for kind, columns in ((OBJECT_NAMES, named), (OBJECT_ABOVE, above))
        if (photos.known & photos.truth)[:, columns].any()
    }
    return replace(scoring, **fitted)


def _fit_objects(photos: HeldOutPhotos, without: np.ndarray, columns: np.ndarray, words: WordsOfLabels) -> Weights:
    """Combine log-odds ``(N, V)`` of some words with the evidence of their objects."""
    objects = [word for word, chosen in zip(words.objects, columns, strict=True) if chosen]
    of_objects = Evidence(objects, np.maximum)
    evidence = of_objects.of(photos.classes[:, of_objects.columns])  # (N, v)
    known = photos.known[:, columns]
    parts = [without[:, columns][known], evidence[known], np.ones(known.sum())]
    scale, weight, offset = logistic_regression(
        np.column_stack(parts).astype(np.float64), photos.truth[:, columns][known]
    )
    return float(scale), float(weight), float(offset)


def _fit_kind(photos: HeldOutPhotos, plain: np.ndarray, columns: np.ndarray, weights: Weights) -> Weights:
    """Scale and shift the default log-odds ``(N, V)`` of one kind of word."""
    known = photos.known[:, columns]
    x = np.column_stack([plain[:, columns][known], np.ones(known.sum())]).astype(np.float64)  # (n, 2)
    slope, shift = logistic_regression(x, photos.truth[:, columns][known])
    scale, weight, offset = weights
    return float(slope * scale), float(slope * weight), float(slope * offset + shift)


def logistic_regression(x: np.ndarray, truth: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Return the maximum-likelihood weights, float64 ``(d,)``, of the model ``sigmoid(x @ weights)``.

    Args:
        x: float64 ``(n, d)``.
        truth: bool ``(n,)``.
        ridge: weight of L2 regularisation, so that the solution is unique even with a column of zeros.
    """
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        p = sigmoid(x @ weights)
        gradient = x.T @ (p - truth) + ridge * weights
        curvature = (x.T * (p * (1 - p))) @ x + ridge * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


def fit_biases(log_odds: np.ndarray, truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return each word's bias, float64 ``(V,)``.

    Args:
        log_odds: float ``(N, V)``, calibrated by kind.
        truth, known: bool ``(N, V)``.
    """
    biases = np.zeros(log_odds.shape[1])
    for _ in range(STEPS):
        p = sigmoid(log_odds + biases)
        gradient = ((p - truth) * known).sum(axis=0) + biases / PRIOR**2
        curvature = (p * (1 - p) * known).sum(axis=0) + 1 / PRIOR**2
        biases = biases - np.clip(gradient / curvature, -1, 1)  # full Newton steps may diverge
    return biases


@dataclass(frozen=True)
class Reliability:
    """Reliability curve: scores and the share of them that is correct, in bins of equal width.

    Attributes:
        counts: number of scores in each bin, int64 ``(bins,)``.
        scores: mean score, float64 ``(bins,)``; 0 in an empty bin.
        true: share of correct entries, float64 ``(bins,)``; 0 in an empty bin.
    """

    counts: np.ndarray
    scores: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray, bins: int = 15) -> Reliability:
        """Return the curve of scores, float ``(n,)`` in 0..1, and their truth, bool ``(n,)``."""
        place = np.minimum((scores * bins).astype(int), bins - 1)
        counts = np.bincount(place, minlength=bins)
        some = np.maximum(counts, 1)
        return cls(counts, np.bincount(place, scores, bins) / some, np.bincount(place, truth, bins) / some)

    @property
    def error(self) -> float:
        """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599), 0..1."""
        return float(self.counts @ np.abs(self.scores - self.true) / max(self.counts.sum(), 1))


def precision_shifts(
    log_odds: np.ndarray, thresholds: np.ndarray, truth: np.ndarray, known: np.ndarray
) -> list[tuple[float, float]]:
    """Return (precision, shift) pairs: the shift of all thresholds at which tags reach this precision.

    Args:
        log_odds: float ``(N, V)``, for the words of the default vocabulary.
        thresholds: log-odds ``(V,)``.
        truth, known: bool ``(N, V)``; unknown entries are ignored.
    """
    margin, right = (log_odds - thresholds)[known], truth[known]
    order = np.argsort(-margin)
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)  # of the top 1, 2, ... tags
    pairs = []
    for wanted in PRECISIONS:
        enough = np.flatnonzero(precision >= wanted)
        if len(enough) and enough[-1] + 1 >= MIN_TAGS:
            pairs.append((wanted, round(float(margin[order[enough[-1]]]), 3)))
    return pairs

"""Scores that mean what they say: logits and class evidence -> the share of photos that a word is true of.

Everything is fitted on photos held out from training. First, for each kind of word (:mod:`.class_words`), a logistic
regression (Platt 1999) scales and shifts the log-odds of a plain
:class:`~zsl_tagger.tagging.class_evidence.Scoring`. Then each word gets a bias of its own, the most probable one under
a normal prior of width ``PRIOR``: words that few photos show stay where their kind put them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.tagging.class_evidence import ABOVE, KINDS, NAMES, OTHER, ClassWord, LabelEvidence, Scoring, Weights

PRIOR = 0.3  # standard deviation of a word's bias, in logits
STEPS = 25  # of Newton's method
PRECISIONS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
LEAST_TAGS = 50  # that a precision must be measured on


@dataclass(frozen=True)
class Judged:
    """Held-out photos: what the network says of V words, and what people say.

    Attributes:
        logits: of the decoder, float32 ``(N, V)``.
        classes: class probabilities float32 ``(N, C)``.
        truth: bool ``(N, V)``.
        known: bool ``(N, V)``; False where the annotation leaves a word open.
    """

    logits: np.ndarray
    classes: np.ndarray
    truth: np.ndarray
    known: np.ndarray

    def some(self, rows: np.ndarray) -> Judged:
        """Return those of some photos."""
        return Judged(self.logits[rows], self.classes[rows], self.truth[rows], self.known[rows])


def fit_scoring(judged: Judged, words: list[ClassWord | None]) -> Scoring:
    """Choose scale, weight and offset of each kind of word.

    How much the evidence weighs beside the logit is not fitted but that of a plain :class:`Scoring`: annotated photos
    seldom show a class alone, so they would give it too little weight (benchmarks/README.md).

    Args:
        words: the classes of each of the V words.
    """
    kinds = np.array([OTHER if word is None else NAMES if word.names else ABOVE for word in words])
    plain = LabelEvidence(words, Scoring()).join(judged.logits, judged.classes)  # (N, V)
    return Scoring(**{kind: _fit_kind(judged, plain, kinds == kind, getattr(Scoring(), kind)) for kind in KINDS})


def _fit_kind(judged: Judged, plain: np.ndarray, columns: np.ndarray, weights: Weights) -> Weights:
    """Scale and shift the plain log-odds ``(N, V)`` of one kind of word."""
    known = judged.known[:, columns]
    x = np.column_stack([plain[:, columns][known], np.ones(known.sum())]).astype(np.float64)  # (n, 2)
    slope, shift = logistic_regression(x, judged.truth[:, columns][known])
    scale, weight, offset = weights
    return float(slope * scale), float(slope * weight), float(slope * offset + shift)


def logistic_regression(x: np.ndarray, truth: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Return the weights float64 ``(d,)`` that make ``sigmoid(x @ weights)`` most likely.

    Args:
        x: float64 ``(n, d)``.
        truth: bool ``(n,)``.
        ridge: keeps a column of zeros from having no answer.
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
        biases = biases - np.clip(gradient / curvature, -1, 1)  # a long step could run away
    return biases


@dataclass(frozen=True)
class Reliability:
    """How often scores are true, over equally wide bins of the score.

    Attributes:
        counts: scores in each bin, int64 ``(bins,)``.
        scores: their mean, float64 ``(bins,)``; 0 in an empty bin.
        true: the share of them that is true, float64 ``(bins,)``; 0 in an empty bin.
    """

    counts: np.ndarray
    scores: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray, bins: int = 15) -> Reliability:
        """Sort scores, float ``(n,)`` in 0..1, with their truth, bool ``(n,)``, into bins."""
        place = np.minimum((scores * bins).astype(int), bins - 1)
        counts = np.bincount(place, minlength=bins)
        some = np.maximum(counts, 1)
        return cls(counts, np.bincount(place, scores, bins) / some, np.bincount(place, truth, bins) / some)

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv 1706.04599), 0..1."""
        return float(self.counts @ np.abs(self.scores - self.true) / max(self.counts.sum(), 1))


def precision_shifts(
    log_odds: np.ndarray, thresholds: np.ndarray, truth: np.ndarray, known: np.ndarray
) -> list[tuple[float, float]]:
    """Return (precision, shift) pairs: by how much all thresholds must rise for the tags to be so often right.

    Args:
        log_odds: float ``(N, V)``, of the words that are asked by default.
        thresholds: log-odds ``(V,)``.
        truth, known: bool ``(N, V)``; what is not known is not counted.
    """
    margin, right = (log_odds - thresholds)[known], truth[known]
    order = np.argsort(-margin)
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)  # of the best 1, 2, ... tags
    pairs = []
    for wanted in PRECISIONS:
        enough = np.flatnonzero(precision >= wanted)
        if len(enough) and enough[-1] + 1 >= LEAST_TAGS:
            pairs.append((wanted, round(float(margin[order[enough[-1]]]), 3)))
    return pairs

"""Learn a tag from a few photos in closed form: ridge regression on pooled features, combined with the tag's word.

1. Features (:mod:`.pooled`) are standardised with the statistics of arbitrary photos and scaled to length 1.
2. A ridge regression separates the positive examples from all other photos, with equal total weight. With a library it
   is fitted twice: photos of the library that look like the examples are left out the second time.
3. Leave-one-out (in closed form, from the diagonal of the smoother) gives scores as for unseen photos. They show how
   far apart the two groups are, in standard deviations, for the regression and for the word's own log-odds; each is
   weighted in proportion.
4. The same scores give the threshold and slope that turn the sum into log-odds: 0 at the threshold.

benchmarks/README.md explains this choice and the alternatives that were tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Ridge penalty, for features of length 1, whose weighted covariance has a trace below 1.
RIDGE = 0.01
#: Number of counterexamples at which they have half of the weight of all negative photos; the background has the rest.
AGAINST = 20
#: Share of the mean variance added to each feature's variance, so that nearly constant features are not amplified.
LEAST_VARIANCE = 0.3
#: Score from which a library photo may have the tag, between the mean (0) and the median example (1).
SUSPECT = 0.7
#: Maximum share of a library to leave out for that reason.
MOST_SUSPECTS = 0.2
#: Weight of the word relative to the regression if both separate the examples equally well.
WORD = 0.9
#: Number of examples that counts as much as the negatives in estimating a spread.
PRIOR_EXAMPLES = 5
#: Position of the threshold between the background's tail (0) and the median left-out example (1).
TOWARDS_EXAMPLES = 0.5
#: End of the background's tail, in standard deviations above its mean.
TAIL = 3.0
#: Log-odds of the median left-out example.
USUAL = 2.0


@dataclass(frozen=True)
class Reader:
    """Compute the log-odds of a taught tag: linear in standardised features of length 1 and in its word's log-odds.

    Attributes:
        center, scale: standardisation of the features, float32 ``(F,)``.
        weights: float32 ``(F,)``.
        offset: added to the result.
        word: key of the word whose log-odds are added; None for no word.
        word_weight: weight of the word's log-odds.
    """

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    offset: float
    word: str | None = None
    word_weight: float = 0.0

    def log_odds(self, features: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return log-odds, float32 ``(B,)``, from features ``(B, F)`` and the word's log-odds ``(B,)``."""
        read = _unit((features - self.center) / self.scale) @ self.weights + np.float32(self.offset)
        return read if self.word is None else read + np.float32(self.word_weight) * word


class Photos(NamedTuple):
    """Features of photos, float32 ``(n, F)``, and the word's log-odds ``(n,)``, zeros without a word."""

    features: np.ndarray
    word: np.ndarray


class Learned(NamedTuple):
    """A reader and the leave-one-out log-odds of its positive ``(P,)`` and negative ``(Q,)`` examples."""

    reader: Reader
    positives: np.ndarray
    negatives: np.ndarray


def joined(*photos: Photos) -> Photos:
    """Concatenate several sets of photos."""
    return Photos(np.concatenate([one.features for one in photos]), np.concatenate([one.word for one in photos]))


def learn(
    positives: Photos, negatives: Photos, background: Photos, library: Photos | None = None, word: str | None = None
) -> Learned:
    """Learn to separate photos with a tag from others.

    Args:
        positives: P examples of the tag, at least 2.
        negatives: Q counterexamples; the more there are, the more they weigh relative to the background.
        background: arbitrary photos.
        library: more arbitrary photos, some of which may have the tag; at least 8 together with the background.
        word: key of the word that the tag is named after, or is like.
    """
    if library is not None:
        background = joined(background, _unlike(positives, negatives, background, library))
    center, scale, read = _regression(positives, negatives, background)
    rows = (positives.word, negatives.word, background.word)
    kinds = np.repeat([0, 1, 2], [len(one) for one in rows])  # (n,)
    gain = max(_apart(read.left_out, kinds), 0.1) / _deviation(read.left_out, kinds)
    scores, word_gain = gain * read.left_out, 0.0  # (n,)
    if word is not None:
        word_scores = np.concatenate(rows).astype(np.float64)  # (n,)
        word_gain = WORD * max(_apart(word_scores, kinds), 0.0) / _deviation(word_scores, kinds)
        scores = scores + word_gain * word_scores
    slope, threshold = _calibrated(scores[kinds == 0], scores[kinds == 2])
    reader = Reader(
        center,
        scale,
        (slope * gain * read.weights).astype(np.float32),
        float(slope * (gain * read.offset - threshold)),
        word,
        float(slope * word_gain),
    )
    log_odds = slope * (scores - threshold)
    return Learned(reader, log_odds[kinds == 0], log_odds[kinds == 1])


def _unlike(positives: Photos, negatives: Photos, background: Photos, library: Photos) -> Photos:
    """Return the library without photos that may well have the tag and so are not counterexamples.

    These are the photos that a first regression without them scores closer to the examples than to the others.
    """
    read = _regression(positives, negatives, joined(background, library))[2].left_out
    first = len(read) - len(library.word)
    others = read[first:]
    if not len(others):
        return library
    low = others.mean()
    limit = max(low + SUSPECT * (np.median(read[: len(positives.word)]) - low), np.quantile(others, 1 - MOST_SUSPECTS))
    keep = others <= limit
    return Photos(library.features[keep], library.word[keep])


def _regression(positives: Photos, negatives: Photos, background: Photos) -> tuple[np.ndarray, np.ndarray, _Ridge]:
    """Return center and scale of the features, ``(F,)``, and the regression on the standardised features."""
    center, scale = _spread(background.features)
    rows = [_unit((photos.features - center) / scale) for photos in (positives, negatives, background)]
    return center, scale, _Ridge(rows)


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, ``(F,)``, the latter with a floor."""
    variance = features.var(axis=0)
    return features.mean(axis=0), np.sqrt(variance + LEAST_VARIANCE * variance.mean() + 1e-9)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class _Ridge:
    """Fit a weighted ridge regression from rows to 1 (positives) and -1 (all others), in the dual form.

    Args:
        rows: features of positives, negatives and background, ``(n_k, F)`` each.

    Attributes:
        weights: ``(F,)``.
        offset: number.
        left_out: ``(n,)``, the prediction for each row by a regression without it.
    """

    def __init__(self, rows: list[np.ndarray]):
        counts = [len(one) for one in rows]
        against = 0.5 * counts[1] / (counts[1] + AGAINST)
        shares = [0.5, against, 0.5 - against]
        w = np.repeat(np.divide(shares, np.maximum(counts, 1)), counts)  # (n,)
        y = np.concatenate([np.ones(len(rows[0])), -np.ones(len(w) - len(rows[0]))])  # (n,)
        x, root = np.concatenate(rows).astype(np.float64), np.sqrt(w)
        mean, level = w @ x, w @ y
        x = (x - mean) * root[:, None]  # (n, F)
        gram = x @ x.T  # (n, n)
        inverse = np.linalg.inv(gram + RIDGE * np.eye(len(gram)))
        dual = inverse @ (root * (y - level))  # (n,)
        self.weights = x.T @ dual
        self.offset = level - mean @ self.weights
        fitted, leverage = gram @ dual / root + level, w + (gram * inverse).sum(axis=1)
        self.left_out = y - (y - fitted) / np.maximum(1 - leverage, 1e-6)


def _apart(scores: np.ndarray, kinds: np.ndarray) -> float:
    """Return the distance of the positives from the background in standard deviations."""
    return float((np.median(scores[kinds == 0]) - scores[kinds == 2].mean()) / _deviation(scores, kinds))


def _deviation(scores: np.ndarray, kinds: np.ndarray) -> float:
    """Return the spread of scores within a group; with few examples it is uncertain, so the background counts too."""
    own, others = scores[kinds == 0], scores[kinds == 2]
    variance = (len(own) * own.var() + PRIOR_EXAMPLES * others.var()) / (len(own) + PRIOR_EXAMPLES)
    return float(np.sqrt(variance + 1e-6))


def _calibrated(positives: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return slope and threshold that turn leave-one-out scores into log-odds: ``slope * (score - threshold)``."""
    usual = np.median(positives)
    tail = min(others.mean() + TAIL * others.std(), usual)
    threshold = tail + TOWARDS_EXAMPLES * (usual - tail)
    least = 0.5 * max(others.std(), 1e-6)  # for examples that do not differ from the others
    return float(USUAL / max(usual - threshold, least)), float(threshold)

"""Learn a tag from a few photos in closed form: a ridge regression on pooled features, joined with the tag's word.

1. Features (:mod:`.pooled`) are standardised by photos of anything and brought to length 1.
2. A ridge regression tells the positive examples from the others, which together weigh as much. It is made twice where
   there is a library: photos of it that look like the examples are left out the second time.
3. Leaving each photo out (in closed form, from the diagonal of the smoother) gives scores as of photos never seen. They
   say how far apart the two kinds stand for the regression and for the word's own log-odds, in standard deviations;
   each counts in proportion to that.
4. The same scores give the threshold and the slope that make log-odds of the sum: 0 at the threshold.

benchmarks/README.md says how this was chosen, and what else was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Ridge over features of length 1, whose weighted covariance has a trace below 1.
RIDGE = 0.01
#: Counterexamples share the weight of all photos that are not positive with the background: half of it at this number.
AGAINST = 20
#: Share of the mean variance that is added to each feature's: what hardly varies must not be blown up.
LEAST_VARIANCE = 0.3
#: Where a photo of a library counts as one that the tag may be true of, from the mean (0) to the median example (1).
SUSPECT = 0.7
#: Share of a library that may be left out so.
MOST_SUSPECTS = 0.2
#: Weight of the word beside the regression, where both tell the examples apart equally well.
WORD = 0.9
#: As many examples as this have as much say in a spread as the negatives have.
PRIOR_EXAMPLES = 5
#: Where the threshold lies, from the background's tail (0) to the median of the examples left out (1).
TOWARDS_EXAMPLES = 0.5
#: Standard deviations of the background over its mean, where their tail ends.
TAIL = 3.0
#: Log-odds of the median example that was left out.
USUAL = 2.0


@dataclass(frozen=True)
class Reader:
    """Give the log-odds of a taught tag: linear in standardised features of length 1, and in its word's log-odds.

    Attributes:
        center, scale: of the features, float32 ``(F,)``.
        weights: float32 ``(F,)``.
        offset: added to all.
        word: key of the word whose log-odds are added; None where there is none.
        word_weight: of these log-odds.
    """

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    offset: float
    word: str | None = None
    word_weight: float = 0.0

    def log_odds(self, features: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return float32 ``(B,)`` of features ``(B, F)`` and the log-odds of the word ``(B,)``."""
        read = _unit((features - self.center) / self.scale) @ self.weights + np.float32(self.offset)
        return read if self.word is None else read + np.float32(self.word_weight) * word


class Photos(NamedTuple):
    """Hold features float32 ``(n, F)`` of photos, and the word's log-odds there ``(n,)``, zeros without a word."""

    features: np.ndarray
    word: np.ndarray


class Learned(NamedTuple):
    """Hold a reader, and the log-odds that the examples got when each was left out, ``(P,)`` and ``(Q,)``."""

    reader: Reader
    positives: np.ndarray
    negatives: np.ndarray


def joined(*photos: Photos) -> Photos:
    """Return the photos of several as one."""
    return Photos(np.concatenate([one.features for one in photos]), np.concatenate([one.word for one in photos]))


def learn(
    positives: Photos, negatives: Photos, background: Photos, library: Photos | None = None, word: str | None = None
) -> Learned:
    """Learn to tell photos with a tag from others.

    Args:
        positives: P examples of the tag, at least 2.
        negatives: Q examples of what it does not mean; the more there are, the more they weigh beside the background.
        background: photos of anything.
        library: more photos of anything, of which the tag may be true too. With the background at least 8.
        word: key of the word that the tag has, or is like.
    """
    if library is not None:
        background = joined(background, _unlike(positives, negatives, background, library))
    center, scale, read = _regression(positives, negatives, background)
    rows = (positives.word, negatives.word, background.word)
    kinds = np.repeat([0, 1, 2], [len(one) for one in rows])  # (n,)
    gain = max(_apart(read.left_out, kinds), 0.1) / _deviation(read.left_out, kinds)
    scores, word_gain = gain * read.left_out, 0.0  # (n,)
    if word is not None:
        said = np.concatenate(rows).astype(np.float64)  # (n,)
        word_gain = WORD * max(_apart(said, kinds), 0.0) / _deviation(said, kinds)
        scores = scores + word_gain * said
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
    """Return the photos of a library without those that the tag may well be true of, which are no counterexamples.

    Those are left out that a first regression, made without them, puts nearer to the examples than to the others.
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
    """Return the center and the scale of the features, ``(F,)``, and the regression on what they make of them."""
    center, scale = _spread(background.features)
    rows = [_unit((photos.features - center) / scale) for photos in (positives, negatives, background)]
    return center, scale, _Ridge(rows)


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, ``(F,)``, the latter nowhere much below what is usual."""
    variance = features.var(axis=0)
    return features.mean(axis=0), np.sqrt(variance + LEAST_VARIANCE * variance.mean() + 1e-9)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class _Ridge:
    """Fit a weighted ridge regression from rows to 1 (of positives) and -1 (of all others), in the dual.

    Args:
        rows: of positives, negatives and background, ``(n_k, F)`` each.

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
    """Return how many standard deviations the positives stand above the background."""
    return float((np.median(scores[kinds == 0]) - scores[kinds == 2].mean()) / _deviation(scores, kinds))


def _deviation(scores: np.ndarray, kinds: np.ndarray) -> float:
    """Return the spread of scores inside of a kind; of few examples it is little known, so the background has a say."""
    own, others = scores[kinds == 0], scores[kinds == 2]
    variance = (len(own) * own.var() + PRIOR_EXAMPLES * others.var()) / (len(own) + PRIOR_EXAMPLES)
    return float(np.sqrt(variance + 1e-6))


def _calibrated(positives: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return slope and threshold that make log-odds of scores that were left out: ``slope * (score - threshold)``."""
    usual = np.median(positives)
    tail = min(others.mean() + TAIL * others.std(), usual)
    threshold = tail + TOWARDS_EXAMPLES * (usual - tail)
    least = 0.5 * max(others.std(), 1e-6)  # of examples that stand out in nothing
    return float(USUAL / max(usual - threshold, least)), float(threshold)

"""Find the best labels of a large vocabulary by scoring only a few thousand of them.

For one image, the decoder's logit is a smooth function of the query. So some labels are scored, a ridge regression from
their query states to their logits predicts the logits of all others, the labels with the best predictions are scored
too, and the regression is refitted with more weight on the top labels. Nothing is trained or stored. All returned
scores are exact, but a label can be missed: benchmarks/results/shortlist.json says how often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ANCHORS = 1000  # labels scored first; half are the first ones, the most common words of the packaged table
ROUNDS = 6  # rounds after that
LABELS_PER_ROUND = 333  # labels with the best predictions, scored in each round

FIRST_RIDGE, RIDGE = 3.0, 0.1  # ridge penalties in the first and later rounds, for standardised states
BEST = 800  # labels for the regression from the second round on
NEAR_TOP = 200  # about this many of them have a weight above one half


class Shortlist:
    """Finds the best of K labels for an image.

    Args:
        states: float32 ``(K, D)``, the decoder's states of the queries before they see an image.
    """

    def __init__(self, states: np.ndarray):
        self._states = states
        self._mean, self._std = states.mean(axis=0), states.std(axis=0)
        spread = np.linspace(0, len(states) - 1, ANCHORS // 2).astype(np.int64)
        self._anchors = np.unique(np.concatenate([np.arange(min(ANCHORS // 2, len(states))), spread]))

    def best(
        self, score: Callable[[np.ndarray], np.ndarray], added: np.ndarray, scales: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return all labels that were scored, int64 ``(n,)``, and their logits, float32 ``(n,)``, unordered.

        Args:
            score: returns the exact logits ``(m,)`` of label indices int64 ``(m,)``.
            added, scales: float32 ``(K,)``: labels are compared by ``scale * logit + added``.
        """
        labels = self._anchors
        logits = score(labels)
        slope, level = self._fit(labels, logits, np.ones(len(labels), np.float32), FIRST_RIDGE)
        for _ in range(ROUNDS):
            predicted = (self._states @ slope + level) * scales + added  # (K,)
            predicted[labels] = -np.inf
            count = min(LABELS_PER_ROUND, len(predicted) - len(labels))
            if not count:
                break
            more = np.argpartition(-predicted, count - 1)[:count]
            labels, logits = np.concatenate([labels, more]), np.concatenate([logits, score(more)])
            compared = logits * scales[labels] + added[labels]
            top = np.argsort(-compared)[:BEST]
            slope, level = self._fit(labels[top], logits[top], _weights(compared[top]), RIDGE)
        return labels, logits

    def _fit(
        self, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, ridge: float
    ) -> tuple[np.ndarray, np.float32]:
        """Return slope, float32 ``(D,)``, and intercept of a weighted ridge regression from states to logits."""
        x = np.column_stack([self._states[labels] - self._mean, np.ones(len(labels), np.float32)])  # (n, D + 1)
        weighted = x * weights[:, None]
        penalty = ridge * np.append(self._std.astype(np.float64) ** 2 + 1e-9, 1.0)
        solved = np.linalg.solve((weighted.T @ x) + np.diag(penalty), weighted.T @ logits)  # (D + 1,)
        slope = solved[:-1].astype(np.float32)
        return slope, np.float32(solved[-1] - self._mean @ slope)


def _weights(descending: np.ndarray) -> np.ndarray:
    """Return weights 0..1, float32: labels far below the best need not be predicted well."""
    middle = descending[min(NEAR_TOP, len(descending)) - 1]
    return (1.0 / (1.0 + np.exp(np.minimum(middle - descending, 80.0)))).astype(np.float32)

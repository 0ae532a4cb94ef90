"""The best labels of a large vocabulary, asking a few thousand of them.

What the decoder says of one image is a smooth function of the query. So some labels are asked, a ridge regression from
their query states to their logits predicts the logits of all others, those with the best predictions are asked too, and
the regression is made anew, nearer to the top. Nothing is trained or stored. Every score given out is exact; what can
happen is that a label is missed: benchmarks/results/shortlist.json says how often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ANCHORS = 1000  # labels asked first: half of them the first ones, which are the commonest words of the packaged table
ROUNDS, ASKED = 6, 333  # then so many times so many with the best predictions

FIRST_RIDGE, RIDGE = 3.0, 0.1  # over standardised states
BEST = 800  # labels that a regression is made on from the second round on
NEAR_TOP = 200  # of those, about so many weigh more than half


class Shortlist:
    """Finds the best of K labels for any image.

    Args:
        states: float32 ``(K, D)``, the queries' states in the decoder before they see an image.
    """

    def __init__(self, states: np.ndarray):
        self._states = states
        self._mean, self._std = states.mean(axis=0), states.std(axis=0)
        spread = np.linspace(0, len(states) - 1, ANCHORS // 2).astype(np.int64)
        self._anchors = np.unique(np.concatenate([np.arange(min(ANCHORS // 2, len(states))), spread]))

    def best(
        self, ask: Callable[[np.ndarray], np.ndarray], added: np.ndarray, scales: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(labels int64 ``(n,)``, their logits float32 ``(n,)``): all that were asked, in no order.

        Args:
            ask: indices of labels int64 ``(m,)`` -> their exact logits ``(m,)``.
            added, scales: float32 ``(K,)``: labels are compared by ``scale * logit + added``.
        """
        labels = self._anchors
        logits = ask(labels)
        slope, level = self._fit(labels, logits, np.ones(len(labels), np.float32), FIRST_RIDGE)
        for _ in range(ROUNDS):
            predicted = (self._states @ slope + level) * scales + added  # (K,)
            predicted[labels] = -np.inf
            count = min(ASKED, len(predicted) - len(labels))
            if not count:
                break
            more = np.argpartition(-predicted, count - 1)[:count]
            labels, logits = np.concatenate([labels, more]), np.concatenate([logits, ask(more)])
            compared = logits * scales[labels] + added[labels]
            top = np.argsort(-compared)[:BEST]
            slope, level = self._fit(labels[top], logits[top], _weights(compared[top]), RIDGE)
        return labels, logits

    def _fit(
        self, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, ridge: float
    ) -> tuple[np.ndarray, np.float32]:
        """Slope float32 ``(D,)`` and intercept of a weighted ridge regression from states to logits."""
        x = np.column_stack([self._states[labels] - self._mean, np.ones(len(labels), np.float32)])  # (n, D + 1)
        weighted = x * weights[:, None]
        penalty = ridge * np.append(self._std.astype(np.float64) ** 2 + 1e-9, 1.0)
        solved = np.linalg.solve((weighted.T @ x) + np.diag(penalty), weighted.T @ logits)  # (D + 1,)
        slope = solved[:-1].astype(np.float32)
        return slope, np.float32(solved[-1] - self._mean @ slope)


def _weights(descending: np.ndarray) -> np.ndarray:
    """Weights 0..1, float32: what is far below the best ones need not be predicted well."""
    middle = descending[min(NEAR_TOP, len(descending)) - 1]
    return (1.0 / (1.0 + np.exp(np.minimum(middle - descending, 80.0)))).astype(np.float32)

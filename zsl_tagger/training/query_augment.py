"""Augment the queries in training as the paper does (section 3.3), with formulas.

With q_k the unit word vectors of a step's K labels, d their width, z standard normal, all drawn anew each step:

=====================  ==========================================================================================
``query_noise`` s      q_k + s z_k / sqrt(d): noise of length about s on a query of length 1
``random_queries`` R   R more queries r = z / ||z|| of random direction, with target ``random_query_target`` on every
                       image. The paper's target is positive (1): it keeps the decoder from saying "no" to whatever
                       it does not know
``query_dropout`` p    each label is left out of a step with chance p
``labels_per_step`` M  where more than M labels are left: those on the step's images, then others at random;
                       ``negative_share`` n of the M are others in any case, with ``negative_weight`` in the loss
=====================  ==========================================================================================

The paper gives no magnitudes. A draw depends on seed and step alone: every process of a run draws the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zsl_tagger.training.config import TrainConfig


class QueryAugment:
    """Choose a step's labels and make its queries."""

    def __init__(self, config: TrainConfig):
        self.config = config

    def labels(self, positives: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
        """Return the labels of a step, int64, ascending.

        Args:
            positives: the labels on the step's images, int ``(P,)``.
            count: of all labels that are trained.
        """
        random = np.random.default_rng(seed)
        kept = np.arange(count)
        if self.config.query_dropout:
            kept = kept[random.random(count) >= self.config.query_dropout]
        most = self.config.labels_per_step
        if most is not None and len(kept) > most:
            shown = np.isin(kept, positives)
            order = random.permutation(len(kept))
            on_images, others = order[shown[order]], order[~shown[order]]
            first = most - round(self.config.negative_share * most)
            chosen = np.concatenate([on_images[:first], others, on_images[first:]])[:most]
            kept = kept[np.sort(chosen)]
        return kept if len(kept) else np.arange(count)[:1]

    def label_weights(self, labels: np.ndarray, positives: np.ndarray) -> np.ndarray | None:
        """Return the weight of each chosen label in the loss, float32 ``(K,)``; None where all are 1."""
        if self.config.negative_weight == 1.0:
            return None
        return np.where(np.isin(labels, positives), 1.0, self.config.negative_weight).astype(np.float32)

    def queries(self, vectors: Tensor, seed: tuple[int, ...]) -> Tensor:
        """Turn unit word vectors ``(K, word_dim)`` into queries ``(K + random_queries, word_dim)``."""
        if not self.config.query_noise and not self.config.random_queries:
            return vectors
        random = np.random.default_rng(seed)
        width = vectors.shape[1]
        if self.config.query_noise:
            noise = torch.from_numpy(random.standard_normal(vectors.shape, np.float32)).to(vectors)
            vectors = vectors + self.config.query_noise / width**0.5 * noise
        if self.config.random_queries:
            drawn = torch.from_numpy(random.standard_normal((self.config.random_queries, width), np.float32))
            vectors = torch.cat([vectors, torch.nn.functional.normalize(drawn).to(vectors)])  # (K + R, word_dim)
        return vectors

    def targets(self, targets: Tensor) -> Tensor:
        """Add the targets of the random queries: ``(B, K)`` -> ``(B, K + random_queries)``."""
        if not self.config.random_queries:
            return targets
        shape = (len(targets), self.config.random_queries)
        return torch.cat([targets, targets.new_full(shape, self.config.random_query_target)], dim=1)

"""Augment the queries in training, following section 3.3 of the paper.

Let q_k be the unit word vectors of a step's K labels, d their dimension and z standard normal; each step draws new
labels and numbers:

=====================  ==========================================================================================
``query_noise`` s      q_k + s z_k / sqrt(d): noise of length about s on a query of length 1. With
                       ``query_noise_unit`` the sum is normalised to length 1, like the queries in tagging
``random_queries`` R   R additional queries r = z / ||z|| of random direction, with target ``random_query_target`` and
                       weight ``random_query_weight`` in the loss. ``random_queries_per=batch`` uses the same R for all
                       images, ``image`` draws R for each. The paper's target is positive (1): it keeps the decoder
                       from rejecting every query that it does not know
``query_dropout`` p    each label is left out of a step with probability p
``labels_per_step`` M  if more than M labels remain, use those on the step's images, then random others; at least
                       ``negative_share`` of the M are others, with ``negative_weight`` in the loss
=====================  ==========================================================================================

The paper gives no magnitudes. Random numbers depend on seed and step only, so all processes of a run draw the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zsl_tagger.training.config import TrainConfig


class QueryAugment:
    """Choose the labels of a step and create its queries."""

    def __init__(self, config: TrainConfig):
        self.config = config

    def labels(self, positives: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
        """Return the labels of a step, int64, ascending.

        Args:
            positives: labels on the step's images, int ``(P,)``.
            count: number of trained labels.
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
        """Return the weight of each chosen label in the loss, float32 ``(K,)``; None if all are 1."""
        if self.config.negative_weight == 1.0:
            return None
        return np.where(np.isin(labels, positives), 1.0, self.config.negative_weight).astype(np.float32)

    def queries(self, vectors: Tensor, seed: tuple[int, ...]) -> Tensor:
        """Return unit word vectors ``(K, word_dim)`` with noise, the same shape."""
        if not self.config.query_noise:
            return vectors
        drawn = np.random.default_rng(seed).standard_normal(vectors.shape, np.float32)
        noisy = vectors + self.config.query_noise / vectors.shape[1] ** 0.5 * torch.from_numpy(drawn).to(vectors)
        return functional.normalize(noisy) if self.config.query_noise_unit else noisy

    def with_random(
        self, queries: Tensor, targets: Tensor, weights: Tensor, seed: tuple[int, ...], image_seed: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the random queries for B images, with their targets and weights in the loss.

        With queries per image, every image gets all N = B R of them and those of other images have weight 0, so that
        the decoder still has one set of queries per batch.

        Args:
            queries: ``(K, word_dim)``.
            targets, weights: ``(B, K)``.
            seed: seed of queries per batch, the same in all processes.
            image_seed: seed of queries per image, different for each process and part of the step.

        Returns:
            queries ``(K + N, word_dim)``; targets and weights ``(B, K + N)``. N is ``random_queries``, or B times that.
        """
        count, images, per_image = self.config.random_queries, len(targets), self.config.random_queries_per == "image"
        if not count:
            return queries, targets, weights
        random = np.random.default_rng(image_seed if per_image else seed)
        drawn = random.standard_normal((images * count if per_image else count, queries.shape[1]), np.float32)
        own = torch.eye(images).repeat_interleave(count, dim=1) if per_image else torch.ones(images, count)  # (B, N)
        queries = torch.cat([queries, functional.normalize(torch.from_numpy(drawn)).to(queries)])  # (K + N, word_dim)
        targets = torch.cat([targets, targets.new_full(own.shape, self.config.random_query_target)], dim=1)
        return queries, targets, torch.cat([weights, self.config.random_query_weight * own.to(weights)], dim=1)

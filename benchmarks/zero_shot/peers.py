"""Define the peer methods on mean tokens: ConSE, ridge (DeViSE), ESZSL and Fast0Tag."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.zero_shot.photos import Split, mean_tokens
from zsl_tagger.words.table import unit_length

Settings = dict[str, float]


Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens (M, L, C), unit vectors (K, word_dim) -> (M, K)


class Standard:
    """Normalise features to unit length, subtract their training mean and divide by a common scale."""

    def __init__(self, features: np.ndarray):
        unit = unit_length(features)
        self.mean = unit.mean(axis=0)
        self.scale = float(np.linalg.norm(unit - self.mean, axis=1).mean())

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (unit_length(features) - self.mean) / self.scale


def ridge_weights(x: np.ndarray, y: np.ndarray, decay: float) -> np.ndarray:
    """Return ``argmin |x w - y|^2 + decay trace(x'x) / C |w|^2``, ``(C, word_dim)``."""
    gram = x.T @ x
    return np.linalg.solve(gram + decay * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=x.dtype), x.T @ y)


def ridge_map(split: Split, settings: Settings) -> tuple[Standard, np.ndarray, np.ndarray]:
    """Fit standardised features to the mean vector of an image's labels: weights ``(C, word_dim)``, intercept."""
    features, targets = split.pooled(settings["mosaics"])
    standard = Standard(features)
    y = unit_length(targets.astype(np.float32) @ split.vectors(split.columns))
    # the features' mean is 0, so the intercept is the mean of the targets
    return standard, ridge_weights(standard(features), y, settings["decay"]), y.mean(axis=0)


def ridge(split: Split, settings: Settings) -> Scorer:
    """Score like DeViSE (Frome et al. 2013) with a closed form: map features to word vectors, cosine."""
    standard, weights, intercept = ridge_map(split, settings)
    return lambda tokens, queries: unit_length(standard(mean_tokens(tokens)) @ weights + intercept) @ queries.T


def eszsl(split: Split, settings: Settings) -> Scorer:
    """Score by ESZSL (Romera-Paredes and Torr 2015): bilinear, targets -1 and 1; cosine beat the product here."""
    features, targets = split.pooled(settings["mosaics"])
    standard, s = Standard(features), split.vectors(split.columns)
    left = ridge_weights(standard(features), (2 * targets.astype(np.float32) - 1) @ s, settings["gamma"])
    weights = left @ np.linalg.inv(s.T @ s + settings["lambda"] * np.eye(s.shape[1], dtype=s.dtype))
    return lambda tokens, queries: unit_length(standard(mean_tokens(tokens)) @ weights) @ queries.T


@lru_cache(maxsize=1)
def classifier(split: Split, mosaics: float, weight_decay: float) -> tuple[Standard, nn.Linear]:
    """Train a softmax over the trained names; an image's labels share the target of 1."""
    features, targets = split.pooled(mosaics)
    standard = Standard(features)
    torch.manual_seed(split.seed)
    x = torch.from_numpy(standard(features))
    y = torch.from_numpy(targets / targets.sum(axis=1, keepdims=True)).float()
    linear = nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(linear.parameters(), 1e-2, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=600)
    for step in range(600):
        rows = torch.from_numpy(np.random.default_rng([split.seed, step]).integers(0, len(x), 256))
        loss = F.cross_entropy(linear(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return standard, linear.requires_grad_(False)


def conse(split: Split, settings: Settings) -> Scorer:
    """Score by ConSE (Norouzi et al. 2014): mean of likely trained names' vectors, weighted by a classifier."""
    standard, linear = classifier(split, settings["mosaics"], settings["weight_decay"])
    vectors = torch.from_numpy(split.vectors(split.columns))

    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        probabilities = linear(torch.from_numpy(standard(mean_tokens(tokens)))).softmax(-1)
        top = probabilities.topk(int(settings["top"]), dim=-1)
        embedded = (top.values[..., None] * vectors[top.indices]).sum(dim=1)  # (M, word_dim)
        return F.normalize(embedded).numpy() @ queries.T

    return score


def fast0tag(split: Split, settings: Settings) -> Scorer:
    """Score by Fast0Tag (Zhang et al. 2016): a direction in word space that ranks true labels first."""
    features, targets = split.pooled(settings["mosaics"])
    standard = Standard(features)
    torch.manual_seed(split.seed)
    x, y = torch.from_numpy(standard(features)).float(), torch.from_numpy(targets)
    vectors = torch.from_numpy(split.vectors(split.columns))
    hidden = int(settings["hidden"])
    network = nn.Sequential(nn.LazyLinear(hidden), nn.ReLU()) if hidden else nn.Sequential()
    network.append(nn.LazyLinear(vectors.shape[1]))
    network(x[:1])  # initialises the lazy layers
    optimizer = torch.optim.AdamW(network.parameters(), settings["lr"], weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["lr"], total_steps=1200)
    for step in range(1200):
        rows = torch.from_numpy(np.random.default_rng([split.seed, step]).integers(0, len(x), 128))
        scores, truth = network(x[rows]) @ vectors.T, y[rows]
        image, label = truth.nonzero(as_tuple=True)
        margin = scores[image, label][:, None] - scores[image]  # (positives, K)
        wrong = ~truth[image]
        loss = (F.softplus(-margin) * wrong).sum() / wrong.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return unit_length(network(torch.from_numpy(standard(mean_tokens(tokens))).float()).numpy()) @ queries.T

    return score

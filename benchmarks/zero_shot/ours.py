"""Define the decoders: the released recipe, grouped word queries, and our local cosines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zero_shot.peers import Scorer, Settings, Standard, classifier, ridge_map
from benchmarks.zero_shot.photos import Split, draw_evenly
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.training.losses import asymmetric_loss
from zsl_tagger.words.table import unit_length

#: Default settings of the local cosine.
LOCAL: Settings = {"mosaics": 0.0, "decay": 20.0, "weight_decay": 1.0, "sharpness": 60.0}
WIDTH = 128  # width of the decoders; twice that in the feed-forward layer


class ClassReading(nn.Module):
    """Map features like ConSE: the mean of trained names' vectors, weighted by squared probability."""

    vectors: Tensor

    def __init__(self, linear: nn.Linear, vectors: np.ndarray):
        super().__init__()
        self.linear = linear
        self.register_buffer("vectors", torch.from_numpy(vectors))

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(..., C)`` to ``(..., word_dim)``."""
        return (2 * self.linear(features)).softmax(-1) @ self.vectors


class LocalCosine(nn.Module):
    """Similarity of a word to the most similar positions of an image, averaged over frozen ``readers``.

    For reader r and token x_l: ``s_lk = cos(r(x_l), q_k)``, pooled as ``log(mean_l exp(t s_lk)) / t``, which is between
    the mean over tokens (t -> 0) and the maximum (t -> infinity).
    """

    def __init__(self, readers: list[nn.Module], sharpness: float):
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.sharpness = sharpness

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Return scores ``(B, K)`` of standardised tokens ``(B, L, C)`` and queries ``(K, word_dim)``."""
        return torch.stack([self.pooled(reader(tokens), queries) for reader in self.readers]).mean(dim=0)

    def pooled(self, embedded: Tensor, queries: Tensor) -> Tensor:
        """Return scores ``(B, K)`` of embedded tokens ``(B, L, word_dim)``."""
        cosines = F.normalize(embedded, dim=-1) @ F.normalize(queries, dim=-1).T  # (B, L, K)
        return ((self.sharpness * cosines).logsumexp(dim=1) - math.log(embedded.shape[1])) / self.sharpness


def fitted_local_cosine(split: Split, settings: Settings) -> tuple[Standard, LocalCosine]:
    """Build with two readers fitted to mean tokens: a ridge regression and, if its weight is not 0, a classifier."""
    standard, weights, intercept = ridge_map(split, settings)
    ridge_reader = nn.Linear(*weights.shape).requires_grad_(False)
    ridge_reader.weight.data, ridge_reader.bias.data = torch.from_numpy(weights.T.copy()), torch.from_numpy(intercept)
    readers: list[nn.Module] = [ridge_reader]
    if settings["weight_decay"]:
        linear = classifier(split, settings["mosaics"], settings["weight_decay"])[1]
        readers.append(ClassReading(linear, split.vectors(split.columns)))
    return standard, LocalCosine(readers, settings["sharpness"])


class Tagger(nn.Module):
    """``logit = ML-Decoder(x, q) + exp(a) (LocalCosine(x, q) - c)``, a and c trained; or ML-Decoder as it is."""

    def __init__(self, channels: int, word_dim: int, local: LocalCosine | None, scale: float):
        super().__init__()
        self.head = MLDecoder(channels, word_dim=word_dim, dim=WIDTH, ffn_dim=2 * WIDTH, dropout=0.0)
        nn.init.constant_(self.head.bias, -3.0)  # most labels are false
        self.local = local
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale or 1.0)))
        self.centre = nn.Parameter(torch.tensor(0.3))

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        # layers expect channels with a mean square of about 1
        logits = self.head(tokens * tokens.shape[-1] ** 0.5, queries)
        if self.local is None:
            return logits
        return logits + self.log_scale.exp() * (self.local(tokens, queries) - self.centre)


class GroupedWords(nn.Module):
    """Group decoding with word queries: the decoder gets G queries for any number of labels.

    They are the centres of G clusters of the trained names' vectors. A label belongs to the nearest one, g(k), and its
    weights over that group's state s_g are made of its vector: ``logit_k = s_g(k) . (U q_k) / 4 + b``, U trained, where
    the closed set of the paper (section 3.2) has free weights for each class.
    """

    centres: Tensor

    def __init__(self, channels: int, names: np.ndarray, groups: int):
        super().__init__()
        centres = KMeans(groups, n_init=4, random_state=0).fit(names).cluster_centers_
        self.register_buffer("centres", torch.from_numpy(unit_length(centres)).float())
        self.head = MLDecoder(channels, word_dim=names.shape[1], dim=WIDTH, ffn_dim=2 * WIDTH, dropout=0.0)
        self.label_weights = nn.Linear(names.shape[1], WIDTH)
        self.bias = nn.Parameter(torch.tensor(-3.0))  # most labels are false

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        embedded = self.head.embed_tokens(tokens * tokens.shape[-1] ** 0.5)  # (B, L, D)
        asked, layer = self.head.prepare(self.centres), self.head.layer
        states = layer(asked.states, asked.projected, layer.attention.read(embedded))  # (B, G, D)
        group = (F.normalize(queries) @ self.centres.T).argmax(dim=1)  # (K,)
        return torch.einsum("bkd,kd->bk", states[:, group], self.label_weights(queries)) / 4 + self.bias


def on_tokens(model: nn.Module, standard: Standard) -> Scorer:
    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        asked, rows = torch.from_numpy(queries), []
        for start in range(0, len(tokens), 64):
            x = torch.from_numpy(standard(tokens[start : start + 64].astype(np.float32)))  # (64, L, C)
            rows.append(model(x, asked).numpy())
        return np.concatenate(rows)

    return score


def local_cosine(split: Split, settings: Settings) -> Scorer:
    """Return the local cosine alone; its readers are frozen, so there is nothing to train."""
    standard, local = fitted_local_cosine(split, LOCAL | settings)
    return on_tokens(local, standard)


@dataclass(frozen=True)
class Recipe:
    """Settings of a decoder; the defaults are the released ML-Decoder recipe at our size and length."""

    lr: float = 1e-3
    steps: int = 300
    batch: int = 32
    keep_tokens: int = 32
    labels: int = 128  # labels per step, to save time; the released recipe uses all
    gamma_neg: float = 4.0
    clip: float = 0.05
    noise: float = 0.0
    scale: float = 0.0  # initial scale of the local cosine; 0: none
    groups: int = 0  # groups of word queries; 0: one query per label
    focal_gradient: bool = False  # whether the focal weight is also differentiated


def decoder(split: Split, settings: Settings) -> Scorer:
    """Train a tagger on photos and fresh mosaics, and score with it."""
    recipe = Recipe(**{name: type(getattr(Recipe, name))(value) for name, value in settings.items()})
    vectors = torch.from_numpy(split.vectors(split.columns))
    standard, local = fitted_local_cosine(split, LOCAL) if recipe.scale else (Standard(split.pooled(0.0)[0]), None)
    torch.manual_seed(split.seed)
    channels = standard.mean.shape[0]
    if recipe.groups:
        model: nn.Module = GroupedWords(channels, vectors.numpy(), recipe.groups)
    else:
        model = Tagger(channels, vectors.shape[1], local, recipe.scale)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.2)
    for step in range(recipe.steps):
        random = np.random.default_rng([split.seed, 4, step])
        tokens, truth = training_batch(split, recipe.batch, recipe.keep_tokens, random)
        asked = asked_labels(truth, recipe, random)
        queries, y = with_noise(vectors[asked], recipe, random), torch.from_numpy(truth[:, asked]).float()
        logits = model(torch.from_numpy(standard(tokens)), queries)  # (B, asked)
        loss = asymmetric_loss(
            logits, y, gamma_neg=recipe.gamma_neg, clip=recipe.clip, focal_gradient=recipe.focal_gradient
        ).sum()
        loss = loss * truth.shape[1] / len(asked) / recipe.batch
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return on_tokens(model, standard)


def training_batch(split: Split, count: int, keep: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw half photos, half mosaics: tokens float32 ``(count, keep, C)``, targets bool ``(count, trained)``."""
    photos = split.photos
    parts = np.stack([draw_evenly(photos.label, split.train, count, random) for _ in range(4)], axis=1)  # (B, 4)
    targets = np.zeros((count, len(photos.names)), bool)
    rows = []
    for image in range(count):
        if image % 2:
            tokens = photos.half[parts[image]].reshape(64, -1)  # (4, 16, C) -> (64, C)
            targets[image, photos.label[parts[image]]] = True
        else:
            tokens = photos.full[parts[image, 0]]  # (64, C)
            targets[image, photos.label[parts[image, 0]]] = True
        rows.append(tokens[random.permutation(64)[:keep]])
    return np.stack(rows).astype(np.float32), targets[:, split.columns]


def asked_labels(truth: np.ndarray, recipe: Recipe, random: np.random.Generator) -> np.ndarray:
    """Return the columns of the labels of a step: labels on its images, then others at random."""
    count = truth.shape[1]
    order = random.permutation(count)
    return order[np.argsort(~np.asarray(truth.any(axis=0))[order], kind="stable")][: recipe.labels]


def with_noise(queries: Tensor, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """Augment queries with noise of length about ``noise``."""
    drawn = torch.from_numpy(random.standard_normal(tuple(queries.shape), np.float32))
    return queries + recipe.noise / queries.shape[1] ** 0.5 * drawn

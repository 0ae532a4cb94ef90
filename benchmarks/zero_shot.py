"""Zero-shot accuracy of the project's method and of its peers, on the same frozen features, vectors and splits.

    python -m benchmarks.zero_shot --photos DIR --wordnet DIR --work WORK

Photos: Caltech-101 (``caltech101/<class>/*.jpg``) and one for each ImageNet class (``imagenet1k/<wnid>_<name>.jpg``),
and 2x2 mosaics of them, which have several labels. Backbone: EfficientNet-Lite0 at 256 px, frozen; its own ImageNet
training has seen most of these names, as is usual in zero-shot learning. Its classifier is not used. Word vectors: the
packaged ones.

For each of five seeds a quarter of the names is unseen, another quarter each. Names of one WordNet synset, singular and
plural, one name within another ("flamingo", "flamingo head") and names with a cosine above 0.85 stay on one side. Of
the seen names a tenth is held out of training: it chooses each method's settings (six tries, on seed 0), with mosaics
of its own; nothing is chosen on test. README.md has what else was looked at on validation: more for ours than for the
others.

Test: photos of unseen names, three in ten of Caltech's trained names' photos, and 1,000 mosaics made in pixels, each
with an unseen name, their names drawn evenly. ZSL: images with an unseen name, ranked among the unseen names. GZSL: the
mosaics, trained and unseen names. mAP: mean over the names with positives of scikit-learn's average precision
(protocol "strict"). F1@3 is micro; "names centred" is F1@3 after each name's mean score on 256 training images is taken
off its scores, for every method alike: otherwise names near to everything fill the first places.

Training: names are drawn evenly. Methods on mean tokens see 24,000 images, photos at both sizes or photos and mosaics,
which is one of their settings; decoders see photos and fresh mosaics, half and half, for 300 steps. Training mosaics
are made of features (a mosaic's tokens are its parts' tokens, borders aside).

coco100: 100 COCO photos, 80 names asked, mAP over those with 3 positives; some of these names are seen in training, so
it is no zero-shot figure. Intervals: bootstrap over (seed, name) for mAP and for the gains, which are paired.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_result
from benchmarks.query_augmentation import photo_labels
from benchmarks.tagging_accuracy import LEAST_POSITIVES, read_coco
from zsl_tagger.assets import PACKAGED
from zsl_tagger.evaluation.metrics import average_precision, mean_average_precision, precision_recall_f1_at_k
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.backbone import Backbone, normalization
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import pretrained_backbone
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.system.threads import available_cores, keep_freed_memory, map_in_order
from zsl_tagger.training.losses import asymmetric_loss
from zsl_tagger.words.spelling import plural_forms, singular_forms
from zsl_tagger.words.table import WordTable, unit_length

SEEDS = (0, 1, 2, 3, 4)
UNSEEN, HELD = 0.25, 0.1
NEAR = 0.85  # cosine of names that stay on one side
SIZE, HALF = 256, 128
TEST_MOSAICS, VAL_MOSAICS = 1000, 400
POOLED = 24000  # images that methods on mean tokens see
WIDTH = 128  # of the decoders; twice that in the feed-forward layer
KNOWN = 256  # training images that give each name's usual score
RESAMPLES = 2000

Settings = dict[str, float]
Run = dict[str, list[float]]  # figures of a seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet 3.0 dict folder")
    parser.add_argument("--work", type=Path, required=True, help="features, and the runs that are done")
    parser.add_argument("--part", choices=METHODS, nargs="*", help="run these only, for several processes; no result")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.work.mkdir(parents=True, exist_ok=True)
    photos = Photos(arguments.photos, arguments.wordnet, arguments.work)
    names = arguments.part or list(METHODS)
    tuning = {name: tune(name, photos, arguments.work) for name in names}
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for split in (Split(photos, seed) for seed in SEEDS):
        for name in names:
            runs[name].append(run(name, chosen(tuning[name]), split, arguments.work))
    if arguments.part:
        return
    best = max(names, key=lambda name: max(value for _, value in tuning[name]))
    write_result(
        "zero_shot",
        {
            "seeds": len(SEEDS),
            "photos": len(photos.paths),
            "names": len(photos.names),
            "best on validation": best,
            "methods": {name: summary(name, runs) for name in names},
            "gain of query augmentation": gain(runs["ours"], runs["ours without query augmentation"]),
            "tuning": {
                name: [{"settings": settings, "validation ZSL mAP": round(100 * value, 2)} for settings, value in tried]
                for name, tried in tuning.items()
            },
        },
    )


# --- photos, features, splits ---------------------------------------------------------------------------------


class Photos:
    """All photos with their names, and the features of the frozen backbone, float16, kept on disk."""

    def __init__(self, root: Path, wordnet: Path, work: Path):
        labels = photo_labels(root)
        self.root, self.work = root, work
        self.paths = list(labels)
        self.names = sorted(set(labels.values()))
        column = {name: k for k, name in enumerate(self.names)}
        self.label = np.array([column[name] for name in labels.values()])  # (N,)
        self.vectors = WordTable.load(PACKAGED).vectors(self.names)  # (K, word_dim)
        self.groups = name_groups(labels, self.names, self.vectors, WordNet(wordnet))

    @cached_property
    def backbone(self) -> Backbone:
        return pretrained_backbone("tf_efficientnet_lite0")[0].eval()

    @cached_property
    def full(self) -> np.ndarray:
        """Tokens of the photos at 256 px, ``(N, 64, 1280)``."""
        return self.tokens(
            "full", lambda row: load_array(self.root / self.paths[row], Preprocessing(SIZE)), len(self.paths)
        )

    @cached_property
    def half(self) -> np.ndarray:
        """Tokens of the photos at 128 px, the parts of mosaics, ``(N, 16, 1280)``."""
        return self.tokens(
            "half", lambda row: load_array(self.root / self.paths[row], Preprocessing(HALF)), len(self.paths)
        )

    @cached_property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean tokens at both sizes, float32 ``(N, 1280)`` each."""
        return mean_tokens(self.full), mean_tokens(self.half)

    def tokens(self, name: str, read: Callable[[int], np.ndarray], count: int) -> np.ndarray:
        """Backbone tokens of ``count`` images, memory-mapped; computed where they are not there yet."""
        path = self.work / f"{name}.npy"
        if not path.exists():
            mean, std = (torch.tensor(part) * 255 for part in normalization(self.backbone))
            blocks = []
            with torch.inference_mode():
                pixels = map_in_order(read, range(count), available_cores())
                for start in range(0, count, 16):
                    batch = np.stack([next(pixels) for _ in range(min(16, count - start))])
                    x = ((torch.from_numpy(batch).float() - mean) / std).permute(0, 3, 1, 2)  # (b, 3, S, S)
                    blocks.append(self.backbone(x).half().numpy())  # (b, L, 1280)
            np.save(path, np.concatenate(blocks))
        return np.load(path, mmap_mode="r")

    def mosaics(self, name: str, parts: np.ndarray) -> np.ndarray:
        """Tokens of 2x2 mosaics made in pixels of the photos ``parts`` (M, 4)."""

        def read(row: int) -> np.ndarray:
            a, b, c, d = (load_array(self.root / self.paths[part], Preprocessing(HALF)) for part in parts[row])
            return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])

        return self.tokens(name, read, len(parts))


def mean_tokens(tokens: np.ndarray) -> np.ndarray:
    """``(N, L, C)`` -> float32 ``(N, C)``."""
    return np.concatenate(
        [tokens[start : start + 256].astype(np.float32).mean(axis=1) for start in range(0, len(tokens), 256)]
    )


def name_groups(labels: dict[str, str], names: list[str], vectors: np.ndarray, wordnet: WordNet) -> np.ndarray:
    """A number for each name; names that may not be on two sides have the same."""
    parent = list(range(len(names)))
    column = {name: k for k, name in enumerate(names)}

    def find(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    def join(a: int, b: int) -> None:
        parent[find(a)] = find(b)

    for k, name in enumerate(names):
        for form in (*singular_forms(name), *plural_forms(name)):
            if form in column:
                join(k, column[form])
        words = name.split()
        for n in range(1, len(words)):
            for part in (" ".join(words[:n]), " ".join(words[n:])):
                if part in column:
                    join(k, column[part])
    for path, name in labels.items():  # an ImageNet photo's wnid is the synset of its name
        synset = wordnet.synsets.get(Path(path).name.partition("_")[0])
        for other in synset.names if synset else ():
            if other in column:
                join(column[name], column[other])
    for a, b in np.argwhere(np.triu(vectors @ vectors.T, 1) > NEAR):
        join(int(a), int(b))
    return np.array([find(k) for k in range(len(names))])


class Split:
    """Which names are trained, held out and unseen for a seed, and the images of each part.

    Attributes:
        trained, held, unseen: bool ``(K,)``.
        train: rows of the training photos.
        validation, test: (tokens ``(M, 64, 1280)``, targets bool ``(M, K)``), photos first, then mosaics.
    """

    def __init__(self, photos: Photos, seed: int):
        self.photos, self.seed = photos, seed
        random = np.random.default_rng([seed, 1])
        order = random.permutation(np.unique(photos.groups))
        self.unseen = self._draw(order, UNSEEN * len(photos.names))
        self.held = self._draw(order[::-1], HELD * (~self.unseen).sum())
        self.trained = ~self.unseen & ~self.held
        part = np.array([zlib.crc32(path.encode()) % 10 for path in photos.paths])
        caltech = np.array([path.startswith("caltech101/") for path in photos.paths])
        trained = self.trained[photos.label]
        self.test_rows = np.flatnonzero(self.unseen[photos.label] | (trained & caltech & (part < 3)))
        self.val_rows = np.flatnonzero(self.held[photos.label] | (trained & caltech & (part == 3)))
        self.train = np.flatnonzero(trained & ~(caltech & (part <= 3)))
        self.columns = np.flatnonzero(self.trained)

    def _draw(self, groups: np.ndarray, count: float) -> np.ndarray:
        chosen = np.zeros(len(self.photos.names), bool)
        for group in groups:
            if chosen.sum() >= count:
                break
            chosen |= self.photos.groups == group
        return chosen

    def vectors(self, names: np.ndarray) -> np.ndarray:
        return self.photos.vectors[names]

    @cached_property
    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        return self._images("val", self.val_rows, self.held, VAL_MOSAICS)

    @cached_property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return self._images("test", self.test_rows, self.unseen, TEST_MOSAICS)

    def _images(self, name: str, rows: np.ndarray, wanted: np.ndarray, mosaics: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([self.seed, 2, len(name)])
        first = draw_evenly(self.photos.label, rows[wanted[self.photos.label[rows]]], mosaics, random)
        parts = np.stack([first, *(draw_evenly(self.photos.label, rows, mosaics, random) for _ in range(3))], axis=1)
        made = self.photos.mosaics(f"{name}{self.seed}", parts)
        tokens = np.concatenate([self.photos.full[rows], made])
        targets = np.zeros((len(tokens), len(self.photos.names)), bool)
        targets[np.arange(len(rows)), self.photos.label[rows]] = True
        for part in parts.T:
            targets[np.arange(len(rows), len(tokens)), self.photos.label[part]] = True
        return tokens, targets

    def pooled(self, mosaics: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean tokens ``(POOLED, 1280)``, targets bool ``(POOLED, trained)``, of single photos, half of them at each
        size; or a third whole photos and the rest ``mosaics``."""
        random = np.random.default_rng([self.seed, 3])
        full, half = self.photos.pooled
        whole, parts = (POOLED // 3, 4) if mosaics else (POOLED // 2, 1)
        single = draw_evenly(self.photos.label, self.train, whole, random)
        small = draw_evenly(self.photos.label, self.train, (POOLED - whole) * parts, random).reshape(-1, parts)
        features = np.concatenate([full[single], half[small].mean(axis=1)])
        targets = np.zeros((POOLED, len(self.photos.names)), bool)
        targets[np.arange(whole), self.photos.label[single]] = True
        for part in small.T:
            targets[np.arange(whole, POOLED), self.photos.label[part]] = True
        return features, targets[:, self.columns]


def draw_evenly(label: np.ndarray, rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Photos whose names are drawn evenly."""
    weights = 1 / np.bincount(label[rows], minlength=label.max() + 1)[label[rows]]
    return random.choice(rows, count, p=weights / weights.sum())


# --- the methods: (split, settings) -> a function of tokens and queries -----------------------------------------

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens (M, L, C), unit vectors (K, word_dim) -> (M, K)


class Standard:
    """Features at unit length, less their mean over training images, over one common scale."""

    def __init__(self, features: np.ndarray):
        unit = unit_length(features)
        self.mean = unit.mean(axis=0)
        self.scale = float(np.linalg.norm(unit - self.mean, axis=1).mean())

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (unit_length(features) - self.mean) / self.scale


def ridge_weights(x: np.ndarray, y: np.ndarray, decay: float) -> np.ndarray:
    """``argmin |x w - y|^2 + decay trace(x'x) / C |w|^2``, ``(C, word_dim)``."""
    gram = x.T @ x
    return np.linalg.solve(gram + decay * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=x.dtype), x.T @ y)


def ridge_map(split: Split, settings: Settings) -> tuple[Standard, np.ndarray, np.ndarray]:
    """Standardised features -> the mean vector of an image's labels: weights ``(C, word_dim)`` and intercept."""
    features, targets = split.pooled(settings["mosaics"])
    standard = Standard(features)
    y = unit_length(targets.astype(np.float32) @ split.vectors(split.columns))
    # the features' mean is 0, so the intercept is the mean of the targets
    return standard, ridge_weights(standard(features), y, settings["decay"]), y.mean(axis=0)


def ridge(split: Split, settings: Settings) -> Scorer:
    """DeViSE's idea (Frome et al. 2013) with a closed form: features -> the label's word vector, cosine."""
    standard, weights, intercept = ridge_map(split, settings)
    return lambda tokens, queries: unit_length(standard(mean_tokens(tokens)) @ weights + intercept) @ queries.T


def eszsl(split: Split, settings: Settings) -> Scorer:
    """Romera-Paredes and Torr 2015: bilinear, closed form, targets -1 and 1; cosine, which beat the product here."""
    features, targets = split.pooled(settings["mosaics"])
    standard, s = Standard(features), split.vectors(split.columns)
    left = ridge_weights(standard(features), (2 * targets.astype(np.float32) - 1) @ s, settings["gamma"])
    weights = left @ np.linalg.inv(s.T @ s + settings["lambda"] * np.eye(s.shape[1], dtype=s.dtype))
    return lambda tokens, queries: unit_length(standard(mean_tokens(tokens)) @ weights) @ queries.T


@lru_cache(maxsize=1)
def classifier(split: Split, mosaics: float, weight_decay: float) -> tuple[Standard, nn.Linear]:
    """Softmax over the trained names; an image's labels share its 1."""
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
    """Norouzi et al. 2014: mean of the likeliest trained names' vectors, weighted by a softmax classifier."""
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
    """Zhang et al. 2016: features -> a direction in word space along which true labels come first; RankNet loss."""
    features, targets = split.pooled(settings["mosaics"])
    standard = Standard(features)
    torch.manual_seed(split.seed)
    x, y = torch.from_numpy(standard(features)).float(), torch.from_numpy(targets)
    vectors = torch.from_numpy(split.vectors(split.columns))
    hidden = int(settings["hidden"])
    network = nn.Sequential(nn.LazyLinear(hidden), nn.ReLU()) if hidden else nn.Sequential()
    network.append(nn.LazyLinear(vectors.shape[1]))
    network(x[:1])  # gives the lazy layers their width
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


class ClassReading(nn.Module):
    """ConSE's reading of features: the mean of trained names' vectors, weighted by squared probability."""

    vectors: Tensor

    def __init__(self, linear: nn.Linear, vectors: np.ndarray):
        super().__init__()
        self.linear = linear
        self.register_buffer("vectors", torch.from_numpy(vectors))

    def forward(self, features: Tensor) -> Tensor:
        """``(..., C)`` -> ``(..., word_dim)``."""
        return (2 * self.linear(features)).softmax(-1) @ self.vectors


class LocalCosine(nn.Module):
    """How much an image's most alike places look like a word, the mean over ``readers``, which are frozen.

    For reader r and token x_l: ``s_lk = cos(r(x_l), q_k)``, pooled as ``log(mean_l exp(t s_lk)) / t``, which is between
    the mean over tokens (t -> 0) and the maximum (t -> infinity).
    """

    def __init__(self, readers: list[nn.Module], sharpness: float):
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.sharpness = sharpness

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Standardised tokens ``(B, L, C)``, queries ``(K, word_dim)`` -> ``(B, K)``."""
        return torch.stack([self.pooled(reader(tokens), queries) for reader in self.readers]).mean(dim=0)

    def pooled(self, embedded: Tensor, queries: Tensor) -> Tensor:
        """``(B, L, word_dim)`` -> ``(B, K)``."""
        cosines = F.normalize(embedded, dim=-1) @ F.normalize(queries, dim=-1).T  # (B, L, K)
        return ((self.sharpness * cosines).logsumexp(dim=1) - math.log(embedded.shape[1])) / self.sharpness


def fitted_local_cosine(split: Split, settings: Settings) -> tuple[Standard, LocalCosine]:
    """With two readers, both fitted to mean tokens: a ridge regression and, where it has a weight, a classifier."""
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
    """Group decoding with word queries: the decoder is asked G queries whatever the number of labels.

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
    """The local cosine by itself, its readers frozen: there is nothing more to train."""
    standard, local = fitted_local_cosine(split, LOCAL | settings)
    return on_tokens(local, standard)


@dataclass(frozen=True)
class Recipe:
    """What the decoders differ in; the defaults are those of the released ML-Decoder recipe, at our size and length."""

    lr: float = 1e-3
    steps: int = 300
    batch: int = 32
    keep_tokens: int = 32
    labels: int = 128  # asked a step, for time; the released recipe asks all
    gamma_neg: float = 4.0
    clip: float = 0.05
    noise: float = 0.0
    scale: float = 0.0  # that the local cosine starts with; 0: none
    groups: int = 0  # of word queries; 0: a query a label


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
        loss = asymmetric_loss(logits, y, gamma_neg=recipe.gamma_neg, clip=recipe.clip).sum()
        loss = loss * truth.shape[1] / len(asked) / recipe.batch
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return on_tokens(model, standard)


def training_batch(split: Split, count: int, keep: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half photos, half mosaics of features: tokens float32 ``(count, keep, C)``, targets bool ``(count, trained)``."""
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
    """Columns of the labels asked in a step: those on its images, then others at random."""
    count = truth.shape[1]
    order = random.permutation(count)
    return order[np.argsort(~np.asarray(truth.any(axis=0))[order], kind="stable")][: recipe.labels]


def with_noise(queries: Tensor, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """Query augmentation: noise of length about ``noise``."""
    drawn = torch.from_numpy(random.standard_normal(tuple(queries.shape), np.float32))
    return queries + recipe.noise / queries.shape[1] ** 0.5 * drawn


LOCAL: Settings = {"mosaics": 0.0, "decay": 20.0, "weight_decay": 1.0, "sharpness": 60.0}
OURS: Settings = {"gamma_neg": 2.0, "clip": 0.0, "scale": 20.0}

#: Method -> (how, the six settings that are tried).
METHODS: dict[str, tuple[Callable[[Split, Settings], Scorer], list[Settings]]] = {
    "ConSE": (
        conse,
        [{"mosaics": m, "weight_decay": w, "top": t} for m, w, t in (
            (1, 0.3, 100), (1, 1.0, 100), (1, 2.0, 100), (1, 1.0, 50), (1, 1.0, 200), (0, 1.0, 100),
        )],
    ),
    "ridge (DeViSE)": (ridge, [{"mosaics": m, "decay": d} for m in (0, 1) for d in (3.0, 10.0, 30.0)]),
    "ESZSL": (
        eszsl,
        [{"mosaics": m, "gamma": g, "lambda": s} for m, g, s in (
            (0, 10.0, 30.0), (0, 30.0, 30.0), (0, 100.0, 30.0), (0, 30.0, 10.0), (0, 30.0, 100.0), (1, 10.0, 30.0),
        )],
    ),
    "Fast0Tag": (
        fast0tag,
        [{"mosaics": m, "hidden": h, "lr": lr} for m, h, lr in (
            (1, 512, 1e-4), (1, 512, 3e-4), (1, 512, 1e-3), (1, 1024, 3e-4), (1, 0, 3e-4), (0, 512, 3e-4),
        )],
    ),
    "ML-Decoder, released recipe": (
        decoder, [{"lr": lr, "gamma_neg": g} for g in (4.0, 2.0) for lr in (1e-3, 2e-3, 4e-3)],
    ),
    "ML-Decoder, grouped word queries": (
        decoder, [{"lr": lr, "gamma_neg": 2.0, "groups": g} for g in (8, 16, 32) for lr in (2e-3, 4e-3)],
    ),
    "local cosine of the ridge alone": (
        local_cosine,
        [{"weight_decay": 0.0, "decay": d, "sharpness": t} for d in (10.0, 20.0, 40.0) for t in (30.0, 60.0)],
    ),
    "local cosine alone": (
        local_cosine,
        [{}, {"decay": 10.0}, {"decay": 40.0}, {"weight_decay": 0.5}, {"weight_decay": 2.0}, {"sharpness": 30.0}],
    ),
    "ours without query augmentation": (
        decoder,
        [OURS | {"lr": lr, "scale": s} for lr, s in (
            (3e-5, 20.0), (1e-4, 20.0), (3e-4, 20.0), (1e-3, 20.0), (1e-4, 10.0), (1e-4, 40.0),
        )],
    ),
    "ours": (
        decoder,
        [OURS | {"lr": lr, "noise": n} for lr, n in (
            (1e-4, 1.0), (1e-4, 2.0), (1e-4, 4.0), (3e-4, 2.0), (3e-4, 4.0), (3e-4, 8.0),
        )],
    ),
}  # fmt: skip


# --- running, judging, telling ----------------------------------------------------------------------------------


def tune(name: str, photos: Photos, work: Path) -> list[tuple[Settings, float]]:
    """Every setting of a method, with its ZSL mAP on the held-out names of seed 0."""
    method, tried = METHODS[name]
    split, results = Split(photos, SEEDS[0]), []
    for settings in tried:
        path = work / f"tuned-{key(name, settings)}.json"
        if not path.exists():
            began = time.perf_counter()
            tokens, targets = split.validation
            shown = targets[:, split.held].any(axis=1)
            scores = method(split, settings)(tokens[shown], split.vectors(split.held))
            value = mean_average_precision(scores, targets[shown][:, split.held])
            path.write_text(json.dumps(value))
            print(f"{name} {settings}: {100 * value:.2f} ({time.perf_counter() - began:.0f} s)", flush=True)
        results.append((settings, float(json.loads(path.read_text()))))
    return results


def chosen(tried: list[tuple[Settings, float]]) -> Settings:
    return max(tried, key=lambda one: one[1])[0]


def key(name: str, settings: Settings) -> str:
    return f"{zlib.crc32(json.dumps([name, settings]).encode()):08x}"


def run(name: str, settings: Settings, split: Split, work: Path) -> Run:
    """Test figures of one seed, and each unseen name's average precision."""
    path = work / f"run-{split.seed}-{key(name, settings)}.json"
    if not path.exists():
        scorer = METHODS[name][0](split, settings)
        tokens, targets = split.test
        asked, shown = split.trained | split.unseen, targets[:, split.unseen].any(axis=1)
        zsl, truth = scorer(tokens[shown], split.vectors(split.unseen)), targets[shown][:, split.unseen]
        mosaics = slice(-TEST_MOSAICS, None)
        scores, gzsl_truth = scorer(tokens[mosaics], split.vectors(asked)), targets[mosaics][:, asked]
        known = training_batch(split, KNOWN, 64, np.random.default_rng([split.seed, 5]))[0]
        usual = scorer(known, split.vectors(asked)).mean(axis=0)  # (asked,)
        figures = {
            "ZSL precisions": average_precision(zsl, truth).tolist(),
            "ZSL mAP": [mean_average_precision(zsl, truth)],
            "ZSL F1@3": [f1_at_3(zsl, truth)],
            "ZSL F1@3, names centred": [f1_at_3(zsl - usual[split.unseen[asked]], truth)],
            "GZSL mAP": [mean_average_precision(scores, gzsl_truth)],
            "GZSL F1@3": [f1_at_3(scores, gzsl_truth)],
            "GZSL F1@3, names centred": [f1_at_3(scores - usual, gzsl_truth)],
            "coco100 mAP": [coco_map(scorer, split.photos)],
        }
        path.write_text(json.dumps(figures))
        print(f"{name}, seed {split.seed}: ZSL mAP {100 * figures['ZSL mAP'][0]:.2f}", flush=True)
    return json.loads(path.read_text())


def f1_at_3(scores: np.ndarray, targets: np.ndarray) -> float:
    return precision_recall_f1_at_k(scores, targets, 3)[2]


def coco_map(scorer: Scorer, photos: Photos) -> float:
    paths, targets, names = read_coco(photos.root / "coco100")
    tokens = photos.tokens("coco", lambda row: load_array(paths[row], Preprocessing(SIZE)), len(paths))
    enough = targets.sum(axis=0) >= LEAST_POSITIVES
    scores = scorer(tokens, WordTable.load(PACKAGED).vectors(names))
    return mean_average_precision(scores[:, enough], targets[:, enough])


def summary(name: str, runs: dict[str, list[Run]]) -> dict[str, object]:
    """Means over seeds in percent; ZSL mAP with its interval; the gain of ours over this method, paired."""
    own = runs[name]
    figures: dict[str, object] = {
        metric: round(100 * float(np.mean([one[metric][0] for one in own])), 2)
        for metric in own[0]
        if metric != "ZSL precisions"
    }
    precisions = [np.array(one["ZSL precisions"], float) for one in own]
    figures["ZSL mAP_95%"] = spread(precisions)
    figures["ZSL mAP by seed"] = [round(100 * one["ZSL mAP"][0], 2) for one in own]
    if name != "ours":
        figures["gain of ours"], figures["gain of ours_95%"] = gain(runs["ours"], own)
    return figures


def gain(ours: list[Run], other: list[Run]) -> tuple[float, list[float]]:
    """Difference of ZSL mAP in percent, mean over seeds, and its interval; paired by seed and name."""
    gains = [
        np.array(a["ZSL precisions"], float) - np.array(b["ZSL precisions"], float)
        for a, b in zip(ours, other, strict=True)
    ]
    return round(100 * float(np.mean([np.nanmean(one) for one in gains])), 2), spread(gains)


def spread(by_seed: list[np.ndarray]) -> list[float]:
    """The middle 95 % of the mean over seeds, of resamples of seeds and of the names within each."""
    random, means = np.random.default_rng(0), []
    known = [one[np.isfinite(one)] for one in by_seed]
    for _ in range(RESAMPLES):
        drawn = [known[k] for k in random.integers(0, len(known), len(known))]
        means.append(np.mean([one[random.integers(0, len(one), len(one))].mean() for one in drawn]))
    return [round(100 * float(edge), 2) for edge in np.percentile(means, (2.5, 97.5))]


if __name__ == "__main__":
    main()

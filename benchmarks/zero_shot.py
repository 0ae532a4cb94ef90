"""Zero-shot accuracy of the project's method and of its peers, on the same frozen features, vectors and splits.

    python -m benchmarks.zero_shot --photos DIR --wordnet DIR --work WORK

Photos: Caltech-101 (``caltech101/<class>/*.jpg``) and one for each ImageNet class (``imagenet1k/<wnid>_<name>.jpg``),
and 2x2 mosaics of them, which have several labels. Backbone: EfficientNet-Lite0 at 256 px, frozen; its own ImageNet
training has seen most of these names, as is usual in zero-shot learning. Its classifier is not used. Word vectors: the
packaged ones.

For each of five seeds a quarter of the names is unseen, another quarter each. Names of one WordNet synset, singular and
plural, one name within another ("flamingo", "flamingo head") and names with a cosine above 0.85 stay on one side. Of
the seen names a tenth is held out of training: it chooses each method's settings (four or six tries, on seed 0), with
mosaics of its own; nothing is chosen on test.

Test: photos of unseen names, three in ten of Caltech's trained names' photos, and 1,000 mosaics made in pixels, each
with an unseen name, their names drawn evenly. ZSL: images with an unseen name, ranked among the unseen names. GZSL: the
mosaics, trained and unseen names. mAP: mean over the names with positives of scikit-learn's average precision
(protocol "strict"). Training mosaics are made of features (a mosaic's tokens are its parts' tokens, borders aside),
for every method: as many as it asks for.

coco100: 100 COCO photos, 80 names asked, mAP over those with 3 positives; some of these names are seen in training, so
it is no zero-shot figure. Intervals: bootstrap over (seed, name) for mAP and for the gains, which are paired.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_result
from benchmarks.query_augmentation import photo_labels
from benchmarks.tagging_accuracy import LEAST_POSITIVES, read_coco
from zsl_tagger.losses import asymmetric_loss
from zsl_tagger.metrics import average_precision, mean_average_precision, precision_recall_f1_at_k
from zsl_tagger.model.backbone import Backbone, normalization
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import pretrained_backbone
from zsl_tagger.model_folder import PACKAGED
from zsl_tagger.preprocessing import load_array
from zsl_tagger.queries import WordTable, plural_forms, singular_forms, unit_length
from zsl_tagger.recipes.packaged.wordnet import WordNet
from zsl_tagger.threads import available_cores, keep_freed_memory, map_in_order

SEEDS = (0, 1, 2, 3, 4)
UNSEEN, HELD = 0.25, 0.1
NEAR = 0.85  # cosine of names that stay on one side
SIZE, HALF = 256, 128
TEST_MOSAICS, VAL_MOSAICS = 1000, 400
POOLED_MOSAICS = 8000  # that closed-form methods see
RESAMPLES = 2000

Settings = dict[str, float]


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
    runs = {name: [run(name, chosen(tuning[name]), photos, seed, arguments.work) for seed in SEEDS] for name in names}
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
            "methods": {name: summary(name, best, runs) for name in names},
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
        return self.tokens("full", lambda row: load_array(self.root / self.paths[row], SIZE), len(self.paths))

    @cached_property
    def half(self) -> np.ndarray:
        """Tokens of the photos at 128 px, the parts of mosaics, ``(N, 16, 1280)``."""
        return self.tokens("half", lambda row: load_array(self.root / self.paths[row], HALF), len(self.paths))

    @cached_property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean tokens at both sizes, float32 ``(N, 1280)`` each."""
        return mean_tokens(self.full), mean_tokens(self.half)

    def tokens(self, name: str, read: Callable[[int], np.ndarray], count: int) -> np.ndarray:
        """Backbone tokens of ``count`` images, memory-mapped; computed where they are not there yet."""
        path = self.work / f"{name}.npy"
        if not path.exists():
            mean, std = (part * 255 for part in normalization(self.backbone))
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
            a, b, c, d = (load_array(self.root / self.paths[part], HALF) for part in parts[row])
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

    @cached_property
    def pooled_training(self) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 ``(n, 1280)`` and targets bool ``(n, trained)``: photos, then mosaics."""
        random = np.random.default_rng([self.seed, 3])
        full, half = self.photos.pooled
        parts = np.stack([draw_evenly(self.photos.label, self.train, POOLED_MOSAICS, random) for _ in range(4)], 1)
        features = np.concatenate([full[self.train], half[parts].mean(axis=1)])
        targets = np.zeros((len(features), len(self.photos.names)), bool)
        targets[np.arange(len(self.train)), self.photos.label[self.train]] = True
        for part in parts.T:
            targets[np.arange(len(self.train), len(features)), self.photos.label[part]] = True
        return features, targets[:, self.columns]


def draw_evenly(label: np.ndarray, rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Photos whose names are drawn evenly."""
    weights = 1 / np.bincount(label[rows], minlength=label.max() + 1)[label[rows]]
    return random.choice(rows, count, p=weights / weights.sum())


# --- the methods: (split, settings) -> a function of tokens and queries -----------------------------------------

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tokens (M, L, C), unit vectors (K, word_dim) -> (M, K)


class Standard:
    """Features less their mean over training images, over one common scale."""

    def __init__(self, features: np.ndarray):
        self.mean = features.mean(axis=0)
        self.scale = float(np.linalg.norm(features - self.mean, axis=1).mean())

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale


def ridge_weights(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """``argmin |x w - y|^2 + strength n |w|^2 / C``, ``(C, word_dim)``."""
    gram = x.T @ x + strength * len(x) / x.shape[1] * np.eye(x.shape[1], dtype=x.dtype)
    return np.linalg.solve(gram, x.T @ y)


def mean_vectors(targets: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Unit mean vector of each image's labels."""
    return unit_length(targets.astype(np.float32) @ vectors)


def ridge(split: Split, settings: Settings) -> Scorer:
    """DeViSE's idea (Frome et al. 2013) with a closed form: features -> the label's word vector, cosine."""
    features, targets = split.pooled_training
    standard = Standard(features)
    weights = ridge_weights(standard(features), mean_vectors(targets, split.vectors(split.columns)), settings["ridge"])
    return lambda tokens, queries: unit_length(standard(mean_tokens(tokens)) @ weights) @ queries.T


def eszsl(split: Split, settings: Settings) -> Scorer:
    """Romera-Paredes and Torr 2015: bilinear, closed form, targets -1 and 1."""
    features, targets = split.pooled_training
    standard, s = Standard(features), split.vectors(split.columns)
    x = standard(features)
    left = ridge_weights(x, (2.0 * targets - 1).astype(np.float32) @ s, settings["gamma"])
    weights = left @ np.linalg.inv(s.T @ s + settings["lambda"] * np.eye(s.shape[1], dtype=s.dtype))
    return lambda tokens, queries: standard(mean_tokens(tokens)) @ weights @ queries.T


def conse(split: Split, settings: Settings) -> Scorer:
    """Norouzi et al. 2014: mean of the likeliest trained names' vectors, weighted by a softmax classifier."""
    features, targets = split.pooled_training
    standard = Standard(features)
    torch.manual_seed(split.seed)
    x = torch.from_numpy(standard(features)).float()
    y = torch.from_numpy(targets / targets.sum(axis=1, keepdims=True)).float()
    classifier = nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(classifier.parameters(), 1e-2, weight_decay=settings["weight_decay"])
    for step in range(600):
        rows = torch.from_numpy(np.random.default_rng([split.seed, step]).integers(0, len(x), 256))
        loss = F.cross_entropy(classifier(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors = torch.from_numpy(split.vectors(split.columns))

    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        probabilities = classifier(torch.from_numpy(standard(mean_tokens(tokens))).float()).softmax(-1)
        top = probabilities.topk(int(settings["top"]), dim=-1)
        embedded = (top.values[..., None] * vectors[top.indices]).sum(dim=1)  # (M, word_dim)
        return F.normalize(embedded).numpy() @ queries.T

    return score


def fast0tag(split: Split, settings: Settings) -> Scorer:
    """Zhang et al. 2016: features -> a direction in word space along which true labels come first; RankNet loss."""
    features, targets = split.pooled_training
    standard = Standard(features)
    torch.manual_seed(split.seed)
    x, y = torch.from_numpy(standard(features)).float(), torch.from_numpy(targets)
    vectors = torch.from_numpy(split.vectors(split.columns))
    hidden = int(settings["hidden"])
    layers = [nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, vectors.shape[1])] if hidden else [
        nn.Linear(x.shape[1], vectors.shape[1])
    ]  # fmt: skip
    network = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), settings["lr"], weight_decay=1e-2)
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

    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(standard(mean_tokens(tokens))).float()).numpy() @ queries.T

    return score


class CosineBranch(nn.Module):
    """What a ridge regression sees of a query, in the whole image and at its best place.

    With W the ridge weights from features to word vectors and x_l the tokens: c_kl = cos(W x_l, q_k),
    local_k = log mean_l exp(t c_kl) / t, global_k = cos(W mean_l x_l, q_k); it adds a global_k + b local_k + c.
    """

    weights: Tensor

    def __init__(self, weights: np.ndarray, sharpness: float):
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights).float())
        self.sharpness = sharpness
        self.scales = nn.Parameter(torch.tensor([10.0, 10.0]))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Standardised tokens ``(B, L, C)``, queries ``(K, word_dim)`` -> ``(B, K)``."""
        read = tokens @ self.weights  # (B, L, word_dim)
        queries = F.normalize(queries)
        places = F.normalize(read, dim=-1) @ queries.T  # (B, L, K)
        whole = F.normalize(read.mean(dim=1), dim=-1) @ queries.T  # (B, K)
        local = (self.sharpness * places).logsumexp(dim=1) / self.sharpness
        local = local - float(np.log(tokens.shape[1])) / self.sharpness
        return self.scales[0] * whole + self.scales[1] * local + self.bias


class Tagger(nn.Module):
    """ML-Decoder over standardised tokens, with a cosine branch beside it where there is one."""

    def __init__(self, channels: int, word_dim: int, branch: CosineBranch | None, share: float):
        super().__init__()
        self.head = MLDecoder(channels, word_dim=word_dim, dim=256, ffn_dim=512, dropout=0.0)
        nn.init.constant_(self.head.bias, -3.0 if branch is None else 0.0)
        self.branch, self.share = branch, share

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        beside = tokens.new_zeros(()) if self.branch is None else self.branch(tokens, queries)
        return self.share * self.head(tokens, queries) + beside if self.share else beside


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
    mixing: float = 0.0
    branch: float = 0.0  # sharpness of the cosine branch; 0: none
    share: float = 1.0  # of the decoder in the logits
    ridge: float = 1.0


def decoder(split: Split, settings: Settings) -> Scorer:
    """Train a tagger on photos and fresh mosaics, and score with it."""
    recipe = Recipe(**{name: type(getattr(Recipe, name))(value) for name, value in settings.items()})
    torch.manual_seed(split.seed)
    features, targets = split.pooled_training
    standard = Standard(features)
    branch = None
    vectors = torch.from_numpy(split.vectors(split.columns))
    if recipe.branch:
        weights = ridge_weights(standard(features), mean_vectors(targets, vectors.numpy()), recipe.ridge)
        branch = CosineBranch(weights, recipe.branch)
    # the mean over channels of a standardised token's square is about 1, as layers expect
    spread = float(np.sqrt(features.shape[1]))
    model = Tagger(features.shape[1], vectors.shape[1], branch, recipe.share)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.2)
    for step in range(recipe.steps if recipe.share or branch else 0):
        random = np.random.default_rng([split.seed, 4, step])
        tokens, truth = training_batch(split, recipe, random)
        x = torch.from_numpy(standard(tokens)).float() * spread
        asked = asked_labels(truth, recipe, random)
        queries, y = vectors[asked], torch.from_numpy(truth[:, asked]).float()
        queries, y = augmented(queries, y, recipe, random)
        loss = asymmetric_loss(model(x, queries), y, gamma_neg=recipe.gamma_neg, clip=recipe.clip).sum()
        loss = loss * truth.shape[1] / len(asked) / recipe.batch
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    @torch.inference_mode()
    def score(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        asked, rows = torch.from_numpy(queries), []
        for start in range(0, len(tokens), 64):
            x = torch.from_numpy(standard(tokens[start : start + 64].astype(np.float32))).float() * spread
            rows.append(model(x, asked).numpy())
        return np.concatenate(rows)

    return score


def training_batch(split: Split, recipe: Recipe, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half photos, half mosaics of features: tokens float32 ``(B, keep_tokens, C)``, targets bool ``(B, trained)``."""
    photos, count = split.photos, recipe.batch
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
        rows.append(tokens[random.permutation(64)[: recipe.keep_tokens]])
    return np.stack(rows).astype(np.float32), targets[:, split.columns]


def asked_labels(truth: np.ndarray, recipe: Recipe, random: np.random.Generator) -> np.ndarray:
    """Columns of the labels asked in a step: those on its images, then others at random."""
    count = truth.shape[1]
    order = random.permutation(count)
    return order[np.argsort(~np.asarray(truth.any(axis=0))[order], kind="stable")][: recipe.labels]


def augmented(queries: Tensor, targets: Tensor, recipe: Recipe, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Query augmentation: noise of length ``noise``; ``mixing``: a share of the queries mixed with another's, and so
    the targets."""
    if recipe.mixing:
        other = torch.from_numpy(random.permutation(len(queries)))
        some = torch.from_numpy((random.random(len(queries)) < recipe.mixing).astype(np.float32))
        weight = torch.from_numpy(random.beta(0.4, 0.4, len(queries)).astype(np.float32)) * some
        queries = F.normalize((1 - weight)[:, None] * queries + weight[:, None] * queries[other])
        targets = (1 - weight) * targets + weight * targets[:, other]
    if recipe.noise:
        drawn = torch.from_numpy(random.standard_normal(tuple(queries.shape), np.float32))
        queries = queries + recipe.noise / queries.shape[1] ** 0.5 * drawn
    return queries, targets


OURS: Settings = {"gamma_neg": 2.0, "clip": 0.0, "branch": 20.0}

#: Method -> (how, the settings that are tried).
METHODS: dict[str, tuple[Callable[[Split, Settings], Scorer], list[Settings]]] = {
    "ConSE": (conse, [{"weight_decay": w, "top": t} for w in (0.01, 0.3) for t in (5, 10, 50)]),
    "ridge (DeViSE)": (ridge, [{"ridge": r} for r in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)]),
    "ESZSL": (eszsl, [{"gamma": g, "lambda": m} for g in (0.3, 3.0, 30.0) for m in (0.1, 3.0)]),
    "Fast0Tag": (fast0tag, [{"hidden": h, "lr": lr} for h in (0, 1024) for lr in (3e-4, 1e-3, 3e-3)]),
    "ML-Decoder, released recipe": (
        decoder, [{"lr": lr, "gamma_neg": g} for lr in (3e-4, 1e-3) for g in (4.0, 2.0)],
    ),
    "cosine branch alone": (
        decoder,
        [OURS | {"lr": 1e-2, "share": 0.0, "branch": t, "ridge": 3.0} for t in (10.0, 20.0, 40.0, 80.0)],
    ),
    "ours without query augmentation": (
        decoder,
        [OURS | {"lr": 1e-3, "share": s, "branch": t, "ridge": 3.0} for s, t in (
            (1.0, 20.0), (0.3, 20.0), (0.3, 40.0),
        )],
    ),
    "ours": (
        decoder,
        [OURS | {"lr": 1e-3, "share": s, "ridge": 3.0, "noise": n, "mixing": m} for s, n, m in (
            (0.3, 0.3, 0.0), (0.3, 0.7, 0.0), (0.3, 0.7, 0.5), (1.0, 0.7, 0.0),
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


def run(name: str, settings: Settings, photos: Photos, seed: int, work: Path) -> dict[str, list[float]]:
    """Test figures of one seed, and each unseen name's average precision."""
    path = work / f"run-{seed}-{key(name, settings)}.json"
    if not path.exists():
        split = Split(photos, seed)
        scorer = METHODS[name][0](split, settings)
        tokens, targets = split.test
        asked, shown = split.trained | split.unseen, targets[:, split.unseen].any(axis=1)
        zsl, truth = scorer(tokens[shown], split.vectors(split.unseen)), targets[shown][:, split.unseen]
        mosaics = slice(-TEST_MOSAICS, None)
        scores = scorer(tokens[mosaics], split.vectors(asked))
        figures = {
            "ZSL precisions": average_precision(zsl, truth).tolist(),
            "ZSL mAP": [mean_average_precision(zsl, truth)],
            "ZSL F1@3": [precision_recall_f1_at_k(zsl, truth, 3)[2]],
            "GZSL mAP": [mean_average_precision(scores, targets[mosaics][:, asked])],
            "GZSL F1@3": [precision_recall_f1_at_k(scores, targets[mosaics][:, asked], 3)[2]],
            "coco100 mAP": [coco_map(scorer, photos)],
        }
        path.write_text(json.dumps(figures))
        print(f"{name}, seed {seed}: ZSL mAP {100 * figures['ZSL mAP'][0]:.2f}", flush=True)
    return json.loads(path.read_text())


def coco_map(scorer: Scorer, photos: Photos) -> float:
    paths, targets, names = read_coco(photos.root / "coco100")
    tokens = photos.tokens("coco", lambda row: load_array(paths[row], SIZE), len(paths))
    enough = targets.sum(axis=0) >= LEAST_POSITIVES
    scores = scorer(tokens, WordTable.load(PACKAGED).vectors(names))
    return mean_average_precision(scores[:, enough], targets[:, enough])


def summary(name: str, best: str, runs: dict[str, list[dict[str, list[float]]]]) -> dict[str, object]:
    """Means over seeds in percent; ZSL mAP with its interval; the gain of the ``best`` over this method, paired."""
    own = runs[name]
    figures: dict[str, object] = {
        metric: round(100 * float(np.mean([one[metric][0] for one in own])), 2)
        for metric in own[0]
        if metric != "ZSL precisions"
    }
    precisions = [np.array(one["ZSL precisions"], float) for one in own]
    figures["ZSL mAP_95%"] = spread(precisions)
    figures["ZSL mAP by seed"] = [round(100 * one["ZSL mAP"][0], 2) for one in own]
    if name != best:
        figures["gain of the best"], figures["gain of the best_95%"] = gain(runs[best], own)
    return figures


def gain(ours: list[dict[str, list[float]]], other: list[dict[str, list[float]]]) -> tuple[float, list[float]]:
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

"""Read the photos, cache their features, and split their names into seen, held-out and unseen ones."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from zsl_tagger.assets import PACKAGED
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.backbone import Backbone, normalization
from zsl_tagger.model.pretrained import pretrained_backbone
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.words.spelling import plural_forms, singular_forms
from zsl_tagger.words.table import WordTable

UNSEEN, HELD = 0.25, 0.1


NEAR = 0.85  # cosine of names that stay on one side


POOLED = 24000  # images that methods on mean tokens see
SIZE, HALF = 256, 128


TEST_MOSAICS, VAL_MOSAICS = 1000, 400


def photo_labels(photos: Path) -> dict[str, str]:
    """Return {photo: its class name as spelled in the packaged words}; unknown names are left out."""
    table = WordTable.load(PACKAGED)
    names = {path: path.stem.partition("_")[2] for path in (photos / "imagenet1k").glob("*.jpg")}
    names |= {path: path.parent.name for path in (photos / "caltech101").glob("*/*.jpg")}
    found = {path: table.resolve(name.replace("_", " ")) for path, name in sorted(names.items())}
    return {path.relative_to(photos).as_posix(): word.key for path, word in found.items() if word}


class Photos:
    """All photos with their names and float16 features of the frozen backbone, cached on disk."""

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
        """Return tokens of the photos at 256 px, ``(N, 64, 1280)``."""
        return self.tokens(
            "full", lambda row: load_array(self.root / self.paths[row], Preprocessing(SIZE)), len(self.paths)
        )

    @cached_property
    def half(self) -> np.ndarray:
        """Return tokens of the photos at 128 px, the parts of mosaics, ``(N, 16, 1280)``."""
        return self.tokens(
            "half", lambda row: load_array(self.root / self.paths[row], Preprocessing(HALF)), len(self.paths)
        )

    @cached_property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean tokens at both sizes, float32 ``(N, 1280)`` each."""
        return mean_tokens(self.full), mean_tokens(self.half)

    def tokens(self, name: str, read: Callable[[int], np.ndarray], count: int) -> np.ndarray:
        """Return backbone tokens of ``count`` images, memory-mapped; computed if not cached."""
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
        """Return tokens of 2x2 pixel mosaics of the photos ``parts`` (M, 4)."""

        def read(row: int) -> np.ndarray:
            a, b, c, d = (load_array(self.root / self.paths[part], Preprocessing(HALF)) for part in parts[row])
            return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])

        return self.tokens(name, read, len(parts))


def mean_tokens(tokens: np.ndarray) -> np.ndarray:
    """Return the mean over tokens ``(N, L, C)``, float32 ``(N, C)``."""
    return np.concatenate(
        [tokens[start : start + 256].astype(np.float32).mean(axis=1) for start in range(0, len(tokens), 256)]
    )


def name_groups(labels: dict[str, str], names: list[str], vectors: np.ndarray, wordnet: WordNet) -> np.ndarray:
    """Return a number for each name; names that must stay on one side have the same number."""
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
    """Choose the trained, held-out and unseen names of a seed, and the images of each part.

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
    """Draw photos with evenly distributed names."""
    weights = 1 / np.bincount(label[rows], minlength=label.max() + 1)[label[rows]]
    return random.choice(rows, count, p=weights / weights.sum())

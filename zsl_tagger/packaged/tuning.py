"""Train the last blocks of the packaged model's backbone together with its head.

The earlier blocks do not change, so their feature map of each photo is computed only once. The maps of the photos in a
mosaic are placed side by side like the photos, and the trained blocks see across the borders.

Class evidence and class readings come from the backbone's own classifier, whose input changes with the trained blocks.
So the loss also keeps its probabilities close to those of the original backbone (learning without forgetting, Li and
Hoiem 2016, arXiv 1606.09282).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged.settings import CLASS_WEIGHT, TRAINED_BLOCKS
from zsl_tagger.training.data import LoadedPart, Part, photos_of
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.trainer import StepLabels, Trainer


class TunedTagger(TaggerModel):
    """Tagger whose "backbone tokens" are the feature map before the trained blocks, ``(B, h * w, C)``.

    Its other methods take these tokens and run the trained blocks first.

    Args:
        model: model whose parts are used; training changes them.
        dropped: share of tokens to drop in training, 0..1.

    Attributes:
        embedded_last: all backbone tokens ``(B, L, C)`` of the last call of :meth:`embed`, for the loss on class
            probabilities.
    """

    embedded_last: Tensor

    def __init__(self, model: TaggerModel, dropped: float):
        super().__init__(model.backbone, model.head, model.reading, model.class_evidence)
        self.normalize_by(*model.normalization)
        self.dropped = dropped
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        for part in trained_parts(self.backbone):
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> TunedTagger:
        super().train(mode)
        self.backbone.eval()  # keep the batch-norm statistics of ImageNet
        return self

    def backbone_tokens(self, images: Tensor) -> Tensor:
        network = self.backbone.network
        x = network.bn1(network.conv_stem(self.normalize(images)))
        for block in network.blocks[:-TRAINED_BLOCKS]:
            x = block(x)
        return x.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h * w, C)

    def tokens(self, maps: Tensor) -> Tensor:
        """Run the trained blocks on square maps ``(B, h * w, C)``; return the backbone's tokens ``(B, L, C)``."""
        side = math.isqrt(maps.shape[1])
        x = maps.transpose(1, 2).unflatten(2, (side, side))  # (B, h * w, C) -> (B, C, h, w)
        for block in self.backbone.network.blocks[-TRAINED_BLOCKS:]:
            x = block(x)
        x = self.backbone.network.bn2(self.backbone.network.conv_head(x))
        return self.backbone.tokens(x)  # (B, C, h, w) -> (B, L, C)

    def embed(self, tokens: Tensor) -> Tensor:
        tokens = self.tokens(tokens)
        self.embedded_last = tokens
        if self.training and self.dropped:
            kept = torch.randperm(tokens.shape[1])[: max(1, round((1 - self.dropped) * tokens.shape[1]))]
            tokens = tokens[:, kept]  # (B, L, C) -> (B, kept, C)
        return super().embed(tokens)

    def classes(self, tokens: Tensor) -> Tensor:
        return super().classes(self.tokens(tokens))

    def round_trained(self) -> None:
        """Round the trained blocks to float16, the precision in which they are stored."""
        for part in trained_parts(self.backbone):
            for value in part.parameters():
                value.data = value.data.half().float()

    def plain(self) -> TaggerModel:
        """Return an ordinary tagger with the same parts."""
        model = TaggerModel(self.backbone, self.head, self.reading, self.class_evidence)
        model.normalize_by(*self.normalization)
        return model.eval()


def has_trained_parts(backbone: Backbone) -> bool:
    """Return whether the network has the structure of timm's EfficientNets, so that its last blocks can be trained."""
    return all(hasattr(backbone.network, part) for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"))


def trained_parts(backbone: Backbone) -> list[torch.nn.Module]:
    """Return the trained parts: the last blocks and the layers after them."""
    network = backbone.network
    return [*network.blocks[-TRAINED_BLOCKS:], network.conv_head, network.bn2]


class MapCache(FeatureCache):
    """Cache of the feature maps before the trained blocks; maps of a mosaic are placed side by side."""

    def _tokens_of(self, image: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return the map of a photo, or of a mosaic, float16 ``(h * w, C)``."""
        photos = photos_of(image)
        pairs = zip(photos.tolist(), np.atleast_1d(views).tolist(), strict=False)  # a mosaic's row is padded with -1
        maps = [self.features(row, view, len(photos)) for row, view in pairs]  # (side * side, C) each
        side, across = math.isqrt(len(maps[0])), math.isqrt(len(photos))
        squares = np.stack(maps).reshape(across, across, side, side, -1)  # (row, column, y, x, C)
        tiled = squares.transpose(0, 2, 1, 3, 4)  # (row, y, column, x, C)
        return tiled.reshape(len(photos) * side * side, -1)

    def _drop_tokens(self, images: list[np.ndarray], part: Part) -> list[np.ndarray]:  # noqa: ARG002
        """Return the complete maps, because tokens are dropped after the trained blocks."""
        return images


class TuningTrainer(Trainer):
    """Trainer of a :class:`TunedTagger` that preserves the class probabilities of the original backbone.

    Attributes:
        classes_before: original class probabilities of all photos, ``(N, 1000)``.
    """

    model: TunedTagger
    classes_before: np.ndarray

    def _loss(self, part: LoadedPart, chosen: StepLabels, turn: int) -> Tensor:
        loss = super()._loss(part, chosen, turn)
        single = [place for place, row in enumerate(part.rows) if len(photos_of(row)) == 1]
        if not single:
            return loss
        now = TaggerModel.classes(self.model, self.model.embedded_last[single].float())  # (b, 1000)
        rows = [int(photos_of(part.rows[place])[0]) for place in single]
        before = torch.from_numpy(self.classes_before[rows]).to(now.device)
        return loss + CLASS_WEIGHT * class_divergence(now, before)


def class_divergence(now: Tensor, before: Tensor) -> Tensor:
    """Return the sum of the binary Kullback-Leibler divergences between class probabilities, both ``(B, N)``."""
    now, before = now.clamp(1e-6, 1 - 1e-6), before.clamp(1e-6, 1 - 1e-6)
    return F.binary_cross_entropy(now, before, reduction="sum") - F.binary_cross_entropy(
        before, before, reduction="sum"
    )

"""Backbone and head: encode an image once, then score any labels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsl_tagger.model.backbone import RGB, Backbone, normalization
from zsl_tagger.model.class_evidence import class_probabilities
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.grouped_words import GroupedLabels, GroupedWords
from zsl_tagger.model.heads import Head
from zsl_tagger.model.ml_decoder import PreparedQueries


class TaggerModel(nn.Module):
    """Model from images to embedded tokens to logits.

    Args:
        backbone: images to tokens ``(B, L, C)``.
        head: head on C channels, or C + word_dim with a reading.
        reading: adds the classifier's reading to each token; optional.
        class_evidence: also return the backbone's class probabilities (:mod:`.class_evidence`).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: Head, reading: ClassReading | None = None, class_evidence: bool = False
    ):
        super().__init__()
        self.backbone, self.reading, self.class_evidence = backbone, reading, class_evidence
        self.head: Any = head  # word heads score tokens and queries, closed-set heads score tokens alone
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("std", torch.ones(3), persistent=False)
        self.normalize_by(*normalization(backbone))

    def normalize_by(self, mean: RGB, std: RGB) -> None:
        """Set the mean and standard deviation of RGB values in 0..1; the default is the backbone's."""
        self.normalization = mean, std
        self.mean.copy_(torch.tensor(mean) * 255)
        self.std.copy_(torch.tensor(std) * 255)

    def encode(self, images: Tensor) -> Tensor:
        """Return embedded tokens ``(B, L, D)`` of RGB images, uint8 ``(B, S, S, 3)``."""
        return self.embed(self.backbone_tokens(images))

    def backbone_tokens(self, images: Tensor) -> Tensor:
        """Return backbone tokens ``(B, L, C)`` of RGB images, uint8 ``(B, S, S, 3)``."""
        return self.backbone(self.normalize(images))

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images for the backbone: uint8 ``(B, S, S, 3)``, RGB -> float ``(B, 3, S, S)``."""
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed backbone tokens: ``(B, L, C)`` -> ``(B, L, D)``."""
        return self.head.embed_tokens(tokens if self.reading is None else self.reading(tokens))

    def classes(self, tokens: Tensor) -> Tensor:
        """Return the probabilities of the backbone's N classes, ``(B, N)``, from backbone tokens ``(B, L, C)``."""
        return class_probabilities(tokens, self.backbone.network.get_classifier())

    def score(self, tokens: Tensor, queries: Tensor | None = None) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, L, D)`` and word vectors ``(K, word_dim)``."""
        return self.head.score(tokens, queries)

    def forward(self, images: Tensor, queries: Tensor | None = None) -> Tensor:
        return self.score(self.encode(images), queries)


def softmax_log_odds(logits: Tensor) -> Tensor:
    """Convert softmax logits ``(B, K)`` to logits whose sigmoid is the same probability, at most 80."""
    best = torch.arange(logits.shape[1], device=logits.device) == logits.argmax(-1, keepdim=True)  # (B, K)
    # p of the best class may be so close to 1 that 1 - p underflows, so 1 - p is summed over the others.
    of_best = logits - logits.masked_fill(best, float("-inf")).logsumexp(-1, keepdim=True)
    log_p = logits.log_softmax(-1)  # at most log(1/2) of any other class
    of_others = log_p - torch.log1p(-log_p.exp().clamp(max=0.5))
    return torch.where(best, of_best, of_others).clamp(max=80)


class EncoderForExport(nn.Module):
    """Network of ``encoder.onnx``: images -> embedded tokens, and class probabilities with class evidence."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode uint8 ``(B, S, S, 3)`` to ``(B, L, D)``, or to ``(B, L, D)`` and ``(B, N)``."""
        tokens = self.model.backbone_tokens(images)  # (B, L, C)
        embedded = self.model.embed(tokens)  # (B, L, D)
        return (embedded, self.model.classes(tokens)) if self.model.class_evidence else embedded


class BackboneForExport(nn.Module):
    """Network from images to backbone tokens, which training runs once if the backbone is frozen."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.backbone_tokens(images)


class QueriesForExport(nn.Module):
    """Network of ``queries.onnx``: word vectors -> the image-independent part, once per label set."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.head = model.head

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return states and projected queries of :class:`PreparedQueries`, ``(K, D)`` each, from ``(K, word_dim)``.

        With groups of words: states and groups of :class:`GroupedLabels`.
        """
        prepared = self.head.prepare(queries)
        return prepared[0], prepared[1]


class PreparedDecoderForExport(nn.Module):
    """Network of ``decoder.onnx`` with word queries: tokens, prepared queries -> logits, attention."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.head = model.head

    def forward(self, tokens: Tensor, states: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(B, K)`` and attention ``(B, K, L)`` of tokens and :class:`QueriesForExport`."""
        if isinstance(self.head, GroupedWords):
            return self.head.score_with_attention(tokens, GroupedLabels(states, projected))
        return self.head.score_with_attention(tokens, PreparedQueries(states, projected, ()))


class PredictionForExport(nn.Module):
    """Network of ``prefilter.onnx``: what the attention returns, times slopes (:mod:`zsl_tagger.tagging.prefilter`).

    Args:
        model: a model with square images and an MLDecoder with word queries as its head.
    """

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.attention = model.head.layer.attention

    def averaged(self, tokens: Tensor) -> Tensor:
        """Average tokens ``(B, L, D)`` over 2 x 2 places, ``(B, P, D)``."""
        side = math.isqrt(tokens.shape[1])
        places = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, D, S, S)
        return F.avg_pool2d(places, 2, ceil_mode=True).flatten(2).transpose(1, 2)  # (B, P, D)

    def values(self, averaged: Tensor, projected: Tensor) -> Tensor:
        """Return what the attention returns for averaged tokens and queries ``(K, D)``, before its projection."""
        return self.attention.mix(projected, *self.attention.read(averaged))[0]  # (B, K, D)

    def forward(self, tokens: Tensor, projected: Tensor, slopes: Tensor) -> Tensor:
        """Return the values, times ``slopes`` ``(K, D)``: ``(B, K)``."""
        return (self.values(self.averaged(tokens), projected) * slopes).sum(-1)


class DecoderForExport(nn.Module):
    """Network of ``decoder.onnx`` (closed set) and ``decoder.pt2`` (any model): tokens, queries -> logits, attention.

    Args:
        softmax: the closed set was trained with cross entropy: return the log-odds of the softmax as logits, so that
            their sigmoid is the class probability.
    """

    def __init__(self, model: TaggerModel, softmax: bool = False):
        super().__init__()
        self.head, self.softmax = model.head, softmax

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits for word vectors ``(K, word_dim)``, or for numbers of classes, int64 ``(K,)``."""
        if isinstance(self.head, GroupedWords) or self.head.num_classes is None:
            return self.head.score_with_attention(tokens, queries)
        logits, attention = self.head.score_with_attention(tokens)  # (B, all classes), (B, G, L)
        if self.softmax:
            logits = softmax_log_odds(logits)
        return logits[:, queries], attention[:, self.head.query_of(queries)]  # (B, K), (B, K, L)

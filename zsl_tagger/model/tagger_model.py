"""Backbone + head: encode an image once, then ask any labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zsl_tagger.model.backbone import RGB, Backbone, normalization
from zsl_tagger.model.class_evidence import class_probabilities
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.grouped_words import GroupedLabels, GroupedWords
from zsl_tagger.model.heads import Head
from zsl_tagger.model.ml_decoder import PreparedQueries


class TaggerModel(nn.Module):
    """Images -> embedded tokens -> logits. Its parts are passed in.

    Args:
        backbone: images to tokens ``(B, L, C)``.
        head: in channels C, or C + word_dim where a reading is given.
        reading: adds to each token what the backbone's classifier reads there; optional.
        class_evidence: the encoder gives the backbone's class probabilities too (:mod:`.class_evidence`).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: Head, reading: ClassReading | None = None, class_evidence: bool = False
    ):
        super().__init__()
        self.backbone, self.reading, self.class_evidence = backbone, reading, class_evidence
        self.head: Any = head  # heads of words score tokens and queries, those of a closed set tokens alone
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("std", torch.ones(3), persistent=False)
        self.normalize_by(*normalization(backbone))

    def normalize_by(self, mean: RGB, std: RGB) -> None:
        """Set the mean and the standard deviation of RGB values in 0..1; at first they are the backbone's."""
        self.normalization = mean, std
        self.mean.copy_(torch.tensor(mean) * 255)
        self.std.copy_(torch.tensor(std) * 255)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 ``(B, S, S, 3)``, RGB -> embedded tokens ``(B, L, D)``."""
        return self.embed(self.backbone_tokens(images))

    def backbone_tokens(self, images: Tensor) -> Tensor:
        """uint8 ``(B, S, S, 3)``, RGB -> backbone tokens ``(B, L, C)``."""
        return self.backbone(self.normalize(images))

    def normalize(self, images: Tensor) -> Tensor:
        """Return images as the backbone reads them: uint8 ``(B, S, S, 3)``, RGB -> float ``(B, 3, S, S)``."""
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)

    def embed(self, tokens: Tensor) -> Tensor:
        """Backbone tokens ``(B, L, C)`` -> embedded tokens ``(B, L, D)``."""
        return self.head.embed_tokens(tokens if self.reading is None else self.reading(tokens))

    def classes(self, tokens: Tensor) -> Tensor:
        """Backbone tokens ``(B, L, C)`` -> probabilities of the backbone's N classes ``(B, N)``."""
        return class_probabilities(tokens, self.backbone.network.get_classifier())

    def score(self, tokens: Tensor, queries: Tensor | None = None) -> Tensor:
        """Embedded tokens ``(B, L, D)``, word vectors ``(K, word_dim)`` -> logits ``(B, K)``."""
        return self.head.score(tokens, queries)

    def forward(self, images: Tensor, queries: Tensor | None = None) -> Tensor:
        return self.score(self.encode(images), queries)


def softmax_log_odds(logits: Tensor) -> Tensor:
    """Logits ``(B, K)`` of a softmax over all K classes -> those whose sigmoid is the same probability, at most 80."""
    best = torch.arange(logits.shape[1], device=logits.device) == logits.argmax(-1, keepdim=True)  # (B, K)
    # p of the best class may be so near to 1 that nothing is left of 1 - p: that is summed over the others.
    of_best = logits - logits.masked_fill(best, float("-inf")).logsumexp(-1, keepdim=True)
    log_p = logits.log_softmax(-1)  # at most log(1/2) of any other class
    of_others = log_p - torch.log1p(-log_p.exp().clamp(max=0.5))
    return torch.where(best, of_best, of_others).clamp(max=80)


class EncoderForExport(nn.Module):
    """``encoder.onnx``: images -> embedded tokens, and class probabilities where the model has class evidence."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 ``(B, S, S, 3)`` -> ``(B, L, D)``, or ``(B, L, D)`` and ``(B, N)``."""
        tokens = self.model.backbone_tokens(images)  # (B, L, C)
        embedded = self.model.embed(tokens)  # (B, L, D)
        return (embedded, self.model.classes(tokens)) if self.model.class_evidence else embedded


class BackboneForExport(nn.Module):
    """Compute backbone tokens from images, which training does once where the backbone is frozen."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.backbone_tokens(images)


class QueriesForExport(nn.Module):
    """``queries.onnx``: word vectors -> what of them does not depend on images, once for a label set."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.head = model.head

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """``(K, word_dim)`` -> states and projected queries of :class:`PreparedQueries`, ``(K, D)`` each.

        Of a model with groups of words: states and groups of :class:`GroupedLabels`.
        """
        prepared = self.head.prepare(queries)
        return prepared[0], prepared[1]


class PreparedDecoderForExport(nn.Module):
    """``decoder.onnx`` of a model with word queries: tokens, prepared queries -> logits, attention."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.head = model.head

    def forward(self, tokens: Tensor, states: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(B, K)`` and attention ``(B, K, L)`` of tokens and :class:`QueriesForExport`."""
        if isinstance(self.head, GroupedWords):
            return self.head.score_with_attention(tokens, GroupedLabels(states, projected))
        return self.head.score_with_attention(tokens, PreparedQueries(states, projected, ()))


class DecoderForExport(nn.Module):
    """``decoder.onnx`` of a closed set, ``decoder.pt2`` of any: tokens, queries -> logits, attention.

    Args:
        softmax: the closed set was trained with cross entropy: logits are the log-odds of the softmax, so that their
            sigmoid is the class's probability.
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

"""Backbone + head: encode an image once, then ask any labels."""

from __future__ import annotations

from torch import Tensor, nn

from zsl_tagger.model.backbone import Backbone, normalization
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder


class TaggerModel(nn.Module):
    """Images -> embedded tokens -> logits. Its parts are passed in.

    Args:
        backbone: images to tokens ``(B, L, C)``.
        head: in channels C, or C + word_dim where a reading is given.
        reading: adds to each token what the backbone's classifier reads there; optional.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: MLDecoder, reading: ClassReading | None = None):
        super().__init__()
        self.backbone, self.reading, self.head = backbone, reading, head
        mean, std = normalization(backbone)
        self.register_buffer("mean", mean * 255, persistent=False)
        self.register_buffer("std", std * 255, persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 ``(B, S, S, 3)``, RGB -> embedded tokens ``(B, L, D)``."""
        x = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)  # (B, S, S, 3) -> (B, 3, S, S)
        return self.embed(self.backbone(x))

    def embed(self, tokens: Tensor) -> Tensor:
        """Backbone tokens ``(B, L, C)`` -> embedded tokens ``(B, L, D)``."""
        return self.head.embed_tokens(tokens if self.reading is None else self.reading(tokens))

    def score(self, tokens: Tensor, queries: Tensor | None = None) -> Tensor:
        """Embedded tokens ``(B, L, D)``, word vectors ``(K, word_dim)`` -> logits ``(B, K)``."""
        return self.head.score(tokens, queries)

    def forward(self, images: Tensor, queries: Tensor | None = None) -> Tensor:
        return self.score(self.encode(images), queries)


class EncoderForExport(nn.Module):
    """``encoder.onnx``: images -> tokens."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode(images)


class DecoderForExport(nn.Module):
    """``decoder.onnx``: tokens, queries -> logits, attention."""

    def __init__(self, model: TaggerModel):
        super().__init__()
        self.head = model.head

    def forward(self, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.score_with_attention(tokens, queries)

"""ML-Decoder in place of any timm network's classifier.

>>> model = timm.create_model("resnet50", pretrained=True)
>>> model = add_ml_decoder_head(model, num_classes=80)
>>> logits = model(images)  # (B, 80)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.ml_decoder import MLDecoder, PreparedQueries


class WithMLDecoder(nn.Module):
    """A timm network with an ML-Decoder as its classifier; it has what timm's scripts ask of a network.

    Attributes:
        num_classes: of a closed set; 0 for word queries.
        pretrained_cfg: of the network, for ``timm.data.resolve_model_data_config``.
    """

    def __init__(self, backbone: Backbone, head: MLDecoder):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.num_classes = head.num_classes or 0
        self.pretrained_cfg = self.default_cfg = backbone.network.pretrained_cfg

    def forward(self, images: Tensor, queries: Tensor | PreparedQueries | None = None) -> Tensor:
        """Normalised images ``(B, 3, H, W)``, for word queries also their vectors ``(K, word_dim)`` -> ``(B, K)``."""
        return self.head(self.backbone(images), queries)

    def get_classifier(self) -> MLDecoder:
        return self.head


def add_ml_decoder_head(
    network: nn.Module,
    num_classes: int | None = None,
    *,
    word_dim: int | None = None,
    stages: Sequence[int] | None = None,
    **head: Any,
) -> WithMLDecoder:
    """Put an ML-Decoder in place of a timm network's classifier, which is taken off.

    Args:
        network: of ``timm.create_model``: CNN or transformer, channels first or last, with or without class tokens.
        num_classes: of a closed set; by default, and without ``word_dim``, as many as the network had.
        word_dim: width of word vectors that are given as queries with each call, for zero-shot use.
        stages: feature maps to look at, see :class:`Backbone`; by default what the network's own classifier read.
        head: groups, dim, ffn_dim, heads, dropout of :class:`MLDecoder`.

    Raises:
        UserError, ValueError: sizes that do not fit; the message says what to change.
    """
    if num_classes is None and word_dim is None:
        num_classes = int(network.num_classes)  # type: ignore[arg-type]
    network.reset_classifier(0)  # type: ignore[operator]
    backbone = Backbone(network, stages=stages)
    return WithMLDecoder(backbone, MLDecoder(backbone.channels, num_classes=num_classes, word_dim=word_dim, **head))

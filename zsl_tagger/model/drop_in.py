"""Replace the classifier of any timm network with an ML-Decoder.

>>> model = timm.create_model("resnet50", pretrained=True)
>>> model = add_ml_decoder_head(model, num_classes=80)
>>> logits = model(images)  # (B, 80)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone, check_timm
from zsl_tagger.model.ml_decoder import MLDecoder, PreparedQueries


class WithMLDecoder(nn.Module):
    """A timm network with an ML-Decoder as its classifier, compatible with timm's scripts.

    Attributes:
        num_classes: size of the closed set; 0 for word queries and without a classifier.
        pretrained_cfg: configuration of the network, for ``timm.data.resolve_model_data_config``.
    """

    def __init__(self, backbone: Backbone, head: MLDecoder, options: dict[str, Any]):
        super().__init__()
        self.backbone, self.head = backbone, head
        self._options = options  # for reset_classifier
        self.num_classes = head.num_classes or 0
        self.pretrained_cfg = self.default_cfg = backbone.network.pretrained_cfg

    def forward(self, images: Tensor, queries: Tensor | PreparedQueries | None = None) -> Tensor:
        """Return logits ``(B, K)`` of normalised images ``(B, 3, H, W)`` and, if used, queries ``(K, word_dim)``."""
        return self.forward_head(self.forward_features(images), queries=queries)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the output of the network's ``forward_features``, or with ``stages`` their tokens ``(B, L, C)``."""
        return self.backbone.features(images)

    def forward_head(
        self, features: Tensor, pre_logits: bool = False, *, queries: Tensor | PreparedQueries | None = None
    ) -> Tensor:
        """Return the logits ``(B, K)`` of :meth:`forward_features`.

        Args:
            pre_logits: return the network's pooled features ``(B, C)`` instead, as without a classifier.
            queries: word vectors ``(K, word_dim)`` or prepared queries, for a head with word queries.
        """
        if pre_logits or not isinstance(self.head, MLDecoder):
            _check_poolable(self.backbone)
            return self.backbone.network.forward_head(features, pre_logits=True)
        return self.head(self.backbone.tokens(features), queries)

    def get_classifier(self) -> nn.Module:
        """Return the ML-Decoder; an ``nn.Identity`` after ``reset_classifier(0)``."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head with a new ML-Decoder for other classes, or remove it.

        Args:
            num_classes: size of the closed set; 0 removes the head: the model then returns pooled features ``(B, C)``.
            global_pool: pooling of these features; None: unchanged. An ML-Decoder does not pool.

        Raises:
            UserError: 0 classes for a model over several stages, whose features have no common pooling.
        """
        if global_pool is not None:
            self.backbone.network.reset_classifier(0, global_pool)
        if num_classes == 0:
            _check_poolable(self.backbone)
            self.head = nn.Identity()  # type: ignore[assignment]  # as in timm's networks
        else:
            options = dict(self._options)
            if (groups := options.get("groups")) is not None:
                options["groups"] = min(groups, num_classes)
            like = next(self.backbone.parameters())
            head = MLDecoder(self.backbone.channels, num_classes=num_classes, **options)
            self.head = head.to(like.device, like.dtype).train(self.training)
        self.num_classes = num_classes


def _check_poolable(backbone: Backbone) -> None:
    if backbone.stages is not None:
        raise UserError(
            f"the feature maps {list(backbone.stages)} of {backbone.name} have no pooling in common: expected a model "
            "made without stages"
        )


def add_ml_decoder_head(
    network: nn.Module,
    num_classes: int | None = None,
    *,
    word_dim: int | None = None,
    stages: Sequence[int] | None = None,
    **head: Any,
) -> WithMLDecoder:
    """Replace the classifier of a timm network with an ML-Decoder.

    Args:
        network: result of ``timm.create_model``: CNN or transformer, any layout, with or without class tokens.
        num_classes: size of the closed set; by default, without ``word_dim``, the network's own number.
        word_dim: dimension of the word vectors passed as queries to each call, for zero-shot use.
        stages: feature maps to use, see :class:`Backbone`; by default the input of the network's own classifier.
        head: groups, dim, ffn_dim, heads, dropout of :class:`MLDecoder`.

    Raises:
        UserError, ValueError: the network is not from timm, or sizes do not fit.
    """
    check_timm(network)
    if num_classes is None and word_dim is None:
        num_classes = int(network.num_classes)  # type: ignore[arg-type]
    network.reset_classifier(0)  # type: ignore[operator]
    backbone = Backbone(network, stages=stages)
    decoder = MLDecoder(backbone.channels, num_classes=num_classes, word_dim=word_dim, **head)
    return WithMLDecoder(backbone, decoder, head)

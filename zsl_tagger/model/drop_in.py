"""ML-Decoder in place of any timm network's classifier.

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
    """A timm network with an ML-Decoder as its classifier; it has what timm's scripts ask of a network.

    Attributes:
        num_classes: of a closed set; 0 for word queries, and without a classifier.
        pretrained_cfg: of the network, for ``timm.data.resolve_model_data_config``.
    """

    def __init__(self, backbone: Backbone, head: MLDecoder, options: dict[str, Any]):
        super().__init__()
        self.backbone, self.head = backbone, head
        self._options = options  # of the head, for the next one
        self.num_classes = head.num_classes or 0
        self.pretrained_cfg = self.default_cfg = backbone.network.pretrained_cfg

    def forward(self, images: Tensor, queries: Tensor | PreparedQueries | None = None) -> Tensor:
        """Normalised images ``(B, 3, H, W)``, for word queries also their vectors ``(K, word_dim)`` -> ``(B, K)``."""
        return self.forward_head(self.forward_features(images), queries=queries)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return what the network's ``forward_features`` does; with ``stages``, their tokens ``(B, L, C)``."""
        return self.backbone.features(images)

    def forward_head(
        self, features: Tensor, pre_logits: bool = False, *, queries: Tensor | PreparedQueries | None = None
    ) -> Tensor:
        """Return the logits ``(B, K)`` of :meth:`forward_features`.

        Args:
            pre_logits: return the features that the network pools for its own classifier, ``(B, C)``, as without a
                classifier.
            queries: word vectors ``(K, word_dim)``, or prepared ones, of a head for word queries.
        """
        if pre_logits or not isinstance(self.head, MLDecoder):
            _check_poolable(self.backbone)
            return self.backbone.network.forward_head(features, pre_logits=True)
        return self.head(self.backbone.tokens(features), queries)

    def get_classifier(self) -> nn.Module:
        """Return the ML-Decoder; an ``nn.Identity`` after ``reset_classifier(0)``."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new ML-Decoder for other classes in place of the head, or take it off.

        Args:
            num_classes: of the closed set; 0 takes the head off: the model then returns pooled features ``(B, C)``.
            global_pool: how the network pools them; None for as before. An ML-Decoder does not pool.

        Raises:
            UserError: 0 classes of a model over several stages, whose features have no pooling.
        """
        if global_pool is not None:
            self.backbone.network.reset_classifier(0, global_pool)
        if num_classes == 0:
            _check_poolable(self.backbone)
            self.head = nn.Identity()  # type: ignore[assignment]  # as timm's networks have it
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
    """Put an ML-Decoder in place of a timm network's classifier, which is taken off.

    Args:
        network: of ``timm.create_model``: CNN or transformer, channels first or last, with or without class tokens.
        num_classes: of a closed set; by default, and without ``word_dim``, as many as the network had.
        word_dim: width of word vectors that are given as queries with each call, for zero-shot use.
        stages: feature maps to look at, see :class:`Backbone`; by default what the network's own classifier read.
        head: groups, dim, ffn_dim, heads, dropout of :class:`MLDecoder`.

    Raises:
        UserError, ValueError: a network that is not timm's, or sizes that do not fit; the message says what to change.
    """
    check_timm(network)
    if num_classes is None and word_dim is None:
        num_classes = int(network.num_classes)  # type: ignore[arg-type]
    network.reset_classifier(0)  # type: ignore[operator]
    backbone = Backbone(network, stages=stages)
    decoder = MLDecoder(backbone.channels, num_classes=num_classes, word_dim=word_dim, **head)
    return WithMLDecoder(backbone, decoder, head)

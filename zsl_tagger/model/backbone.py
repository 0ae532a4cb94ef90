"""Any timm model -> tokens ``(B, L, C)``. The only file that knows timm and its layouts."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from zsl_tagger.errors import UserError


class Backbone(nn.Module):
    """A timm network as a source of tokens.

    Args:
        name: a timm model name, CNN or transformer.
        pretrained: load timm's own weights (needs the network or a filled cache).
        options: for ``timm.create_model``.

    Attributes:
        channels: C of the tokens.
    """

    def __init__(self, name: str, *, pretrained: bool = False, **options: Any):
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise UserError(f"timm has no model {name!r}; the nearest names are: {', '.join(near) or 'none'}")
        self.name = name
        self.network = timm.create_model(name, pretrained=pretrained, **options)
        self.channels = _token_channels(self.network)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, 3, H, W)`` -> tokens ``(B, L, C)``, class and register tokens left out."""
        features = self.network.forward_features(images)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{self.name} gives no single map of features: expected a tensor of rank 3 or 4, got {got}")
        if features.ndim == 3:
            return features[:, _prefix_tokens(self.network) :]  # (B, prefix + L, C) -> (B, L, C)
        if _is_channels_last(self.network):
            return features.flatten(1, 2)  # (B, h, w, C) -> (B, L, C)
        return features.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, L, C)


def _prefix_tokens(network: nn.Module) -> int:
    """Class and register tokens before the image's; timm states the number for most networks."""
    stated = getattr(network, "num_prefix_tokens", None)
    if stated is not None:
        return int(stated)
    return int(any("cls_token" in name for name, _ in network.named_parameters()))


def _is_channels_last(network: nn.Module) -> bool:
    """Swin-like networks give (B, h, w, C); timm states it on the network."""
    return str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _token_channels(network: nn.Module) -> int:
    """C of ``forward_features``; some networks widen it only in their head, so that is not asked."""
    return int(network.num_features)  # type: ignore[arg-type]


def normalization(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(3,)`` of RGB values in 0..1 that the network was trained with."""
    config = backbone.network.pretrained_cfg
    return torch.tensor(config["mean"]), torch.tensor(config["std"])

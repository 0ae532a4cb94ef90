"""Any timm model -> tokens ``(B, L, C)``. The only file that knows timm and its layouts."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from zsl_tagger.errors import UserError, first_line


class Backbone(nn.Module):
    """A timm network as a source of tokens.

    Args:
        name: a timm model name, CNN or transformer.
        pretrained: load timm's own weights (needs the network or a filled cache).
        image_size: side of the images in pixels, for transformers that are made for one size.
        options: for ``timm.create_model``.

    Attributes:
        channels: C of the tokens.

    Raises:
        UserError: timm has no such model, or no weights for it, or the model does not take an option.
    """

    def __init__(self, name: str, *, pretrained: bool = False, image_size: int | None = None, **options: Any):
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise UserError(f"timm has no model {name!r}; the nearest names are: {', '.join(near) or 'none'}")
        self.name = name
        if image_size is not None and timm.get_pretrained_cfg_value(name, "fixed_input_size"):
            options["img_size"] = image_size
        self.network = _create(name, pretrained, options)
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

    def check_size(self, image_size: int) -> None:
        """Raise a UserError where the network cannot read square images of this side."""
        own = self.network.pretrained_cfg["input_size"][-1]
        try:
            with torch.no_grad():
                tokens = _in_evaluation(self, torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"{self.name} refuses images of {image_size} px ({reason}); its own size is {own}"
            ) from None
        if tokens.shape[1] == 0:
            raise UserError(f"{self.name} leaves no token of images of {image_size} px; its own size is {own}")

    def leave_out_unused(self, image_size: int) -> None:
        """Take from training what no token depends on, such as the network's own classifier.

        Several processes that train together wait for a gradient of every parameter that is trained.
        """
        with torch.enable_grad():
            _in_evaluation(self, torch.zeros(1, 3, image_size, image_size)).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise UserError(f"{name} does not take the options {', '.join(options)}: {error}") from None
    except Exception as error:  # timm and the hub raise what they like
        if not pretrained:
            raise UserError(f"timm cannot make {name}: {error}") from None
        reason = first_line(error)
        raise UserError(
            f"timm cannot bring pretrained weights of {name}: {reason}. "
            "Without a network, give a file of weights, or start from scratch"
        ) from None


def _in_evaluation(backbone: Backbone, images: Tensor) -> Tensor:
    """Tokens, with the mode that each part had before given back."""
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        return backbone(images)
    finally:
        for module, mode in modes:
            module.training = mode


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

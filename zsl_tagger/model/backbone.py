"""Turn any timm model into a source of tokens ``(B, L, C)``. Only this file knows timm and its layouts."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.errors import UserError, first_line

#: timm modules whose networks return several maps or only class tokens: their last map is used instead.
LAST_MAP = {"coat", "crossvit", "efficientvim", "pit"}


#: Attributes of timm networks that are used here.
TIMM_ATTRIBUTES = ("forward_features", "forward_head", "num_features", "pretrained_cfg", "reset_classifier")

#: Numbers of classes of timm's ImageNet classifiers; such a layer is not a projection into the space of a text tower.
IMAGENET_CLASSIFIERS = {1000, 10450, 11221, 11821, 21841, 21843}

RGB = tuple[float, float, float]

#: Use of the projection of an image tower trained with a text tower: none; applied to each token; the pooled image
#: vector as the only token; or that vector followed by the projected tokens.
Projection = Literal["none", "tokens", "pooled", "both"]


class Backbone(nn.Module):
    """Source of tokens from a timm network.

    Args:
        name: a timm model name, CNN or transformer, or a timm network.
        pretrained: load timm's own weights (needs the network or a filled cache).
        image_size: side of the images in pixels, for transformers with a fixed size.
        stages: feature maps to use as tokens, indices of the network's ``feature_info`` (-1 is the last one); each has
            its own channels and zeros in the other maps' channels, so that a linear layer over the tokens acts
            separately on each map. None: the input of the network's own classifier.
        projection: "tokens": project each token like a CLIP tower projects its pooled vector into the space shared with
            its text tower; "pooled": the projected pooled vector is the only token; "both": the pooled vector is the
            first token, followed by the projected ones.
        options: passed to ``timm.create_model``.

    Attributes:
        channels: C of the tokens.

    Raises:
        UserError: timm has no such model or no weights for it, or the model does not accept an option or has no
            projection.
    """

    def __init__(
        self,
        name: str | nn.Module,
        *,
        pretrained: bool = False,
        image_size: int | None = None,
        stages: Sequence[int] | None = None,
        projection: Projection = "none",
        **options: Any,
    ):
        super().__init__()
        if isinstance(name, nn.Module):
            check_timm(name)
            self.network: Any = name
            self.name = str(name.pretrained_cfg["architecture"])  # type: ignore[index]
        else:
            self.network, self.name = _create(name, pretrained, image_size, options), name
        if stages is None and type(self.network).__module__.rpartition(".")[2] in LAST_MAP:
            stages = (-1,)
        self.stages = None if stages is None else _checked_stages(self.network, stages, self.name)
        self.channels = sum(self._widths()) if self.stages else _token_channels(self.network)
        self.projection = projection
        if projection != "none":
            if self.stages:
                raise UserError(f"{self.name} has no projection for the feature maps that its tokens come from")
            self.channels = _projected_width(self.network, self.name, projection)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens ``(B, L, C)`` of normalised images ``(B, 3, H, W)``, without class and register tokens."""
        return self.tokens(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the output of timm's ``forward_features``, or with ``stages`` their tokens ``(B, sum of L_i, C)``."""
        return self._unpooled(images) if self.stages is None else self._tokens_of_stages(self.stages, images)

    def _widths(self) -> list[int]:
        return [self.network.feature_info[stage]["num_chs"] for stage in self.stages or ()]

    def _tokens_of_stages(self, stages: Sequence[int], images: Tensor) -> Tensor:
        maps = self.network.forward_intermediates(
            images, indices=list(stages), output_fmt="NCHW", intermediates_only=True
        )
        widths, tokens, before = self._widths(), [], 0
        for x, width in zip(maps, widths, strict=True):
            x = x.flatten(2).transpose(1, 2)  # (B, C_i, h, w) -> (B, L_i, C_i)
            tokens.append(F.pad(x, (before, self.channels - before - width)))  # (B, L_i, C)
            before += width
        return torch.cat(tokens, dim=1)  # (B, sum of L_i, C)

    def _unpooled(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(images)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{self.name} returns no single feature map: expected a tensor of rank 3 or 4, got {got}")
        return features

    def tokens(self, features: Tensor) -> Tensor:
        """Return the tokens ``(B, L, C)`` of :meth:`features`, without class and register tokens.

        With a projection they are in the space of the text tower.
        """
        if self.projection == "pooled":
            return self.network.forward_head(features).unsqueeze(1)  # (B, C) -> (B, 1, C)
        tokens = self._plain_tokens(features)
        if self.projection == "none":
            return tokens
        tokens = _projected(self.network, tokens)
        if self.projection == "both":
            whole = self.network.forward_head(features).unsqueeze(1)  # (B, C) -> (B, 1, C)
            return torch.cat([whole, tokens], dim=1)  # (B, 1 + L, C)
        return tokens

    def _plain_tokens(self, features: Tensor) -> Tensor:
        if self.stages is not None:
            return features
        if features.ndim == 3:
            return features[:, _prefix_tokens(self.network) :]  # (B, prefix + L, C) -> (B, L, C)
        if _is_channels_last(self.network):
            return features.flatten(1, 2)  # (B, h, w, C) -> (B, L, C)
        return features.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, L, C)

    def own_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors; from a checkpoint with both CLIP towers, only the image tower's."""
        if not any(name.removeprefix("module.").startswith("visual.") for name in state):
            return state
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        try:
            return state if convert is None else convert(state, self.network)
        except Exception:  # another kind of tower, whose tensors are then reported unchanged
            return state

    def check_size(self, image_size: int) -> None:
        """Raise a UserError if the network cannot process square images of this size."""
        own = self.network.pretrained_cfg["input_size"][-1]
        try:
            with torch.no_grad():
                tokens = _in_evaluation(self, torch.zeros(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"{self.name} cannot process images of {image_size} px ({reason}); its own size is {own}"
            ) from None
        if tokens.shape[1] == (1 if self.projection == "both" else 0):
            raise UserError(f"{self.name} has no tokens left for images of {image_size} px; its own size is {own}")

    def leave_out_unused(self, image_size: int) -> None:
        """Freeze parameters that no token depends on, such as the network's own classifier.

        Distributed training waits for a gradient of every trained parameter.
        """
        with torch.enable_grad():
            _in_evaluation(self, torch.zeros(1, 3, image_size, image_size)).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


def check_timm(network: object) -> None:
    """Raise a UserError unless this is a network from ``timm.create_model``."""
    lacks = [name for name in TIMM_ATTRIBUTES if not hasattr(network, name)]
    if isinstance(network, str) or lacks:
        kind = f"{type(network).__module__}.{type(network).__qualname__}"
        got = repr(network) if isinstance(network, str) else f"{kind}, which has no {', '.join(lacks)}"
        raise UserError(f"expected a network as timm.create_model returns it, got {got}")


def _create(name: str, pretrained: bool, image_size: int | None, options: dict[str, Any]) -> Any:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}; the nearest names are: {', '.join(near) or 'none'}")
    if image_size is not None and timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = image_size
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise UserError(f"{name} does not take the options {', '.join(options)}: {error}") from None
    except Exception as error:  # timm and the hub raise arbitrary exceptions
        if not pretrained:
            raise UserError(f"timm cannot make {name}: {error}") from None
        reason = first_line(error)
        raise UserError(
            f"timm cannot load pretrained weights for {name}: {reason.rstrip('.')}. Without a network, give a file of "
            "its weights (init=FILE in training), or start from scratch (init=scratch)"
        ) from None


def _projected_width(network: Any, name: str, projection: Projection) -> int:
    """Return C of projected tokens.

    Raises:
        UserError: the network has no projection, or none for single tokens.
    """
    classifier = network.get_classifier()
    width = classifier.out_features if isinstance(classifier, nn.Linear) else 0
    if width in IMAGENET_CLASSIFIERS:
        raise UserError(
            f"{name} has no projection into the space of a text tower: its last layer classifies {width:,} classes of "
            "ImageNet. Expected a CLIP or SigLIP tower with its tag, such as vit_base_patch16_clip_quickgelu_224.openai"
        )
    if projection == "pooled":
        return width or _token_channels(network)
    is_attention = getattr(network, "attn_pool", None) is not None
    if not width or is_attention or _is_channels_last(network):
        raise UserError(
            f"{name} has no projection that can be applied to each token"
            + (": attention combines all of them" if is_attention else "")
            + ". Expected a tower with a linear layer after its pooling, such as "
            "vit_base_patch16_clip_quickgelu_224.openai; or leave tokens without projection"
        )
    return int(width)


def _projected(network: Any, tokens: Tensor) -> Tensor:
    """Apply the layers after a tower's pooling to each token: ``(B, L, C)`` -> ``(B, L, E)``."""
    head = network.head
    if isinstance(head, nn.Linear):  # transformers
        return head(getattr(network, "fc_norm", nn.Identity())(tokens))
    if isinstance(getattr(head, "v", None), nn.Linear):  # attention pooling of CLIP's ResNets: what a token adds to it
        return head.proj(head.v(tokens))
    maps = tokens.flatten(0, 1)[:, :, None, None]  # (B, L, C) -> (B * L, C, 1, 1)
    return network.forward_head(maps).view(tokens.shape[0], tokens.shape[1], -1)  # (B, L, E)


def _in_evaluation(backbone: Backbone, images: Tensor) -> Tensor:
    """Compute tokens in evaluation mode, then restore the mode of each module."""
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        return backbone(images)
    finally:
        for module, mode in modes:
            module.training = mode


def _checked_stages(network: Any, stages: Sequence[int], name: str) -> tuple[int, ...]:
    """Return the stage indices as non-negative numbers, ascending."""
    count = len(getattr(network, "feature_info", ()))
    if not stages or not all(-count <= stage < count for stage in stages):
        raise UserError(
            f"{name} has {count} feature maps: expected stages in {-count}..{count - 1}, got {list(stages)}"
        )
    return tuple(sorted({stage % count for stage in stages}))


def _prefix_tokens(network: nn.Module) -> int:
    """Return the number of class and register tokens; timm states it for most networks."""
    stated = getattr(network, "num_prefix_tokens", None)
    if stated is not None:
        return int(stated)
    return int(any("cls_token" in name for name, _ in network.named_parameters()))


def _is_channels_last(network: nn.Module) -> bool:
    """Return whether features are (B, h, w, C), as in Swin-like networks; timm states it on the network."""
    return str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _token_channels(network: nn.Module) -> int:
    """Return C of ``forward_features``, before networks that widen it in their head."""
    return int(network.num_features)  # type: ignore[arg-type]


def normalization(backbone: Backbone) -> tuple[RGB, RGB]:
    """Return the mean and the standard deviation of RGB values in 0..1 that the network was trained with."""
    config = backbone.network.pretrained_cfg
    return tuple(map(float, config["mean"])), tuple(map(float, config["std"]))  # type: ignore[return-value]


def own_size(name: str) -> int | None:
    """Return the image size of a network in pixels; None if timm has no such model."""
    if not timm.is_model(name):
        return None
    return int(timm.get_pretrained_cfg_value(name, "input_size")[-1])

"""Map names and shapes of released ML-Decoder checkpoints, and of timm's copy of the head, to ours.

The head's names are those of github.com/Alibaba-MIIL/ML_Decoder, ``src_files/ml_decoder/ml_decoder.py``; timm
(``timm.layers.ml_decoder``) leaves ``decoder.`` out of the first four. K classes, G groups, D and F widths:

=========================================  ===========================  ==========================================
released, after ``head.`` or ``fc.``       shape                        here, in :class:`MLDecoder`
=========================================  ===========================  ==========================================
``decoder.embed_standart.*``               (D, C), (D,)                 ``embed.*``
``decoder.query_embed.weight``             (G, D), closed set only      ``group_queries``
``decoder.duplicate_pooling``              (G, D, f), words: (D, 1)     ``group_weight``, words: (1, D, 1)
``decoder.duplicate_pooling_bias``         (K,), words: (1,)            ``bias``
``decoder.layers.0.multihead_attn.in_…``   (3 D, D), (3 D,)             ``layer.attention.q``, ``.k``, ``.v``
``decoder.layers.0.multihead_attn.out_…``  (D, D), (D,)                 ``layer.attention.out.*``
``decoder.layers.0.linear1.*``, …          (F, D), …                    ``layer.linear1.*``, …
``wordvec_proj.*``                         (D, word_dim), words only    ``word_embed.*``
=========================================  ===========================  ==========================================

Backbones have timm's names (ResNet), or the names of the released TResNet, whose ``body.layer2.0.conv1.0.0`` is timm's
``body.layer2.0.conv1.conv``. Norms of released TResNet names are always InplaceABN, which computes with
``|w| + 1e-5``; inplace-abn 1.1.0 and later also stores ``num_batches_tracked``, earlier versions do not.

Prefixes of wrappers (``module.``, ``model.``, ``net.module.``, ...) are found from the name of the head, which occurs
once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zsl_tagger.errors import UserError, some

State = Mapping[str, Tensor]
Shape = tuple[int, ...]

#: Attention heads: not visible in any tensor's shape, and fixed in the released code.
HEADS = 8

#: InplaceABN computes with ``|w| + epsilon`` where a BatchNorm computes with ``w``.
INPLACE_ABN_EPSILON = 1e-5

_EMBED = re.compile(r"(.*?)(?:decoder\.)?embed_standart\.weight")
_TRESNET_PART = re.compile(r"(body\.(?:.+\.)?(?:conv\d|downsample\.\d+))(?:\.0)?\.([01])\.(\w+)")
_COUNTER = ".num_batches_tracked"

#: (bottlenecks in the first two stages, blocks of the stages, width) -> timm's name.
_TRESNETS: dict[tuple[bool, Shape, int], str] = {
    (False, (3, 4, 11, 3), 64): "tresnet_m",
    (True, (3, 4, 23, 3), 64): "tresnet_v2_l",  # ML-Decoder calls it tresnet_l
    (False, (4, 5, 18, 3), 76): "tresnet_l",  # not used by ML-Decoder
    (False, (4, 5, 24, 3), 83): "tresnet_xl",  # not used either
}
_RELEASED_XL = (True, (3, 8, 34, 5), 64)
_RESNETS: dict[tuple[bool, Shape], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}

_HEAD_MODULES = {
    "embed_standart": "embed",
    "wordvec_proj": "word_embed",
    "layers.0.multihead_attn.out_proj": "layer.attention.out",
    **{f"layers.0.{name}": f"layer.{name}" for name in ("linear1", "linear2", "norm1", "norm2", "norm3")},
}
_HEAD_TENSORS = {
    "query_embed.weight": "group_queries",
    "duplicate_pooling": "group_weight",
    "duplicate_pooling_bias": "bias",
    **{f"{a}.{kind}": f"{b}.{kind}" for a, b in _HEAD_MODULES.items() for kind in ("weight", "bias")},
}


@dataclass(frozen=True)
class Converted:
    """A tensor with its name in this project.

    Attributes:
        source: name in the checkpoint.
        target: name in :class:`TaggerModel`; "" for an unknown name of the head.
        how: how the values were changed; "" for not at all.
    """

    source: str
    target: str
    tensor: Tensor
    how: str = ""


@dataclass(frozen=True)
class Released:
    """A checkpoint parsed as ML-Decoder on a backbone.

    Attributes:
        tensors: every tensor of the checkpoint; ``in_proj`` is split into three.
        architecture: dim, ffn_dim, heads, and for a closed set classes and groups, as in ``config.json``.
        word_dim: width of the word vectors; None for a closed set.
        wrapper: common prefix of the model's tensors in the checkpoint; "" if there is none.
        outside: names and shapes of tensors outside the wrapper, such as ``n_averaged`` of averaged weights.
    """

    tensors: list[Converted]
    architecture: dict[str, Any]
    word_dim: int | None
    wrapper: str = ""
    outside: Mapping[str, Shape] = field(default_factory=dict)


def read_released(state: State) -> Released:
    """Parse the names and sizes of a checkpoint.

    Raises:
        UserError: it has no ML-Decoder head, or lacks the tensors that determine its sizes.
    """
    head_place = _head_place(list(state))
    wrapper = _wrapper(list(state), head_place)
    tensors: list[Converted] = []
    head: dict[str, Tensor] = {}
    outside: dict[str, Shape] = {}
    for source, tensor in state.items():
        if source.startswith(head_place):
            short = source.removeprefix(head_place).removeprefix(
                "decoder."
            )  # the common part of released names and timm's
            head[short] = tensor
            tensors += _head_tensors(source, short, tensor)
        elif source.startswith(wrapper):
            tensors.append(_backbone_tensor(source, source.removeprefix(wrapper), tensor))
        else:
            outside[source] = tuple(tensor.shape)
    return Released(tensors, *_head_sizes(head), wrapper, outside)


def _head_place(names: list[str]) -> str:
    """Return the prefix of the head's tensors: ``head.``, ``fc.``, ``model.module.fc.``, ...

    Raises:
        UserError: there is no head, or more than one.
    """
    found = [match[1] for name in names if (match := _EMBED.fullmatch(name))]
    if len(found) > 1:
        raise UserError(
            f"the checkpoint has {len(found)} ML-Decoder heads, under {some(found)}: expected one. Save one of the "
            "copies alone"
        )
    if not found:
        raise UserError(
            "the checkpoint has no ML-Decoder head: expected one tensor named ...embed_standart.weight, "
            f"its {len(names)} tensors are {some(names, 3)}"
        )
    return found[0]


def _wrapper(names: list[str], head_place: str) -> str:
    """Return the longest prefix that the head shares with most tensors of the backbone."""
    backbone = [name for name in names if not name.startswith(head_place)]
    parts = head_place.split(".")[:-2]  # without the head's own name, such as "fc", and the text after the last dot
    beginnings = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]
    return next(
        (start for start in beginnings if 2 * sum(name.startswith(start) for name in backbone) > len(backbone)), ""
    )


def _head_tensors(source: str, short: str, tensor: Tensor) -> list[Converted]:
    if match := re.fullmatch(r"layers\.0\.multihead_attn\.in_proj_(weight|bias)", short):
        thirds = tensor.tensor_split(3) if tensor.ndim else (tensor,) * 3  # (3 D, D) -> 3 x (D, D)
        return [
            Converted(source, f"head.layer.attention.{part}.{match[1]}", third, f"third {number} of it")
            for number, (part, third) in enumerate(zip("qkv", thirds, strict=True), start=1)
        ]
    if short == "duplicate_pooling" and tensor.ndim == 2:
        return [Converted(source, "head.group_weight", tensor[None], "as a group of one")]  # (D, 1) -> (1, D, 1)
    return [Converted(source, f"head.{_HEAD_TENSORS[short]}" if short in _HEAD_TENSORS else "", tensor)]


def _backbone_tensor(source: str, name: str, tensor: Tensor) -> Converted:
    """Return a tensor under timm's name.

    Args:
        name: ``source`` without the prefix of a wrapper.
    """
    match = _TRESNET_PART.fullmatch(name)
    if not match:
        return Converted(source, f"backbone.network.{name}", tensor)
    target = f"backbone.network.{match[1]}.{('conv', 'bn')[int(match[2])]}.{match[3]}"
    if match[2] == "1" and match[3] == "weight":
        return Converted(source, target, tensor.float().abs() + INPLACE_ABN_EPSILON, f"|w| + {INPLACE_ABN_EPSILON:.0e}")
    return Converted(source, target, tensor)


def _head_sizes(head: State) -> tuple[dict[str, Any], int | None]:
    """Derive the architecture and word_dim from the shapes."""
    dim = _shape(head, "embed_standart.weight", 2)[0]
    ffn_dim = _shape(head, "layers.0.linear1.weight", 2)[0]
    architecture: dict[str, Any] = {"dim": dim, "ffn_dim": ffn_dim, "heads": HEADS}
    if dim % HEADS:
        raise UserError(
            f"the head of the checkpoint has width {dim}, which is not a multiple of its {HEADS} attention heads"
        )
    if "wordvec_proj.weight" in head:
        return architecture, _shape(head, "wordvec_proj.weight", 2)[1]
    if "query_embed.weight" not in head:
        raise UserError(
            "the head of the checkpoint has no queries: expected query_embed.weight (a closed set of classes) or "
            "wordvec_proj.weight (word queries)"
        )
    groups, classes = _shape(head, "query_embed.weight", 2)[0], _shape(head, "duplicate_pooling_bias", 1)[0]
    if not 1 <= groups <= classes:
        raise UserError(
            f"the head of the checkpoint has {groups} groups for {classes} classes: expected at most a class"
        )
    return architecture | {"classes": classes, "groups": groups}, None


def _shape(head: State, name: str, rank: int) -> Shape:
    if name not in head:
        raise UserError(f"the head of the checkpoint lacks {name}, which determines its size")
    shape = tuple(head[name].shape)
    if len(shape) != rank:
        raise UserError(f"{name} of the checkpoint: expected a tensor of rank {rank}, got {shape}")
    return shape


# --- which backbone it is ---------------------------------------------------------------------------------


def guess_backbone(released: Released) -> str | None:
    """Return timm's name of the backbone from its layers and width; None if it is unknown.

    Raises:
        UserError: it is the released TResNet-XL.
    """
    prefix = "backbone.network."
    shapes = {
        one.target.removeprefix(prefix): tuple(one.tensor.shape)
        for one in released.tensors
        if one.target.startswith(prefix)
    }
    if "body.conv1.conv.weight" in shapes:
        bottlenecks = "body.layer1.0.conv3.conv.weight" in shapes
        found = (bottlenecks, _stages("body.", shapes), shapes["body.conv1.conv.weight"][0])
        if found == _RELEASED_XL:
            raise UserError(
                "the backbone is ML-Decoder's TResNet-XL (stages of 3, 8, 34, 5 blocks), which timm does not have: "
                "its tresnet_xl is another network (4, 5, 24, 3)"
            )
        return _TRESNETS.get(found)
    plain = shapes.get("conv1.weight") == (64, 3, 7, 7) and shapes.get("layer1.0.conv2.weight") == (64, 64, 3, 3)
    return _RESNETS.get(("layer1.0.conv3.weight" in shapes, _stages("", shapes))) if plain else None


def _stages(prefix: str, shapes: Mapping[str, Shape]) -> Shape:
    """Return the number of blocks in the four stages."""
    pattern = re.compile(re.escape(prefix) + r"layer([1-4])\.(\d+)\.")
    blocks = {match.groups() for name in shapes if (match := pattern.match(name))}
    return tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(1, 5))


# --- what fits --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Result of one tensor in the report.

    Attributes:
        status: one of :data:`STATUSES`.
    """

    status: str
    text: str


FAULTS = ("missing", "unexpected", "wrong shape")
STATUSES = ("matched", "renamed", *FAULTS, "left out")


@dataclass(frozen=True)
class Report:
    """Report on every tensor of a checkpoint and of the target model."""

    lines: list[Line]

    @property
    def faults(self) -> list[Line]:
        return [line for line in self.lines if line.status in FAULTS]

    def counts(self) -> str:
        """Return the counts, ``"318 matched, 24 renamed, 0 missing, ..."``."""
        return ", ".join(f"{sum(line.status == status for line in self.lines)} {status}" for status in STATUSES)

    def text(self) -> list[str]:
        """Return one line per tensor, mismatches first."""
        ordered = sorted(self.lines, key=lambda line: line.status not in FAULTS)
        return [f"{line.status:12}{line.text}" for line in ordered]


def compare(released: Released, model: Mapping[str, Shape], own_classifier: str) -> Report:
    """Compare the tensors of a checkpoint with a model.

    Args:
        model: names and shapes of the model's state dict.
        own_classifier: prefix of the names of the backbone's own classifier, which the head replaces; "" for none.
    """
    reason = f"not of the model, whose tensors begin with {released.wrapper!r}"
    lines = [Line("left out", f"{name} {shape}: {reason}") for name, shape in released.outside.items()]
    taken = set[str]()
    for one in released.tensors:
        lines.append(_fit(one, {} if one.target in taken else model))  # a second name for the same place is an error
        taken.add(one.target)
    for name in sorted(model.keys() - taken):
        shape = model[name]
        if own_classifier and name.startswith(own_classifier):
            lines.append(Line("left out", f"{name} {shape}: zero here, the head replaces it"))
        elif name.endswith(_COUNTER):
            lines.append(Line("left out", f"{name} {shape}: zero here, it counts training steps"))
        else:
            lines.append(Line("missing", f"{name} {shape}"))
    return Report(lines)


def _fit(one: Converted, model: Mapping[str, Shape]) -> Line:
    shape, moved = tuple(one.tensor.shape), f"{one.source} -> {one.target}"
    if one.target not in model:
        if one.source.endswith(_COUNTER):
            return Line("left out", f"{one.source} {shape}: it counts training steps")
        return Line("unexpected", f"{one.source} {shape}")
    if shape != model[one.target]:
        return Line("wrong shape", f"{moved}: expected {model[one.target]}, got {shape}")
    if one.target == f"backbone.network.{one.source}":
        return Line("matched", f"{one.source} {shape}")
    return Line("renamed", f"{moved} {shape}" + (f", {one.how}" if one.how else ""))

"""ML-Decoder and TResNet as they were released, written from their formulas over the released names: slow and obvious.

Nothing here imports zsl_tagger or timm. Formulas: arXiv 2111.12933 (head), 2003.13630 (TResNet).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]
HEADS = 8
ABN = ("weight", "bias", "running_mean", "running_var")


# --- the head ---------------------------------------------------------------------------------------------


def head_shapes(
    channels: int, dim: int, ffn_dim: int, *, classes: int = 0, groups: int = 0, word_dim: int = 0
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released head without its prefix; ``word_dim`` for word queries, else a closed set."""
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.embed_standart.weight": (dim, channels),
        "decoder.embed_standart.bias": (dim,),
        "decoder.layers.0.multihead_attn.in_proj_weight": (3 * dim, dim),
        "decoder.layers.0.multihead_attn.in_proj_bias": (3 * dim,),
        "decoder.layers.0.multihead_attn.out_proj.weight": (dim, dim),
        "decoder.layers.0.multihead_attn.out_proj.bias": (dim,),
        "decoder.layers.0.linear1.weight": (ffn_dim, dim),
        "decoder.layers.0.linear1.bias": (ffn_dim,),
        "decoder.layers.0.linear2.weight": (dim, ffn_dim),
        "decoder.layers.0.linear2.bias": (dim,),
    }
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= {f"decoder.layers.0.{norm}.{kind}": (dim,) for kind in ("weight", "bias")}
    if word_dim:
        shapes |= {"wordvec_proj.weight": (dim, word_dim), "wordvec_proj.bias": (dim,)}
        return shapes | {"decoder.duplicate_pooling": (dim, 1), "decoder.duplicate_pooling_bias": (1,)}
    factor = -(-classes // groups)
    shapes |= {"decoder.query_embed.weight": (groups, dim), "decoder.duplicate_pooling": (groups, dim, factor)}
    return shapes | {"decoder.duplicate_pooling_bias": (classes,)}


def head_logits(state: State, tokens: Tensor, words: Tensor | None = None) -> Tensor:
    """Logits ``(B, K)`` in float64, a query at a time.

    Args:
        state: the released head without its prefix.
        tokens: ``(B, L, C)``.
        words: ``(K, word_dim)`` for word queries.
    """
    state = {name: value.double() for name, value in state.items()}
    memory = F.relu(_linear(state, "decoder.embed_standart", tokens.double()))  # (B, L, D)
    attention = nn.MultiheadAttention(memory.shape[2], HEADS).double().eval()
    prefix = "decoder.layers.0.multihead_attn."
    attention.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    if words is None:
        queries = state["decoder.query_embed.weight"]
    else:
        queries = F.relu(_linear(state, "wordvec_proj", words.double()))
    pooling = state["decoder.duplicate_pooling"]
    columns = []
    for number, query in enumerate(queries):
        t = query.expand(1, len(memory), -1)  # (1, B, D)
        t = _norm(state, "norm1", t + t)
        t = _norm(state, "norm2", t + attention(t, memory.transpose(0, 1), memory.transpose(0, 1))[0])
        hidden = F.relu(_linear(state, "decoder.layers.0.linear1", t))
        t = _norm(state, "norm3", t + _linear(state, "decoder.layers.0.linear2", hidden))
        columns.append(t[0] @ (pooling if pooling.ndim == 2 else pooling[number]))  # (B, f)
    bias = state["decoder.duplicate_pooling_bias"]
    logits = torch.cat(columns, dim=1)  # (B, G * f)
    return (logits if words is not None else logits[:, : len(bias)]) + bias


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    name = f"decoder.layers.0.{name}"
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


# --- TResNet ----------------------------------------------------------------------------------------------


def tresnet_shapes(blocks: Sequence[int], width: int, bottlenecks: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released TResNet without its head.

    Args:
        blocks: of the four stages; M: 3, 4, 11, 3, L: 3, 4, 23, 3, XL: 3, 8, 34, 5, all of width 64.
        bottlenecks: in the first two stages too, as L and XL have them.
    """
    shapes = dict(_conv_abn("body.conv1", 48, width, 3))
    channels = width
    for stage, count in enumerate(blocks, start=1):
        planes, wide = width * 2 ** (stage - 1), bottlenecks or stage > 2
        out = planes * (4 if wide else 1)
        for block in range(count):
            base = f"body.layer{stage}.{block}"
            strided = stage > 1 and block == 0
            blurred = ".0" if strided else ""  # the convolution whose blur follows lies one level deeper
            if wide:
                shapes |= _conv_abn(f"{base}.conv1", channels, planes, 1)
                shapes |= _conv_abn(f"{base}.conv2{blurred}", planes, planes, 3)
                shapes |= _conv_abn(f"{base}.conv3", planes, out, 1)
            else:
                shapes |= _conv_abn(f"{base}.conv1{blurred}", channels, planes, 3)
                shapes |= _conv_abn(f"{base}.conv2", planes, planes, 3)
            if stage < 4:
                reduced = max(out // (8 if wide else 4), 64)
                shapes |= {f"{base}.se.fc1.weight": (reduced, planes, 1, 1), f"{base}.se.fc1.bias": (reduced,)}
                shapes |= {f"{base}.se.fc2.weight": (planes, reduced, 1, 1), f"{base}.se.fc2.bias": (planes,)}
            if block == 0 and (strided or channels != out):
                shapes |= _conv_abn(f"{base}.downsample.{int(strided)}", channels, out, 1)
            channels = out
    return shapes


def _conv_abn(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """A convolution and an InplaceABN, which counts no batches."""
    return {f"{name}.0.weight": (outputs, inputs, kernel, kernel), **{f"{name}.1.{kind}": (outputs,) for kind in ABN}}


def tresnet_tokens(state: State, images: Tensor) -> Tensor:
    """RGB in 0..1 ``(B, 3, H, W)`` -> ``(B, L, C)`` in float64."""
    state = {name: value.double() for name, value in state.items()}
    x = images.double()
    x = torch.cat([x[:, :, row::4, column::4] for row in range(4) for column in range(4)], dim=1)  # (B, 48, H/4, W/4)
    x = _apply(state, "body.conv1", x, slope=1e-2)
    for base in _blocks(state):
        x = _block(state, base, x)
    return x.flatten(2).transpose(1, 2)


def _blocks(state: State) -> Iterator[str]:
    for stage in range(1, 5):
        block = 0
        while any(name.startswith(f"body.layer{stage}.{block}.") for name in state):
            yield f"body.layer{stage}.{block}"
            block += 1


def _block(state: State, base: str, x: Tensor) -> Tensor:
    if f"{base}.downsample.1.0.weight" in state:
        pooled = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        shortcut = _apply(state, f"{base}.downsample.1", pooled)
    else:
        shortcut = _apply(state, f"{base}.downsample.0", x) if f"{base}.downsample.0.0.weight" in state else x
    if f"{base}.conv3.0.weight" in state:
        x = _maybe_blurred(state, f"{base}.conv1", x)
        x = _squeeze_excite(state, base, _maybe_blurred(state, f"{base}.conv2", x))
        x = _apply(state, f"{base}.conv3", x)
    else:
        x = _maybe_blurred(state, f"{base}.conv1", x)
        x = _squeeze_excite(state, base, _apply(state, f"{base}.conv2", x))
    return F.relu(x + shortcut)


def _maybe_blurred(state: State, name: str, x: Tensor) -> Tensor:
    """Convolution and norm; where they lie one level deeper, a binomial filter of stride 2 follows."""
    if f"{name}.0.weight" in state:
        return _apply(state, name, x, slope=1e-3)
    x = F.pad(_apply(state, f"{name}.0", x, slope=1e-3), (1, 1, 1, 1), mode="reflect")
    row = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    return F.conv2d(x, (row[:, None] * row).expand(x.shape[1], 1, 3, 3), stride=2, groups=x.shape[1])


def _squeeze_excite(state: State, base: str, x: Tensor) -> Tensor:
    if f"{base}.se.fc1.weight" not in state:
        return x
    mean = x.mean((2, 3), keepdim=True)
    hidden = F.relu(F.conv2d(mean, state[f"{base}.se.fc1.weight"], state[f"{base}.se.fc1.bias"]))
    return x * torch.sigmoid(F.conv2d(hidden, state[f"{base}.se.fc2.weight"], state[f"{base}.se.fc2.bias"]))


def _apply(state: State, name: str, x: Tensor, slope: float = 1.0) -> Tensor:
    """Convolution, InplaceABN (|w| + 1e-5 is its scale), leaky ReLU; slope 1 is the identity."""
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
    scale, shift, mean, variance = (state[f"{name}.1.{kind}"][None, :, None, None] for kind in ABN)
    x = (x - mean) / (variance + 1e-5).sqrt() * (scale.abs() + 1e-5) + shift
    return torch.where(x > 0, x, slope * x)


# --- values -----------------------------------------------------------------------------------------------


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random tensors: every norm's scale is of either sign, and large networks don't explode."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _fill(name, shape, generator) for name, shape in shapes.items()}


def _fill(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return drawn.abs() + 0.5
    if len(shape) == 4:
        return drawn * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    if len(shape) == 2:
        return drawn * shape[1] ** -0.5
    return drawn * 0.5

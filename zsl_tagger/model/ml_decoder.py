"""The ML-Decoder head (Ridnik et al. 2021, arXiv 2111.12933): tokens x queries -> logits.

Name map to the paper (section 3) and to the released code:

===================  ==========================================================  =========================
here                 what it is                                                  released state-dict name
===================  ==========================================================  =========================
``embed``            tokens = ReLU(Linear C -> D), no positional encoding        ``embed_standart``
``group_queries``    fixed random queries of the closed set, (G, D), never       ``query_embed``
                     trained (section 3.2, "non-learnable queries")
``word_embed``       queries = ReLU(Linear word_dim -> D) of word vectors (3.3)  ``wordvec_proj``
``layer``            one decoder layer without self-attention (3.2)              ``layers.0``
``group_weight``     group fully-connected, (G, D, f), f = ceil(K / G)           ``duplicate_pooling``
``bias``             (K,) closed set, (1,) word queries                          ``duplicate_pooling_bias``
===================  ==========================================================  =========================

Differences for speed and numerics, with the same logits:

- The part of the layer that depends on the queries alone is computed once per call instead of once per image (so its
  dropout is drawn once per batch), and :meth:`MLDecoder.prepare` reuses it across calls.
- Attention is fused (SDPA), and many labels are scored in chunks, so memory does not grow with their number.
- Under float16 autocast the attention is computed in float32, which cannot overflow; its output is normalised.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEFAULT_GROUPS = 100

#: Pairs of image and query processed at a time without gradients: 70 MB of activations at the default width.
PAIRS_AT_ONCE = 8192


class PreparedQueries(NamedTuple):
    """Image-independent part of a label set, reused across calls in evaluation.

    Attributes:
        states: the queries after the first norm, ``(K, D)``.
        projected: the same as the attention's queries, ``(K, D)``.
        key: identifies the weights (address and version of each) and the autocast type that they were computed with.
    """

    states: Tensor
    projected: Tensor
    key: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.states)


class CrossAttention(nn.Module):
    """Multi-head attention of queries over tokens, with the parameters of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(
                f"expected heads to divide the width, got dim={dim} and heads={heads}: make dim a multiple of heads"
            )
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        # Like nn.MultiheadAttention: Xavier over q, k and v as one (3D, D) matrix, whose fans are D and 3D.
        for linear in (self.q, self.k, self.v):
            nn.init.xavier_uniform_(linear.weight, gain=math.sqrt((dim + dim) / (dim + 3 * dim)))
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with projected queries ``(K, D)`` to keys and values of :meth:`read` -> ``(B, K, D)``."""
        dropout = self.dropout if self.training else 0.0
        q = self._by_head(q).expand(keys.shape[0], -1, -1, -1)  # (B, H, K, D/H)
        mixed = F.scaled_dot_product_attention(q, keys, values, dropout_p=dropout)  # (B, H, K, D/H)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, K, D)

    def with_weights(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same as :meth:`forward` without dropout; also return the attention, mean over heads, ``(B, K, L)``."""
        mixed, weights = self.mix(q, keys, values)
        return self.out(mixed), weights.mean(1)  # (B, K, D), (B, K, L)

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` projects at its end ``(B, K, D)``, and the heads' attention ``(B, H, K, L)``."""
        scores = self._by_head(q) @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])  # (B, H, K, L)
        weights = scores.softmax(-1)
        mixed = weights @ values  # (B, H, K, D/H)
        return mixed.transpose(1, 2).flatten(2), weights  # (B, K, D), (B, H, K, L)

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of tokens ``(B, L, D)``, ``(B, H, L, D/H)`` each."""
        return self._by_head(self.k(tokens)), self._by_head(self.v(tokens))

    def _by_head(self, x: Tensor) -> Tensor:
        """Split into heads: ``(..., n, D)`` -> ``(..., H, n, D/H)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class DecoderLayer(nn.Module):
    """The paper's layer: t = LN1(t + drop(t)); t = LN2(t + drop(attention)); t = LN3(t + drop(FFN(t))).

    LN1(t + t) in evaluation looks redundant, but the released weights were trained with it.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention = CrossAttention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def prepare(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the image-independent part: queries ``(K, D)`` -> t and the attention's queries, ``(K, D)`` each."""
        t = self.norm1(queries + self.dropout(queries))  # (K, D)
        return t, self.attention.q(t)

    def forward(self, t: Tensor, q: Tensor, read: tuple[Tensor, Tensor]) -> Tensor:
        """Apply the layer to the outputs of :meth:`prepare` and :meth:`CrossAttention.read` -> ``(B, K, D)``."""
        with range_of_float32(t):
            mixed = self.attention(q, *read)  # (B, K, D)
        return self.finish(t, mixed)

    def finish(self, t: Tensor, mixed: Tensor) -> Tensor:
        """Apply the part after the attention: t ``(K, D)``, mixed ``(B, K, D)`` -> ``(B, K, D)``."""
        t = self.norm2(t + self.dropout(mixed))  # (B, K, D)
        ffn = self.linear2(self.dropout(F.relu(self.linear1(t), inplace=True)))  # (B, K, D)
        return self.norm3(t + self.dropout(ffn))


class MLDecoder(nn.Module):
    """ML-Decoder over tokens, for a closed set of classes or for word queries.

    Args:
        in_channels: C of the tokens.
        num_classes: K of a closed set. Exactly one of ``num_classes`` and ``word_dim`` is given.
        word_dim: dimension of the word vectors passed to :meth:`forward` as queries.
        groups: G of group decoding (closed set): each query answers ceil(K / G) classes. Default min(100, K).
        dim, ffn_dim, heads, dropout: sizes of the decoder layer, by default the released ones.

    Raises:
        ValueError: sizes do not fit.
    """

    group_queries: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int | None = None,
        word_dim: int | None = None,
        groups: int | None = None,
        dim: int = 768,
        ffn_dim: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        if (num_classes is None) == (word_dim is None):
            raise ValueError("give exactly one of num_classes (closed set) and word_dim (word queries)")
        self.in_channels, self.num_classes, self.word_dim, self.dim = in_channels, num_classes, word_dim, dim
        self.embed = nn.Linear(in_channels, dim)
        self.layer = DecoderLayer(dim, ffn_dim, heads, dropout)
        self.word_embed: nn.Linear | None = None
        if word_dim is not None:
            if groups is not None:
                raise ValueError(
                    "groups belong to a closed set: word queries have one query per label (GroupedWords has fewer)"
                )
            self.word_embed = nn.Linear(word_dim, dim)
            self.group_weight = nn.Parameter(torch.empty(1, dim, 1))
            self.bias = nn.Parameter(torch.zeros(1))
        else:
            assert num_classes is not None
            groups = _checked_groups(num_classes, groups)
            self.register_buffer("group_queries", torch.randn(groups, dim))
            self.group_weight = nn.Parameter(torch.empty(groups, dim, math.ceil(num_classes / groups)))
            self.bias = nn.Parameter(torch.zeros(num_classes))
        self._kept: PreparedQueries | None = None  # for a closed set in evaluation
        nn.init.xavier_normal_(self.group_weight)  # over the 3-D tensor, as released: std sqrt(2 / ((D + G) f))

    def forward(self, tokens: Tensor, queries: Tensor | PreparedQueries | None = None) -> Tensor:
        """Return the logits of every label for every image.

        Args:
            tokens: ``(B, L, C)`` float.
            queries: word vectors ``(K, word_dim)``, or the output of :meth:`prepare`; None for a closed set.

        Returns:
            ``(B, K)``. A label's logit does not depend on the other labels, nor an image's on the batch.

        Raises:
            ValueError: shapes do not fit; in evaluation also if logits are not finite.
        """
        return self.score(self.embed_tokens(tokens), queries)

    def prepare(self, queries: Tensor | None = None) -> PreparedQueries:
        """Precompute the image-independent part of a label set, for evaluation with these weights."""
        states, projected = self._prepare(queries)
        return PreparedQueries(states, projected, self._key())

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Apply step 1, once per image: ``(B, L, C)`` -> ``(B, L, D)``."""
        check_tokens(tokens, self.in_channels)
        with range_of_float32(tokens):
            return F.relu(self.embed(tokens), inplace=True)

    def score(self, embedded: Tensor, queries: Tensor | PreparedQueries | None = None) -> Tensor:
        """Apply steps 2 to 4, for any labels: embedded tokens ``(B, L, D)`` -> logits ``(B, K)``."""
        check_embedded(embedded, self.dim)
        t, q = self._of_queries(queries)
        with range_of_float32(embedded):
            read = self.layer.attention.read(embedded)
        if is_traced() or torch.is_grad_enabled():
            outputs = _outputs(self.layer(t, q, read), self.group_weight)
        else:
            outputs = self._in_chunks(t, q, read, max(1, PAIRS_AT_ONCE // len(embedded)))
        logits = outputs[:, : self.num_classes] + self.bias  # (B, K)
        if not self.training and not is_traced():
            check_numbers(logits, embedded)
        return logits

    def score_with_attention(
        self, embedded: Tensor, queries: Tensor | PreparedQueries | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and the attention of each query, ``(B, number of queries, L)``; rows sum to 1.

        For evaluation: the attention itself has no dropout here.
        """
        check_embedded(embedded, self.dim)
        t, q = self._of_queries(queries)
        mixed, weights = self.layer.attention.with_weights(q, *self.layer.attention.read(embedded))
        outputs = _outputs(self.layer.finish(t, mixed), self.group_weight)
        return outputs[:, : self.num_classes] + self.bias, weights

    def query_of(self, classes: Tensor) -> Tensor:
        """Return which group query answers each class of a closed set, int64 ``(K,)`` -> ``(K,)``."""
        return classes // self.group_weight.shape[2]

    def architecture(self) -> dict[str, Any]:
        """Return the head's sizes for ``config.json``."""
        heads = self.layer.attention.heads
        shape: dict[str, Any] = {"dim": self.dim, "ffn_dim": self.layer.linear1.out_features, "heads": heads}
        if self.num_classes is not None:
            shape |= {"classes": self.num_classes, "groups": len(self.group_weight)}
        return shape

    def _of_queries(self, queries: Tensor | PreparedQueries | None) -> tuple[Tensor, Tensor]:
        """Return t and q of :meth:`DecoderLayer.prepare`; for a closed set they are cached in evaluation."""
        if isinstance(queries, PreparedQueries):
            if not is_traced() and (self.training or queries.key != self._key()):
                raise ValueError(
                    "expected queries prepared in evaluation with these weights (and this autocast), got others: call "
                    "prepare() again, or give the word vectors"
                )
            return queries.states, queries.projected
        if self.training or torch.is_grad_enabled() or self.word_embed is not None or is_traced():
            return self._prepare(queries)
        if queries is not None or self._kept is None or self._kept.key != self._key():
            self._kept = self.prepare(queries)
        return self._kept.states, self._kept.projected

    def _prepare(self, queries: Tensor | None) -> tuple[Tensor, Tensor]:
        with range_of_float32(self.bias):
            return self.layer.prepare(self._query_states(queries))

    def _key(self) -> tuple[Any, ...]:
        parts = [self.layer.norm1, self.layer.attention.q, *([self.word_embed] if self.word_embed is not None else [])]
        weights = [weight for part in parts for weight in part.parameters()] + list(self.buffers(recurse=False))
        return _autocast_dtype(self.bias), *((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights)

    def _query_states(self, queries: Tensor | None) -> Tensor:
        if self.word_embed is None:
            if queries is not None:
                raise ValueError("this head has a closed set of classes: call it without queries")
            return self.group_queries  # (G, D)
        return F.relu(self.word_embed(check_queries(queries, self.word_embed.in_features)))  # (K, D)

    def _in_chunks(self, t: Tensor, q: Tensor, read: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Return the outputs ``(B, Q * f)`` without holding the states of all Q queries: t and q ``(Q, D)``."""
        weights = self.group_weight.split(step) if self.word_embed is None else repeat(self.group_weight)
        chunks = zip(t.split(step), q.split(step), weights, strict=False)
        return torch.cat([_outputs(self.layer(t, q, read), weight) for t, q, weight in chunks], dim=1)


def check_tokens(tokens: Tensor, channels: int) -> None:
    """Raise a ValueError unless these are tokens ``(B, L, channels)``."""
    if tokens.ndim != 3 or tokens.shape[2] != channels:
        raise ValueError(
            f"expected tokens (B, L, {channels}), got {tuple(tokens.shape)}: for a feature map (B, C, h, w), pass "
            "map.flatten(2).transpose(1, 2)"
        )


def check_embedded(embedded: Tensor, dim: int) -> None:
    """Raise a ValueError unless these are embedded tokens ``(B, L, dim)``, at least one an image."""
    if embedded.ndim != 3 or embedded.shape[1] == 0 or embedded.shape[2] != dim:
        raise ValueError(f"expected embedded tokens (B, L >= 1, {dim}), got {tuple(embedded.shape)}")


def check_numbers(logits: Tensor, embedded: Tensor) -> None:
    """Raise a ValueError if logits are not finite; the message says whether the tokens were."""
    if bool(torch.isfinite(logits).all()):
        return
    if not bool(torch.isfinite(embedded).all()):
        raise ValueError(
            "expected tokens that are finite numbers, got NaN or infinite ones: check the images and the "
            "backbone (its weights; in float16 it may overflow: try bfloat16)"
        )
    raise ValueError(
        "expected logits that are finite numbers, got NaN or infinite ones: check the queries and the head's weights"
    )


def check_queries(queries: Tensor | None, word_dim: int) -> Tensor:
    """Return word vectors; raise a ValueError unless they are ``(K >= 1, word_dim)``."""
    if queries is None or queries.ndim != 2 or queries.shape[1] != word_dim:
        got = None if queries is None else tuple(queries.shape)
        raise ValueError(f"expected queries (K, {word_dim}), got {got}: give word vectors of the head's word_dim")
    if queries.shape[0] == 0:  # not len(), which torch.export treats as a constant
        raise ValueError(f"expected at least one query, got (0, {word_dim}): give labels")
    return queries


def _outputs(states: Tensor, weight: Tensor) -> Tensor:
    """Return logits before the bias, ``(B, Q * f)``, of states ``(B, Q, D)`` and weights ``(Q or 1, D, f)``."""
    if len(weight) == 1:
        return (states @ weight[0]).flatten(1)  # (B, Q, D) @ (D, f) -> (B, Q * f)
    return torch.einsum("bgd,gdf->bgf", states, weight).flatten(1)  # (B, Q * f)


def range_of_float32(like: Tensor) -> AbstractContextManager[object]:
    """Compute in float32, which cannot overflow here, under float16 autocast on the device of ``like``."""
    narrow = _autocast_dtype(like) == torch.float16
    return torch.autocast(like.device.type, enabled=False) if narrow else nullcontext()


def _autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return the autocast type on the device of ``like``; None without autocast."""
    device = like.device.type
    on = not like.is_meta and torch.is_autocast_enabled(device)  # "meta" has no autocast
    return torch.get_autocast_dtype(device) if on else None


def is_traced() -> bool:
    """Return whether a graph is being traced, which must not depend on values or on the state of this object."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _checked_groups(num_classes: int, groups: int | None) -> int:
    if num_classes < 1:
        raise ValueError(f"expected at least one class, got num_classes={num_classes}")
    if groups is None:
        return min(DEFAULT_GROUPS, num_classes)
    if not 1 <= groups <= num_classes:
        raise ValueError(
            f"expected 1 <= groups <= num_classes={num_classes}, got groups={groups}: without groups, one per class, "
            f"at most {DEFAULT_GROUPS}"
        )
    return groups

"""Score with the two streams of MKT (He et al., AAAI 2023, arXiv 2207.01887): a global and a local cosine.

With the image's vector x_0 and its patches x_1 ... x_L as CLIP's tower projects them, and the text vector q_k of label
k::

    g_k  = cos(W x_0, q_k)                                        global: the whole image
    l_k  = mean of the n largest of cos(V x_j, q_k), j = 1 ... L  local: the most similar patches
    y_k  = s (g_k + l_k) / 2 + b

W, V, s and b are trained; W and V start as the identity, so that an untrained head scores like CLIP. n is 16, the
default of the released code, or L if there are fewer patches.

Differences from the paper and its code (github.com/sunanhe/MKT): there the tower's own projection and layers are
trained; here W and V come after the projection, so that the tower can stay frozen. Averaging both
streams follows the code, which however normalises each stream's scores over all labels; here they are cosines, since a
label's score must not depend on the other labels. The loss is the trainer's and not a ranking loss, and there is
neither distillation from CLIP nor the second stage, which tunes prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.cosine import CLIP_COSINE, CLIP_SCALE
from zsl_tagger.model.ml_decoder import PreparedQueries, check_tokens, range_of_float32

#: ``architecture["head"]`` of a model folder with this head, and ``head`` of settings.
LOCAL_GLOBAL = "local-global"

#: n in the released code.
LOCAL_TOP = 16


class LocalGlobalHead(nn.Module):
    """Head on tokens ``(B, 1 + L, D)``, the image vector first, and queries ``(K, D)`` -> logits ``(B, K)``.

    It has the methods of :class:`~zsl_tagger.model.ml_decoder.MLDecoder` with word queries.

    Args:
        dim: dimension of the tokens and the queries, which share a space.
        scale, bias: initial conversion of cosines to logits.
        top: n, the number of most similar patches.
    """

    num_classes = None

    def __init__(
        self, dim: int, scale: float = CLIP_SCALE, bias: float = -CLIP_SCALE * CLIP_COSINE, top: int = LOCAL_TOP
    ):
        super().__init__()
        if top < 1:
            raise ValueError(f"expected at least one patch, got top={top}")
        self.dim = self.word_dim = dim
        self.top = top
        self.of_image, self.of_patches = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        for layer in (self.of_image, self.of_patches):
            nn.init.eye_(layer.weight)
        # Scalars, not of shape (1,), so that the bias of another head is never copied into this one.
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @property
    def scale(self) -> Tensor:
        """Return s, above 0."""
        return self.log_scale.exp()

    def architecture(self) -> dict[str, Any]:
        """Return the head's kind and sizes for ``config.json``."""
        return {"head": LOCAL_GLOBAL, "local_top": self.top}

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return unit vectors of the image and of its patches: ``(B, 1 + L, D)`` -> ``(B, 1 + L, D)``."""
        check_tokens(tokens, self.dim)
        with range_of_float32(tokens):
            both = torch.cat([self.of_image(tokens[:, :1]), self.of_patches(tokens[:, 1:])], dim=1)  # (B, 1 + L, D)
            return F.normalize(both, dim=-1)

    def prepare(self, queries: Tensor) -> PreparedQueries:
        """Precompute the image-independent part of labels ``(K, D)``."""
        unit = F.normalize(queries, dim=-1)  # (K, D)
        return PreparedQueries(unit, unit * self.scale, ())

    def score(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Return the logits ``(B, K)`` of embedded tokens ``(B, 1 + L, D)``."""
        return self._score(embedded, queries)[0]

    def score_with_attention(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and the similarity of each patch, ``(B, K, L)``; rows sum to 1."""
        logits, local = self._score(embedded, queries)
        return logits, local.softmax(dim=1).transpose(1, 2)  # (B, L, K) -> (B, K, L)

    def _score(self, embedded: Tensor, queries: Tensor | PreparedQueries) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` and the scaled cosines of the patches ``(B, L, K)``."""
        prepared = queries if isinstance(queries, PreparedQueries) else self.prepare(queries)
        with range_of_float32(embedded):
            embedded = embedded.to(prepared.states.dtype)
            whole = embedded[:, 0] @ prepared.states.T * self.scale  # (B, K)
            local = embedded[:, 1:] @ prepared.projected.T  # (B, L, K), times s
            best = local.topk(min(self.top, local.shape[1]), dim=1).values  # (B, n, K)
            return (whole + best.mean(dim=1)) / 2 + self.bias, local

    def forward(self, tokens: Tensor, queries: Tensor | PreparedQueries) -> Tensor:
        """Return the logits ``(B, K)`` of tokens ``(B, 1 + L, D)`` and queries ``(K, D)``."""
        return self.score(self.embed_tokens(tokens), queries)

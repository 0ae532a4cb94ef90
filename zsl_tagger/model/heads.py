"""Make the head that an architecture of ``config.json`` states."""

from __future__ import annotations

from typing import Any

from zsl_tagger.model.cosine import COSINE, CosineHead
from zsl_tagger.model.csra import CSRA
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.linear_head import LinearHead
from zsl_tagger.model.local_global import LOCAL_GLOBAL, LocalGlobalHead
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.query2label import Query2Label

Head = MLDecoder | GroupedWords | CosineHead | LocalGlobalHead | LinearHead | CSRA | Query2Label

#: Sizes that an architecture must state, by its ``head``; "" is ML-Decoder, which architectures do not name.
REQUIRED = {
    "": ("dim", "ffn_dim", "heads"),
    COSINE: (),
    LOCAL_GLOBAL: ("local_top",),
    "linear": ("classes",),
    "csra": ("classes", "csra_lambda", "csra_heads", "csra_temperature"),
    "query2label": ("classes", "dim", "ffn_dim", "heads"),
}


def build_head(architecture: dict[str, Any], channels: int, word_dim: int | None) -> Head:
    """Return a head with random weights.

    Args:
        architecture: see :func:`zsl_tagger.model.pretrained.build_model`.
        channels: C of the tokens.
        word_dim: width of the word vectors; None for a closed set.

    Raises:
        ValueError: sizes that do not fit.
    """
    kind = architecture.get("head", "")
    if kind == COSINE:
        return CosineHead(channels)
    if kind == LOCAL_GLOBAL:
        return LocalGlobalHead(channels, top=architecture["local_top"])
    if kind == "linear":
        return LinearHead(channels, architecture["classes"])
    if kind == "csra":
        weight, heads, temperature = (architecture[f"csra_{name}"] for name in ("lambda", "heads", "temperature"))
        return CSRA(channels, architecture["classes"], weight=weight, heads=heads, temperature=temperature)
    sizes = {name: architecture[name] for name in ("dim", "ffn_dim", "heads")}
    sizes["dropout"] = architecture.get("dropout", 0.0)
    if kind == "query2label":
        return Query2Label(channels, architecture["classes"], **sizes)
    groups = architecture.get("groups")
    if word_dim is None:
        return MLDecoder(channels, num_classes=architecture["classes"], groups=groups, **sizes)
    if groups is None:
        return MLDecoder(channels, word_dim=word_dim, **sizes)
    return GroupedWords(channels, word_dim, groups, **sizes)

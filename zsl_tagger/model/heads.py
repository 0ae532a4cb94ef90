"""Build the head described by the architecture in ``config.json``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zsl_tagger.errors import UserError
from zsl_tagger.model.cosine import COSINE, CosineHead
from zsl_tagger.model.csra import CSRA
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.linear_head import LinearHead
from zsl_tagger.model.local_global import LOCAL_GLOBAL, LocalGlobalHead
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.query2label import Query2Label

Head = MLDecoder | GroupedWords | CosineHead | LocalGlobalHead | LinearHead | CSRA | Query2Label

#: Builds a custom head from the token dimension, and the word vector dimension or the number of classes.
OwnHead = Callable[[int, int], nn.Module]

#: Members of a head that are used, besides ``prepare`` (word queries) or ``query_of`` (closed set).
NEEDED = ("architecture", "embed_tokens", "num_classes", "score", "score_with_attention", "word_dim")

#: Sizes that an architecture must state, by its ``head``; "" is ML-Decoder, which has no ``head`` entry.
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


def build_own_head(make: OwnHead, channels: int, word_dim: int | None, classes: int) -> Any:
    """Build and check a custom head.

    Args:
        channels: C of the tokens.
        word_dim: width of the word vectors; None for a closed set of ``classes``.

    Raises:
        UserError: it lacks a method of a head, or states other sizes or the name of another head.
    """
    closed = word_dim is None
    head: Any = make(channels, classes if word_dim is None else word_dim)
    what = f"the head {type(head).__name__}"
    lacks = [name for name in (*NEEDED, "query_of" if closed else "prepare") if not hasattr(head, name)]
    is_module = isinstance(head, nn.Module)
    if not is_module or lacks:
        lacking = f" with {', '.join(lacks)}" if lacks else ""
        raise UserError(f"expected {what} to be a torch module{lacking}: docs/paper.md has an example")
    stated, expected = (head.num_classes, head.word_dim), (classes if closed else None, word_dim)
    if stated != expected:
        raise UserError(
            f"expected {what} to have num_classes={expected[0]} and word_dim={expected[1]}, "
            f"got {stated[0]} and {stated[1]}"
        )
    kind = head.architecture().get("head")
    if not isinstance(kind, str) or not kind or kind in {*REQUIRED, "words", "closed"}:
        raise UserError(f"expected {what} to have a name of its own as architecture()['head'], got {kind!r}")
    return head

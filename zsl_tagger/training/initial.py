"""Load the initial weights of a run, and report which weights were loaded and which were not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsl_tagger.assets import PACKAGED
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_evidence import has_class_evidence
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.heads import OwnHead
from zsl_tagger.model.local_global import LOCAL_GLOBAL
from zsl_tagger.model.pretrained import build_model, load_backbone_file, load_model, pretrained_backbone, take_over
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.tagging.model_folder import CONFIG_FILE, ModelConfig, read_config
from zsl_tagger.training.config import TrainConfig

#: Number of classes of ImageNet-1k, which ``class_words.json`` refers to.
IMAGENET_CLASSES = 1000


def model_to_start_from(init: str) -> Path | None:
    """Return the model folder that ``init`` names, or None if it names something else."""
    if init == "packaged":
        return PACKAGED
    return Path(init) if (Path(init) / CONFIG_FILE).is_file() else None


def initial_model(
    config: TrainConfig,
    dataset: PreparedDataset,
    classes: int,
    vectors: np.ndarray | None = None,
    own_head: OwnHead | None = None,
) -> tuple[TaggerModel, list[str]]:
    """Return the initial model of a run, and lines that say which weights were loaded and which were not.

    Args:
        vectors: vectors of the trained labels, to group words.
        own_head: builds a custom head instead of the one in the settings.

    Raises:
        UserError: the weights are unavailable or unreadable, or they do not fit.
    """
    word_dim = None if config.closed else dataset.word_vectors.shape[1]
    options: dict[str, Any] = {"image_size": config.image_size}
    if config.project_tokens:
        options["projection"] = "both" if config.head == LOCAL_GLOBAL else "tokens"
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    architecture: dict[str, Any] = {
        "dim": config.dim, "ffn_dim": config.ffn_dim, "heads": config.heads, "dropout": config.dropout,
        "classes": classes, "groups": config.groups, "csra_lambda": config.csra_lambda,
        "csra_heads": config.csra_heads, "csra_temperature": config.csra_temperature, "local_top": config.local_top,
    }  # fmt: skip
    if config.head not in ("words", "closed"):  # an architecture without a head's name means ML-Decoder
        architecture["head"] = config.head
    source = model_to_start_from(config.init)
    if source is not None:
        shape = read_config(source)
        _check_same_words(shape, source, dataset, word_dim)
        architecture |= {"class_reading": bool(shape.architecture.get("class_reading")) and word_dim is not None}
        theirs, backbone = load_model(source), Backbone(config.backbone, **options)
        _check_same_space(backbone, config, dataset)
        model = _build(backbone, architecture, word_dim, config, vectors, own_head)
        lines = take_over(model, theirs, str(config.init))
        if not shape.unit_queries:
            lines.append(f"{config.init} was trained on word vectors of various lengths; here their length is 1")
        return model, [*lines, *_with_class_evidence(model, config)]
    if config.init == "timm":
        backbone, where = pretrained_backbone(config.backbone, **options)
        lines = [f"backbone {config.backbone}: all of its weights from {where}"]
    elif config.init == "scratch":
        backbone, lines = Backbone(config.backbone, **options), [f"backbone {config.backbone}: random weights"]
    elif Path(config.init).is_file():
        backbone = Backbone(config.backbone, **options)
        lines = load_backbone_file(backbone, Path(config.init))
    else:
        raise UserError(
            f"expected --init timm, scratch, packaged, a model folder or a file of weights, got {config.init!r}"
        )
    _check_same_space(backbone, config, dataset)
    model = _build(backbone, architecture, word_dim, config, vectors, own_head)
    if own_head is not None:
        head = f"{type(model.head).__name__}, with the weights it was created with"
    else:
        head = "starts as CLIP's cosine similarity" if config.head == LOCAL_GLOBAL else "random weights"
    return model, [*lines, f"head: {head}", *_with_class_evidence(model, config)]


def _with_class_evidence(model: TaggerModel, config: TrainConfig) -> list[str]:
    """Let the encoder return class probabilities if requested and possible, and return lines that report it."""
    if not config.class_evidence or config.closed:  # class evidence is for words
        return []
    if not config.freeze:
        return ["class evidence: none, because a trained backbone no longer fits its classifier"]
    if config.init == "scratch" or not has_class_evidence(model.backbone, config.image_size, IMAGENET_CLASSES):
        return [f"class evidence: none, because {config.backbone} has no ImageNet-1k classifier over pooled tokens"]
    model.class_evidence = True
    return ["class evidence: the backbone's classifier contributes to words for ImageNet classes"]


def _check_same_space(backbone: Backbone, config: TrainConfig, dataset: PreparedDataset) -> None:
    """Raise a UserError if projected tokens and queries cannot be in the same space."""
    width = dataset.word_vectors.shape[1]
    if config.project_tokens and not config.closed and backbone.channels != width:
        source = (dataset.info.get("word_vectors") or {}).get("source") or "an unknown source"
        raise UserError(
            f"project_tokens projects the tokens of {backbone.name} to the {backbone.channels} dimensions of its text "
            f"tower, but the word vectors of {dataset.folder} have {width} (from {source}): prepare the data with "
            "--word-vectors open_clip:... for the same model, or set project_tokens=false"
        )


def _build(
    backbone: Backbone,
    architecture: dict[str, Any],
    word_dim: int | None,
    config: TrainConfig,
    vectors: np.ndarray | None,
    own_head: OwnHead | None,
) -> TaggerModel:
    try:
        model = build_model(backbone, architecture, word_dim, own_head)
    except ValueError as error:  # sizes of the head that do not fit
        raise UserError(str(error)) from None
    if isinstance(model.head, GroupedWords) and vectors is not None:
        model.head.group(vectors, config.seed)
    if config.bias_init and isinstance(getattr(model.head, "bias", None), torch.Tensor):  # a custom head may have none
        torch.nn.init.constant_(model.head.bias, config.bias_init)
    return model


def _check_same_words(shape: ModelConfig, source: Path, dataset: PreparedDataset, word_dim: int | None) -> None:
    if word_dim is None or shape.closed_set:
        return
    if shape.word_dim != word_dim:
        hint = (
            "prepare the data with --word-vectors packaged" if source == PACKAGED else "prepare it with the same source"
        )
        raise UserError(
            f"the word vectors of {dataset.folder} have {word_dim} dimensions, but {source} was trained on "
            f"{shape.word_dim}: {hint}"
        )

"""The weights a run starts from. What was loaded and what was not is said, never silently partial."""

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

#: Of ImageNet-1k, whose classes the words of ``class_words.json`` mean.
IMAGENET_CLASSES = 1000


def model_to_start_from(init: str) -> Path | None:
    """Return the model folder that ``init`` names; None where it names none."""
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
    """Return the model a run starts from, and lines that say which weights were loaded and which were not.

    Args:
        vectors: of the trained labels, of which groups of words are made.
        own_head: makes the head in place of the settings.

    Raises:
        UserError: weights that cannot be had, read, or do not fit.
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
    if config.head not in ("words", "closed"):  # both are ML-Decoder, which has no name in an architecture
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
            lines.append(f"{config.init} was trained on word vectors of other lengths: they are asked at length 1 here")
        return model, [*lines, *_with_class_evidence(model, config)]
    if config.init == "timm":
        backbone, where = pretrained_backbone(config.backbone, **options)
        lines = [f"backbone {config.backbone}: all of its weights from {where}"]
    elif config.init == "scratch":
        backbone, lines = Backbone(config.backbone, **options), [f"backbone {config.backbone}: starts at random"]
    elif Path(config.init).is_file():
        backbone = Backbone(config.backbone, **options)
        lines = load_backbone_file(backbone, Path(config.init))
    else:
        raise UserError(
            f"expected --init timm, scratch, packaged, a model folder or a file of weights, got {config.init!r}, "
            "which is none of them"
        )
    _check_same_space(backbone, config, dataset)
    model = _build(backbone, architecture, word_dim, config, vectors, own_head)
    if own_head is not None:
        head = f"{type(model.head).__name__}, as it was made"
    else:
        head = "starts as CLIP's cosines" if config.head == LOCAL_GLOBAL else "starts at random"
    return model, [*lines, f"head: {head}", *_with_class_evidence(model, config)]


def _with_class_evidence(model: TaggerModel, config: TrainConfig) -> list[str]:
    """Let the encoder give class probabilities, where that is asked and the backbone can; returns lines that say so."""
    if not config.class_evidence or config.closed:  # it is for words that mean classes
        return []
    if not config.freeze:
        return ["class evidence: none, since a trained backbone no longer fits its own classifier"]
    if config.init == "scratch" or not has_class_evidence(model.backbone, config.image_size, IMAGENET_CLASSES):
        return [f"class evidence: none, since {config.backbone} has no trained ImageNet-1k classifier over its mean"]
    model.class_evidence = True
    return ["class evidence: words that mean ImageNet classes hear the backbone's classifier"]


def _check_same_space(backbone: Backbone, config: TrainConfig, dataset: PreparedDataset) -> None:
    """Raise a UserError where projected tokens and the queries cannot be in one space."""
    width = dataset.word_vectors.shape[1]
    if config.project_tokens and not config.closed and backbone.channels != width:
        source = (dataset.info.get("word_vectors") or {}).get("source") or "an unknown source"
        raise UserError(
            f"project_tokens puts the tokens of {backbone.name} into the space of its text tower, {backbone.channels} "
            f"wide, but the word vectors of {dataset.folder} are {width} wide, from {source}: prepare the data with "
            "--word-vectors open_clip:... of the same model, or set project_tokens=false"
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
    if config.bias_init and isinstance(getattr(model.head, "bias", None), torch.Tensor):  # an own head may have none
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
            f"the word vectors of {dataset.folder} are {word_dim} wide, those that {source} was trained with "
            f"{shape.word_dim}: {hint}"
        )

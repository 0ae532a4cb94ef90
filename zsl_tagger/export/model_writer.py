"""Write a torch model as a model folder, for training and the import of checkpoints."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsl_tagger.export.networks import ExportError
from zsl_tagger.export.proof import Proof
from zsl_tagger.export.proven import write_proven
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.model.pretrained import save_weights
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import move_whole, scratch_inside, write_errors, write_whole
from zsl_tagger.tagging.class_evidence import CLASS_WORDS_FILE, EvidenceWords, read_class_words
from zsl_tagger.tagging.label_set import LabelSet, vocabulary_of
from zsl_tagger.tagging.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    NETWORK_FILES,
    ModelConfig,
    VocabularyLabel,
    write_config,
    write_labels,
)
from zsl_tagger.words.table import ClassTable, WordTable

logger = logging.getLogger(__name__)

#: Threshold of a label without validation images.
THRESHOLD = 0.5


def write_model_folder(
    model: TaggerModel,
    folder: Path,
    config: ModelConfig,
    labels: list[VocabularyLabel],
    words: WordTable | None,
    card: str,
) -> str | None:
    """Write the model folder; ``config.json`` comes last and marks the folder as complete.

    Args:
        words: word table; None for a closed set.
        card: the model card, Markdown.

    Returns:
        why there are no ONNX networks, which ``tag`` needs; None on success.
    """
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_labels(folder, labels)
    if words is not None:
        words.save(folder)
    model = model.cpu().float().eval()
    save_weights(model, folder)
    known = words or ClassTable([label.name for label in labels])
    evidence_words = EvidenceWords(read_class_words(folder / CLASS_WORDS_FILE)) if model.class_evidence else None
    reason = _export(model, folder, config, vocabulary_of(labels, known, config, evidence_words))
    write_whole(folder / CARD_FILE, card.encode("utf-8", "replace"))
    write_config(folder, config)
    return reason


def preprocessing_of(model: TaggerModel, pixels: Preprocessing) -> Preprocessing:
    """Return the preprocessing for ``config.json``: ``pixels`` with the model's mean and standard deviation."""
    mean, std = model.normalization
    return replace(pixels, mean=mean, std=std)


def architecture_of(model: TaggerModel, softmax: bool = False) -> dict[str, Any]:
    """Return the ``architecture`` for ``config.json``, which :func:`zsl_tagger.model.pretrained.build_model` reads.

    Args:
        softmax: see :class:`zsl_tagger.model.tagger_model.DecoderForExport`.
    """
    projection = model.backbone.projection
    shape: dict[str, Any] = {
        "backbone": model.backbone.name,
        **({} if projection == "none" else {"projection": projection}),
        "class_reading": model.reading is not None,
        "class_evidence": model.class_evidence,
        **model.head.architecture(),
    }
    return shape if model.head.num_classes is None else shape | {"softmax": softmax}


def _export(model: TaggerModel, folder: Path, config: ModelConfig, vocabulary: LabelSet) -> str | None:
    """Write the ONNX networks, or return why that failed; a full disk is raised instead."""
    try:
        proof = Proof(model, config, vocabulary)
        with scratch_inside(folder) as scratch, write_errors(folder):
            networks = write_proven(model, scratch, config, proof)
            move_whole(scratch, folder)
    except ExportError as error:
        for name in NETWORK_FILES:  # networks of an earlier run, which do not match
            (folder / name).unlink(missing_ok=True)
        return str(error)
    difference = proof.compare(networks).difference
    logger.info("exported to ONNX; logits differ from torch by at most %.0e", difference)
    return None

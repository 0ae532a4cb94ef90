"""A model in torch -> a model folder: what training and the import of checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import first_line
from zsl_tagger.export import export_onnx
from zsl_tagger.files import write_whole
from zsl_tagger.model.pretrained import save_weights
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.model_folder import (
    CONFIG_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    PACKAGED,
    ModelConfig,
    VocabularyLabel,
    write_config,
    write_labels,
)
from zsl_tagger.queries import WordTable, unit_length
from zsl_tagger.word_sources import WordSource

CARD_FILE = "README.md"

#: Of a label without validation images to choose one on.
THRESHOLD = 0.5

#: A label whose vector is further from the table's than this cosine gets a row of its own.
SAME_VECTOR = 0.995


def write_model_folder(
    model: TaggerModel,
    folder: Path,
    config: ModelConfig,
    labels: list[VocabularyLabel],
    words: WordTable | None,
    card: str,
    note: Callable[[str], None],
) -> str | None:
    """Write the model folder; ``config.json`` comes last, so a folder that has it is whole.

    Args:
        words: what can be asked; None for a closed set.
        card: the model card, Markdown.

    Returns:
        why there are no networks in ONNX, which ``tag`` needs; None where they are.
    """
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_labels(folder, labels)
    if words is not None:
        words.save(folder)
    model = model.cpu().float().eval()
    save_weights(model, folder)
    reason = _export(model, folder, config, note)
    write_whole(folder / CARD_FILE, card.encode("utf-8", "replace"))
    write_config(folder, config)
    return reason


def architecture_of(model: TaggerModel, softmax: bool = False) -> dict[str, Any]:
    """``architecture`` of ``config.json``, which :func:`zsl_tagger.model.pretrained.build_model` reads.

    Args:
        softmax: see :class:`zsl_tagger.model.tagger_model.DecoderForExport`.
    """
    layer = model.head.layer
    shape: dict[str, Any] = {
        "backbone": model.backbone.name,
        "class_reading": model.reading is not None,
        "dim": model.head.dim,
        "ffn_dim": layer.linear1.out_features,
        "heads": layer.attention.heads,
    }
    if model.head.num_classes is not None:
        shape |= {"classes": model.head.num_classes, "groups": len(model.head.group_weight), "softmax": softmax}
    return shape


def _export(model: TaggerModel, folder: Path, config: ModelConfig, note: Callable[[str], None]) -> str | None:
    try:
        difference = export_onnx(model, folder, config.image_size, softmax=bool(config.architecture.get("softmax")))
    except OSError:  # a full disk is no fault of the network
        raise
    except Exception as error:  # the exporter raises what it likes on networks it does not know
        for name in (ENCODER_FILE, DECODER_FILE):  # they may be there and compute something else
            (folder / name).unlink(missing_ok=True)
        return first_line(error)
    note(f"exported to ONNX; a logit differs from torch by {difference:.0e} at most")
    return None


# --- words to ask -----------------------------------------------------------------------------------------


def known_words(source: WordSource, count: int) -> WordTable | None:
    """Those of the packaged model's first words that a source knows, with its vectors; None where there are none."""
    candidates = [(word, source.resolve(word)) for word in WordTable.load(PACKAGED).words[:count]]
    known = [(word, found) for word, found in candidates if found is not None]
    if not known:
        return None
    vectors = source.vectors_of([found for _, found in known])
    return WordTable([word for word, _ in known], _int8(vectors), normalized=True)


def table_with_labels(labels: Sequence[str], vectors: np.ndarray, others: WordTable | None) -> WordTable:
    """A table that finds every label by its own vector, ``(K, word_dim)``, and other words as ``others`` does."""
    vectors = unit_length(vectors)
    if others is None:
        return WordTable(labels, vectors.astype(np.float32), normalized=True)
    resolved = [others.resolve(label) for label in labels]
    found = [index for index, one in enumerate(resolved) if one is not None]
    same = np.zeros(len(vectors), bool)
    if found:
        cosines = (others.vectors_of([one for one in resolved if one]) * vectors[found]).sum(axis=1)
        same[found] = cosines > SAME_VECTOR
    own = dict(zip(np.array(labels)[~same].tolist(), _int8(vectors[~same]), strict=True))
    kept = [index for index, word in enumerate(others.words) if word not in own]
    words = [*own, *(others.words[index] for index in kept)]
    rows = np.array(others.raw_vectors[kept])
    return WordTable(words, np.concatenate([np.stack(list(own.values())), rows]) if own else rows, normalized=True)


def _int8(vectors: np.ndarray) -> np.ndarray:
    """Only a row's direction matters: each is scaled to the whole range."""
    scale = 127 / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12)
    return np.round(vectors * scale).astype(np.int8)

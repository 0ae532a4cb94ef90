"""Write metadata into the ONNX files, for programs that read them without this package (docs/onnx.md)."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.model_folder import (
    DECODER_FILE,
    ENCODER_FILE,
    FORMAT_VERSION,
    NETWORK_FILES,
    QUERIES_FILE,
    ModelConfig,
)

#: Description of each network.
DESCRIPTIONS = {
    ENCODER_FILE: "zsl-tagger encoder: images uint8 (batch, S, S, 3), RGB, not normalised -> tokens",
    QUERIES_FILE: "zsl-tagger queries: word vectors -> decoder inputs of each label",
    DECODER_FILE: "zsl-tagger decoder: tokens and labels -> logits and attention",
}


def write_metadata(folder: Path, config: ModelConfig) -> None:
    """Write names, descriptions and ``metadata_props`` into the networks of a folder, without changing their output.

    Thresholds, biases and ``scoring``, which later steps may change, are in the JSON files only.

    Raises:
        OSError: the disk is full.
    """
    for name in NETWORK_FILES:
        path = folder / name
        if not path.is_file():  # a closed set has no queries
            continue
        network = onnx.load(path, load_external_data=False)  # keep weights in other files
        network.graph.name, network.doc_string = path.stem, DESCRIPTIONS[name]
        onnx.helper.set_model_props(network, metadata_of(config))
        onnx.save(network, path)


def metadata_of(config: ModelConfig) -> dict[str, str]:
    """Return the ``metadata_props`` of a model's networks; a closed set has none about words."""
    words = {
        "word_dim": str(config.word_dim),
        "word_source": config.word_source or "",
        "unit_queries": json.dumps(config.unit_queries),
    }
    return {
        "zsl_tagger_version": installed_version(),
        "format_version": str(FORMAT_VERSION),
        "image_size": str(config.image_size),
        "preprocessing": json.dumps(config.to_json()["preprocessing"]),
        **({} if config.closed_set else words),
    }

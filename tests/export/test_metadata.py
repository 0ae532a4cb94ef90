"""Test the metadata of exported networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from zsl_tagger.export.metadata import metadata_of
from zsl_tagger.export.proven import convert
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.tagging.model_folder import NETWORK_FILES, ModelConfig, read_config

pytestmark = pytest.mark.slow

CONFIG = ModelConfig(Preprocessing(64), word_dim=7, default_threshold=0.5, word_source="gensim:塔.txt")


def test_networks_carry_their_name_and_how_they_are_fed(evidence_folder: Path) -> None:
    config = read_config(evidence_folder)
    for name in NETWORK_FILES:
        meta = onnxruntime.InferenceSession(evidence_folder / name).get_modelmeta()
        assert meta.graph_name == name.removesuffix(".onnx")
        assert meta.description.startswith(f"zsl-tagger {meta.graph_name}: ")
        assert meta.custom_metadata_map == metadata_of(config)
        stated = json.loads(meta.custom_metadata_map["preprocessing"])
        assert Preprocessing(**stated) == config.preprocessing
        assert meta.custom_metadata_map["image_size"] == str(config.image_size)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_networks_keep_it(evidence_folder: Path, tmp_path: Path, precision: str) -> None:
    config = read_config(evidence_folder)
    convert(evidence_folder, tmp_path, config, precision)  # type: ignore[arg-type]
    for name in NETWORK_FILES:
        meta = onnxruntime.InferenceSession(tmp_path / name).get_modelmeta()
        assert meta.graph_name == name.removesuffix(".onnx")
        assert metadata_of(config).items() <= meta.custom_metadata_map.items()


def test_a_closed_set_says_nothing_of_words() -> None:
    stated = metadata_of(CONFIG)
    assert (stated["word_dim"], stated["word_source"], stated["unit_queries"]) == ("7", "gensim:塔.txt", "true")
    closed = metadata_of(replace(CONFIG, closed_set=True, word_dim=0))
    assert set(stated) - set(closed) == {"word_dim", "word_source", "unit_queries"}

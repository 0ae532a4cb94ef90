"""The converted detector computes what its graph says, for photos of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from made_data import write_photo
from torch.nn import functional

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.packaged import detector
from zsl_tagger.packaged.objects import ABOVE, OBJECTS, object_words
from zsl_tagger.tagging.class_evidence import read_object_words

SIDE, STATES = 48, 5
OUTPUTS = len(OBJECTS) + 44  # objects and boxes


def node(name: str, operation: str, inputs: list[str], **attributes: Any) -> dict[str, Any]:
    return {"name": name, "op": operation, "input": inputs, "attr": attributes}


def window(*sides: int) -> dict[str, Any]:
    return {"list": {"i": [str(side) for side in sides]}}


class Graph:
    """A graph as TensorFlow.js stores it, layouts and all: two strides, each with a head of objects and boxes."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.kernels = {
            "stem": random.normal(0, 0.3, (3, 3, 3, STATES)), "down": random.normal(0, 0.3, (3, 3, STATES, STATES)),
            "fine": random.normal(0, 0.5, (1, 1, STATES, OUTPUTS)),
            "coarse": random.normal(0, 0.5, (1, 1, STATES, OUTPUTS)),
        }  # fmt: skip
        self.kernels = {name: values.astype(np.float16) for name, values in self.kernels.items()}
        self.bias = random.normal(0, 0.5, STATES).astype(np.float16)
        self.constants: dict[str, np.ndarray] = {
            "both": np.concatenate([self.kernels["stem"].repeat(2, axis=2)[:, :, :3], self.kernels["stem"]], axis=3),
            "halves": np.array([STATES, STATES], np.int32), "axis": np.array(3, np.int32),
            "bias": self.bias, "one": np.array([[0, 0], [0, 0], [1, 1], [1, 1]], np.int32),
            "low": np.array(-np.inf, np.float32), "sides": np.array([12, 12], np.int32),
            "wide": np.array([24, 24], np.int32), "channels": np.array(1, np.int32), "perm": np.arange(4),
            **{name: values for name, values in self.kernels.items() if name != "stem"},
        }  # fmt: skip
        step, stay = {"strides": window(1, 2, 2, 1)}, {"strides": window(1, 1, 1, 1)}
        image = {"shape": {"dim": [{"size": str(side)} for side in (1, 3, SIDE, SIDE)]}}
        self.nodes = [
            node("input", "Placeholder", [], shape=image),
            node("split", "SplitV", ["both", "halves", "axis"]),
            node("pad", "Pad", ["input", "one"]), node("nhwc", "Transpose", ["pad", "perm"]),
            node("conv", "Conv2D", ["nhwc", "split:1"], **step), node("sum", "Add", ["conv", "bias"]),
            node("nchw", "Transpose", ["sum", "perm"]), node("leaky", "LeakyRelu", ["nchw"], alpha={"f": 0.1}),
            node("low pad", "PadV2", ["leaky", "one", "low"]), node("pool", "MaxPool", ["low pad"],
                ksize=window(1, 3, 3, 1), strides=window(1, 2, 2, 1)),
            node("up", "ResizeBilinear", ["pool", "wide"]), node("joined", "AddV2", ["leaky", "up"]),
            node("back", "ResizeBilinear", ["joined", "sides"]),
            node("fine head", "Conv2D", ["joined", "fine"], **stay),
            node("coarse head", "Conv2D", ["back", "coarse"], **stay),
        ]  # fmt: skip
        for name in ("fine", "coarse"):
            parts = [f"{name} head", "halves", "channels"]
            self.nodes += [node(f"{name} parts", "SplitV", parts), node(f"{name} p", "Sigmoid", [f"{name} parts"])]

    def write(self, folder: Path) -> Path:
        manifest, content = [], b""
        for name, values in self.constants.items():
            entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": str(values.dtype)}
            if values.dtype == np.float16:
                entry |= {"dtype": "float32", "quantization": {"dtype": "float16"}}
            manifest.append(entry)
            content += values.tobytes()
        (folder / "weights.bin").write_bytes(content)
        constants = [{"name": name, "op": "Const"} for name in self.constants]
        graph = {
            "modelTopology": {"node": [*constants, *self.nodes]},
            "weightsManifest": [{"paths": ["weights.bin"], "weights": manifest}],
        }
        path = folder / "nanodet.json"
        path.write_text(json.dumps(graph))
        return path

    def by_torch(self, images: np.ndarray) -> np.ndarray:
        """Return the objects' probabilities: the same in NCHW, from pixels of any size."""
        means, deviations = torch.tensor(detector.MEANS), torch.tensor(detector.DEVIATIONS)
        blue_first = torch.from_numpy(images).permute(0, 3, 1, 2).float().flip(1)
        pixels = functional.interpolate(blue_first, (SIDE, SIDE), mode="bilinear")
        x = (pixels - means[:, None, None]) / deviations[:, None, None]
        kernels = {
            name: torch.from_numpy(values.astype(np.float32)).permute(3, 2, 0, 1)
            for name, values in self.kernels.items()
        }
        x = functional.conv2d(x, kernels["stem"], torch.from_numpy(self.bias.astype(np.float32)), 2, 1)
        x = functional.leaky_relu(x, 0.1)
        x = x + functional.interpolate(functional.max_pool2d(x, 3, 2, 1), scale_factor=2.0, mode="bilinear")
        low = functional.interpolate(x, scale_factor=0.5, mode="bilinear")
        heads = [functional.conv2d(x, kernels["fine"]), functional.conv2d(low, kernels["coarse"])]
        best = torch.stack([head.amax((2, 3)) for head in heads]).amax(0)[:, : len(OBJECTS)]
        return best.sigmoid().numpy()


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.setattr(detector, "SIDE", SIDE)
    return Graph()


@pytest.mark.parametrize("size", [SIDE, 60, 31])
def test_the_network_computes_what_the_graph_says(graph: Graph, tmp_path: Path, size: int) -> None:
    network = detector.detector_network(graph.write(tmp_path), size)
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    found = session.run(["objects"], {"images": images})[0]
    assert found.shape == (3, 80)
    assert np.ptp(found) > 0.2
    np.testing.assert_allclose(found, graph.by_torch(images), atol=2e-5)


def test_the_written_detector_is_close_to_the_exact_one(graph: Graph, tmp_path: Path, photos: list[Path]) -> None:
    path, preprocessing = graph.write(tmp_path), Preprocessing(SIDE)
    detector.write_detector(tmp_path, path, photos, preprocessing)
    exact = onnxruntime.InferenceSession(
        detector.detector_network(path, SIDE).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = detector.Detector(tmp_path, preprocessing, tmp_path).objects([photo.name for photo in photos])
    images = np.stack([detector.load_array(photo, preprocessing) for photo in photos])
    expected = exact.run(["objects"], {"images": images})[0]
    assert 0 < np.abs(found - expected).max() < 0.1
    assert read_object_words(tmp_path / "object_words.json")[1] == 80


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.jpg" for seed in range(5)]
    for seed, path in enumerate(paths):
        write_photo(path, seed)
    return paths


def test_another_graph_is_one_message(graph: Graph, tmp_path: Path) -> None:
    graph.nodes[7]["op"] = "Softplus"
    with pytest.raises(UserError, match=r"the graph has the operation Softplus: expected NanoDet"):
        detector.write_detector(tmp_path, graph.write(tmp_path), [], Preprocessing(SIDE))


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"modelTopology": {"node": []}}'])
def test_a_file_that_is_no_graph_is_one_message(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "nanodet.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"nanodet\.json: expected the graph of NanoDet \(docs/model\.md\), got"):
        detector.write_detector(tmp_path, path, [], Preprocessing(SIDE))


def test_words_for_objects_are_normalised_and_known() -> None:
    words = object_words()
    assert words["names"]["mouse"] == words["names"]["computer mouse"] == [list(OBJECTS).index("mouse")]
    assert words["above"]["cutlery"] == [42, 43, 44]
    assert not words["names"].keys() & words["above"].keys()
    assert all(name in OBJECTS for below in ABOVE.values() for name in below)

"""ONNX networks of strangers: what they may not read, and more memory than there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsl_tagger.tagging.external_data import has_external_data
from zsl_tagger.tagging.model_folder import ModelFolderError
from zsl_tagger.tagging.onnx_model import _run, open_session

onnx = pytest.importorskip("onnx")


def network(*nodes: Any, **parts: Any) -> Any:
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [1])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(list(nodes), "graph", [given], [made], **parts)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def external() -> Any:
    tensor = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    return tensor


def node(kind: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, ["y"], **attributes)


def branch() -> Any:
    return onnx.helper.make_graph([node("Identity", "w")], "branch", [], [], initializer=[external()])


PLACES = {
    "initializer": lambda: network(node("Identity", "w"), initializer=[external()]),
    "constant": lambda: network(node("Constant", value=external())),
    "branch": lambda: network(node("If", "x", then_branch=branch(), else_branch=branch())),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_another_file_are_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    path = tmp_path / "model" / "encoder.onnx"
    path.parent.mkdir()
    path.write_bytes(PLACES[place]().SerializeToString())
    with pytest.raises(ModelFolderError, match=r"encoder\.onnx stores weights in another file, which is not opened"):
        open_session(path, 1)


def test_a_node_of_that_name_is_no_external_data(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(network(node("Identity", "x", name="/location")).SerializeToString())
    assert not has_external_data(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"", b"location", b"\xff" * 30 + b"location", b"\x3a\xff\xff\xff\xfflocation"])
def test_a_damaged_file_is_left_to_the_runtime(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"a\.onnx cannot be loaded: "):
        open_session(tmp_path / "a.onnx", 1)


def test_a_missing_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"queries\.onnx cannot be loaded: "):
        open_session(tmp_path / "queries.onnx", 1)


def test_a_network_that_needs_more_memory_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(network(node("ConstantOfShape", "x")).SerializeToString())
    session = open_session(tmp_path / "a.onnx", 1)
    with pytest.raises(ModelFolderError, match="the model cannot be run: "):
        _run(session, ["y"], {"x": np.array([2**60])})

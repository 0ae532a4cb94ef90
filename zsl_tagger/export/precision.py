"""Convert float32 networks to smaller precisions. Inputs and outputs do not change, so precisions can be mixed.

======== ======================================================================================================
``fp32`` as exported.
``fp16`` weights are stored as float16 and cast to float32 when the network is loaded (ONNX Runtime folds the
         casts): half the size at the same speed. onnxconverter-common computes in float16 instead, which is slower
         on CPUs without float16 support.
``int8`` ONNX Runtime's dynamic quantization of the linear layers: weights int8 with a scale per column, activations
         uint8 with a scale per call. Two parts stay in float32: convolutions, which ONNX Runtime
         computes more slowly in int8 (lite2 at 384 px: 118 instead of 79 ms), and the class reading and the class
         probabilities, whose softmax turns small errors into other classes (a logit off by 2.4 instead of 0.2).
         Since the scale covers all labels of a call, a label's score depends slightly on the other labels.
======== ======================================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from zsl_tagger.choices import Precision

#: Part of the names of the nodes of :class:`zsl_tagger.model.class_reading.ClassReading`.
CLASS_READING = "/reading/"


def halve(source: Path, target: Path) -> None:
    """Write ``target`` with the matrices and kernels of ``source`` as float16, except values out of range."""
    network = onnx.load(source)
    casts = []
    for weight in network.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:  # biases are small
            continue
        values = numpy_helper.to_array(weight)
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            continue
        name, stored = weight.name, f"{weight.name}.float16"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *network.graph.node]  # a node must come after the nodes whose outputs it reads
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    onnx.save(network, target)


def quantize(source: Path, target: Path) -> None:
    """Write ``target`` with the linear layers of ``source`` in int8."""
    graph = onnx.load(source, load_external_data=False).graph
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its preprocessing advice applies to static quantization only
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits: 8 overflow on x86 processors without VNNI
            nodes_to_exclude=[node.name for node in graph.node if CLASS_READING in node.name] + _of_classes(graph),
        )
    finally:
        logging.root.setLevel(level)


def _of_classes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes that only the class probabilities depend on."""
    producer_of = {output: node for node in graph.node for output in node.output}

    def needed(outputs: set[str]) -> set[str]:
        found, queue = set(), list(outputs)
        while queue:
            node = producer_of.get(queue.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                queue += node.input
        return found

    outputs = {output.name for output in graph.output}
    return sorted(needed(outputs & {"classes"}) - needed(outputs - {"classes"}))


#: Conversion to each precision except fp32, which torch's exporter writes.
CONVERSIONS: dict[Precision, Callable[[Path, Path], None]] = {"fp16": halve, "int8": quantize}

"""The form of quantized weights that every release of TensorRT reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekd.graph.qdq import axis_of


def with_float_weights(proto: ModelProto) -> ModelProto:
    """Return a copy whose 8-bit weights are stored as floats, each followed by the Q that gives these very integers.

    TensorRT reads integer weights from release 10 on; 8.x stops at "invalid weights type of Int8". This form is longer,
    and all of them read it. It means the same: an integer times its scale, divided by it, rounds to the integer.
    """
    changed = ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.data_type == TensorProto.INT8:
            quantizer = _quantizer(node, stored, constants[node.input[1]], graph)
            node.input[0] = quantizer.output[0]
            nodes.append(quantizer)
        nodes.append(node)
    _replace(graph, nodes)
    return changed


def _quantizer(node: NodeProto, stored: TensorProto, scale: TensorProto, graph: GraphProto) -> NodeProto:
    """Add a DQ's weights to a graph as floats, and return the Q for them: of the same scale, zero point and axis."""
    base = node.name or node.output[0]
    integers, steps = numpy_helper.to_array(stored), numpy_helper.to_array(scale)
    floats = integers * _spread(steps, integers.ndim, axis_of(node, integers.ndim))
    graph.initializer.append(numpy_helper.from_array(floats.astype(steps.dtype), f"{base}_floats"))
    zero_point = node.input[2] if len(node.input) > 2 else ""
    if not zero_point:  # without one, a Q gives unsigned integers
        zero_point = f"{base}_zeros"
        graph.initializer.append(numpy_helper.from_array(np.zeros(steps.shape, np.int8), zero_point))
    made = helper.make_node(
        "QuantizeLinear", [f"{base}_floats", node.input[1], zero_point], [f"{base}_quantized"], f"{base}_quantize"
    )
    made.attribute.extend(attribute for attribute in node.attribute if attribute.name == "axis")
    return made


def _spread(scale: NDArray[np.float32], rank: int, axis: int) -> NDArray[np.float32]:
    """Return scales in a shape that multiplies a weight of this rank."""
    return scale.reshape([-1 if place == axis else 1 for place in range(rank)]) if scale.size > 1 else scale.reshape(())


def _replace(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph other nodes, and drop the constants that nothing uses any more."""
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)

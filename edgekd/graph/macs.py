"""Multiply-accumulates of an ONNX graph, from its shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx
from onnx import ModelProto, NodeProto

Shapes = Mapping[str, Sequence[int]]


def count_macs(proto: ModelProto) -> int | None:
    """Return the multiply-accumulates of all convolutions and matrix products for a batch of 1, float or QDQ.

    None where a shape that it needs stays unknown.
    """
    shapes = infer_shapes(proto)
    try:
        return sum(_COUNTS[node.op_type](node, shapes) for node in proto.graph.node if node.op_type in _COUNTS)
    except KeyError:
        return None


def infer_shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every value whose shape is known when each free first axis is 1."""
    fixed = ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]
    constants = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name not in constants and axes and not axes[0].HasField("dim_value"):
            axes[0].dim_value = 1
    for value in fixed.graph.output:  # a stored free axis would be kept instead of the inferred 1
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = dict(constants)
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            shapes[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    return shapes


def _convolution(node: NodeProto, shapes: Shapes) -> int:
    """Every output element sums over the kernel and the input channels of its group."""
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _transposed_convolution(node: NodeProto, shapes: Shapes) -> int:
    """Every input element is multiplied with the kernel and the output channels of its group."""
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transA"), 0)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _product(node: NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


_COUNTS = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "MatMulInteger": _product,
}

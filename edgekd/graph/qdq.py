"""Quantized ONNX graphs as TensorRT wants them: what it refuses, and what it runs badly.

TensorRT quantizes explicitly: by pairs of QuantizeLinear (Q) and DequantizeLinear (DQ), in signed 8-bit integers with
zero point 0, per tensor for activations and per output channel for weights, with float biases. Other graphs fail while
the engine is built, on the device, with a message that names a line of the parser; or worse, are taken for something
else: unsigned integers are read as signed ones with no more than a warning.

Sources: TensorRT's documentation of explicit quantization, and the importer of its ONNX parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekd.graph.links import Links, channel_axis, is_dequantized, link, name_of
from edgekd.graph.lint import LAYER_OPERATORS

_INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "ConvInteger", "MatMulInteger")
_SHOWN = 3

_SYMMETRIC = "quantize with signed 8-bit integers and zero point 0 (`activations: s8, symmetric: true`)"
_FLOAT_SOFTMAX = "leave the softmax in float: quantizers give it a range of its own that is not symmetric"
_FLOAT_BIAS = "leave biases in float"
_PER_TENSOR = "one scale for the whole activation; only weights have one for each channel"


@dataclass(frozen=True)
class Refusal:
    """What is wrong with one node."""

    node: str
    reason: str
    remedy: str
    fatal: bool = True
    """TensorRT refuses the file, or computes something else. Otherwise it runs, but not as integers."""

    def __str__(self) -> str:
        return f"{self.node} {self.reason}: {self.remedy}"


def problems(proto: ModelProto) -> list[Refusal]:
    """Return what TensorRT would refuse of a quantized model, or would not run as integers; nothing for a float one.

    Only the main graph is looked at: quantizers do not reach into loops and branches.
    """
    graph = link(proto.graph)
    found: list[Refusal] = []
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain in ("", "ai.onnx"):
            found += _pair_problems(node, graph)
        elif node.op_type.startswith(_INTEGER_OPERATORS) or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reason = f"is an operator of ONNX Runtime, {node.domain}" if node.domain else "computes on integers itself"
            found.append(Refusal(name_of(node), reason, "quantize with pairs of QuantizeLinear and DequantizeLinear"))
        elif node.op_type in LAYER_OPERATORS:
            found += _layer_problems(node, graph)
        elif node.op_type == "Add":
            found += _addition_problems(node, graph)
    return found


def refusal(proto: ModelProto) -> str | None:
    """Return why TensorRT would not take a model, in one sentence of the first few nodes; None where it would."""
    fatal = [str(problem) for problem in problems(proto) if problem.fatal]
    if not fatal:
        return None
    more = f"; and {len(fatal) - _SHOWN} more like these" if len(fatal) > _SHOWN else ""
    return f"TensorRT does not take this quantization: {'; '.join(fatal[:_SHOWN])}{more}"


def _pair_problems(node: NodeProto, graph: Links) -> Iterator[Refusal]:
    """Yield what is wrong with one Q or DQ."""
    name = name_of(node)
    scale = graph.constants.get(node.input[1])
    if scale is None:
        yield Refusal(name, "has a scale that is computed while the network runs", "calibrate: scales are constants")
    stored = graph.stored(node)
    if stored is not None and stored.data_type == TensorProto.INT32:
        yield Refusal(name, "dequantizes a 32-bit integer, a bias", _FLOAT_BIAS)
        return
    yield from _integer_problems(node, graph)
    if scale is not None and int(np.prod(scale.dims)) > 1:
        yield from _channel_problems(node, stored, graph)
    if node.op_type == "QuantizeLinear":
        takers = graph.users.get(node.output[0], [])
        if node.output[0] in graph.outputs or any(taker.op_type != "DequantizeLinear" for taker in takers):
            yield Refusal(name, "has no DequantizeLinear behind it", "integers leave a Q for a DQ only")
    elif node.input[0] not in graph.constants:
        before = graph.producers.get(node.input[0])
        if before is None or before.op_type != "QuantizeLinear":
            yield Refusal(name, "has no QuantizeLinear before it", "integers come to a DQ from a Q only")


def _integer_problems(node: NodeProto, graph: Links) -> Iterator[Refusal]:
    """Yield what is wrong with the integers: they must be signed, of 8 bits, around zero."""
    name = name_of(node)
    before = graph.origin(node.input[0])
    softmax = before is not None and before.op_type == "Softmax"
    remedy = _FLOAT_SOFTMAX if softmax else _SYMMETRIC
    zero_point = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    kind = _integer_type(node, graph, zero_point)
    if len(node.input) > 2 and node.input[2] and zero_point is None:
        yield Refusal(name, "has a zero point that is computed while the network runs", remedy)
    elif zero_point is not None and numpy_helper.to_array(zero_point).any():
        yield Refusal(name, f"has zero point {_few(numpy_helper.to_array(zero_point))}", remedy)
    elif kind != TensorProto.INT8:
        yield Refusal(name, f"uses {TensorProto.DataType.Name(kind).lower()}", remedy)


def _integer_type(node: NodeProto, graph: Links, zero_point: TensorProto | None) -> int:
    """Return the type of the integers of a Q or DQ."""
    if zero_point is not None:
        return zero_point.data_type
    if node.op_type == "DequantizeLinear":
        before = graph.producers.get(node.input[0])
        if node.input[0] in graph.constants:
            return graph.constants[node.input[0]].data_type
        return TensorProto.INT8 if before is None else _integer_type(before, graph, None)
    chosen = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    return chosen or TensorProto.UINT8


def _channel_problems(node: NodeProto, stored: TensorProto | None, graph: Links) -> Iterator[Refusal]:
    """Yield what is wrong with several scales: they are for weights, one for each output channel."""
    if stored is None:
        yield Refusal(name_of(node), "has a scale for each channel of an activation", _PER_TENSOR)
        return
    rank = len(stored.dims)
    for user, axis, wanted in _wrong_axes(node, rank, graph):
        reason = f"has its scales along axis {axis} of the weight of {name_of(user)}"
        yield Refusal(name_of(node), reason, f"scale its output channels, which are axis {wanted}")


def wrong_channel_axes(node: NodeProto, stored: TensorProto, graph: Links) -> Iterator[str]:
    """Yield which layers' weights are scaled along another axis than their output channels."""
    for user, axis, wanted in _wrong_axes(node, len(stored.dims), graph):
        yield f"{name_of(node)} has its scales along axis {axis} of the weight of {name_of(user)}, not along {wanted}"


def _wrong_axes(node: NodeProto, rank: int, graph: Links) -> Iterator[tuple[NodeProto, int, int]]:
    """Yield layer, axis of the scales and axis of the output channels where the two differ."""
    for user, axis in _layers_behind(node, axis_of(node, rank), graph):
        wanted = channel_axis(user, rank)
        if axis != wanted:
            yield user, axis, wanted


def _layers_behind(node: NodeProto, axis: int, graph: Links) -> Iterator[tuple[NodeProto, int]]:
    """Yield the layers that have a value as their weight, and where an axis of the value is in it."""
    for user in graph.users.get(node.output[0], []):
        if user.op_type == "DequantizeLinear":
            yield from _layers_behind(user, axis, graph)
        elif user.op_type == "Transpose":
            order = next((list(attribute.ints) for attribute in user.attribute if attribute.name == "perm"), [1, 0])
            yield from _layers_behind(user, order.index(axis), graph)
        elif user.op_type in LAYER_OPERATORS and user.input[1] == node.output[0]:
            yield user, axis


def _layer_problems(node: NodeProto, graph: Links) -> Iterator[Refusal]:
    """Yield that a layer computes in float, because only one of its two operands is quantized."""
    quantized = [is_dequantized(name, graph) for name in node.input[:2]]
    if len(quantized) == 2 and quantized[0] != quantized[1]:
        has, lacks = ("input", "weight") if quantized[0] else ("weight", "input")
        yield Refusal(name_of(node), f"computes in float: its {has} is quantized, its {lacks} is not",
                      f"quantize its {lacks} too", fatal=False)  # fmt: skip


def _addition_problems(node: NodeProto, graph: Links) -> Iterator[Refusal]:
    """Yield that a residual addition computes in float, because one branch is quantized and the other is not.

    A branch may also be a quantized layer's own output: TensorRT adds the other branch within that layer's kernel.
    """
    if any(name in graph.constants for name in node.input):
        return
    dequantized = [is_dequantized(name, graph) for name in node.input]
    if not any(dequantized) or all(dequantized):
        return
    other = graph.origin(node.input[dequantized.index(False)])
    if other is not None and _is_quantized_layer(other, graph):
        return
    yield Refusal(name_of(node), "computes in float: one of its branches is quantized, the other is not",
                  "quantize both inputs of residual additions (`quantize_add: true`)", fatal=False)  # fmt: skip


def _is_quantized_layer(node: NodeProto, graph: Links) -> bool:
    return node.op_type in LAYER_OPERATORS and all(is_dequantized(name, graph) for name in node.input[:2])


def axis_of(node: NodeProto, rank: int) -> int:
    """Return the axis along which a Q or DQ has its scales."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    return axis + rank if axis < 0 else axis


def _few(values: NDArray[np.generic]) -> str:
    found = sorted({int(value) for value in values.ravel()})
    return ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")

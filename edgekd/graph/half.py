"""ONNX files that compute in float16, for runtimes that take the precision from the file.

TensorRT up to 10 chooses float16 by a flag of its builder. From 11 on it computes in the types that it reads, so the
same network needs a second file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekd.errors import StageError
from edgekd.graph.lint import find_opset, read

FIRST_HALF_SCALES = 19
"""The first opset whose Q and DQ take float16 scales."""
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def to_half(source: Path, target: Path) -> list[str]:
    """Write a float or QDQ model with float16 inside; its inputs and outputs stay float32.

    A QDQ model below opset 19 is raised to 19.

    Returns:
        What was changed in value, one sentence each: float16 ends at 65504. Nothing for most networks.

    Raises:
        UsageError: the source is no valid ONNX file.
        StageError: it cannot be written in float16.
    """
    proto = _with_half_scales(read(source), source.name)
    _store_constants(proto.graph)
    cut = [f"{name} holds {worst:.4g}, cut to {_LARGEST:.0f}" for name, worst in _too_large(proto.graph)]
    _check_scales(proto.graph, source.name)
    try:
        half = convert_float_to_float16(proto, keep_io_types=True)
        _order(half.graph)
        del half.graph.value_info[:]
        onnx.checker.check_model(half, full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"{source.name} cannot be written in float16: {_first_line(error)}") from error
    data = half.SerializeToString(deterministic=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(target)
    return cut


def _with_half_scales(proto: ModelProto, name: str) -> ModelProto:
    """Return the model in an opset whose Q and DQ, if it has any, take float16 scales."""
    opset = find_opset(proto)
    if opset >= FIRST_HALF_SCALES or not any(node.op_type in _QUANTIZERS for node in proto.graph.node):
        return proto
    try:
        return onnx.version_converter.convert_version(proto, FIRST_HALF_SCALES)
    except RuntimeError as error:
        raise StageError(
            f"{name} cannot be written in float16: its quantization needs opset {FIRST_HALF_SCALES} for that, and it "
            f"cannot be raised from opset {opset}: {_first_line(error)}"
        ) from error


def _store_constants(graph: GraphProto) -> None:
    """Store constants that are nodes: the converter would send the sizes of a Resize through float16 and back."""
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensor = TensorProto.FromString(node.attribute[0].t.SerializeToString())
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)


def _too_large(graph: GraphProto) -> Iterator[tuple[str, float]]:
    """Yield the stored floats that float16 cannot hold, and the largest of each. Infinity stays what it is."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            finite = values[np.isfinite(values)]
            if finite.size and np.abs(finite).max() > _LARGEST:
                yield tensor.name, float(finite[np.abs(finite).argmax()])


def _check_scales(graph: GraphProto, name: str) -> None:
    """Refuse scales that float16 holds with few bits or none: every value that they stand for would be off.

    Within a tensor only the largest scale matters: a channel that is small beside it may be rounded as coarsely.

    Raises:
        StageError: naming the first.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _QUANTIZERS and node.input[1] in constants:
            largest = float(numpy_helper.to_array(constants[node.input[1]]).max())
            if not _SMALLEST_NORMAL <= largest <= _LARGEST:
                raise StageError(
                    f"{name} cannot be written in float16: {node.name or node.output[0]} has the scale {largest:.3g}, "
                    f"outside what float16 holds with all its bits ({_SMALLEST_NORMAL:.2g} to {_LARGEST:.0f})"
                )


def _order(graph: GraphProto) -> None:
    """Put the nodes into an order in which every value is made before it is used, as ONNX asks for."""
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = {index: {makers[name] for name in _taken(node) if name in makers} for index, node in enumerate(nodes)}
    del graph.node[:]
    graph.node.extend(nodes[index] for index in TopologicalSorter(needs).static_order())


def _taken(node: NodeProto) -> Iterator[str]:
    """Yield the values that a node takes, those of the graphs inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            for part in inner.node:
                yield from _taken(part)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

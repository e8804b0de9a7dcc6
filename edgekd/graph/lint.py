"""What an ONNX file holds, read without running it and without trusting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgekd.errors import UsageError
from edgekd.graph import external
from edgekd.graph.macs import count_macs

INTEGER_PRODUCT = "MatMulInteger"
"""A product whose factors are integers already: of activations that are quantized at run time."""
LAYER_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", INTEGER_PRODUCT})
_MOVES = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_INTEGERS = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})
_TYPES = frozenset(onnx.helper.get_all_tensor_dtypes())
_WEIGHT_TYPES = _FLOATS | _INTEGERS | {TensorProto.INT32}


@dataclass(frozen=True)
class Port:
    """An input or output of a network."""

    name: str
    shape: tuple[int | str, ...]
    """A number, or the name of a free axis ("?" where it has none)."""
    dtype: str
    """A numpy dtype name."""


@dataclass(frozen=True)
class GraphFacts:
    """What an ONNX file holds."""

    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: int
    """Elements of weights and biases; scales, zero points, scalars and shapes are not counted."""
    macs: int | None
    """Multiply-accumulates of all convolutions and matrix products for a batch of 1; None where a shape is unknown."""
    nodes: Mapping[str, int]
    """Operator name to how many there are."""
    layers: int
    """Convolutions and matrix products."""
    quantized_layers: int
    """Those whose input and weight are integers, dequantized or not."""
    size_bytes: int
    """Of the file and its external data."""
    nonfinite: tuple[str, ...]
    """Weights that hold NaN or infinity."""
    metadata: Mapping[str, str]


def inspect(path: Path) -> GraphFacts:
    """Read and check an ONNX file.

    Raises:
        UsageError: there is no such file, it is not an ONNX file, it is truncated, or its external data are missing.
    """
    others = _external_files(path, _parse(path))
    proto = read(path)
    for problem in external.misfits(proto):
        raise UsageError(f"{path}: not a valid ONNX model: {problem}")
    graph = proto.graph
    counted = Counter(node.op_type for node in graph.node)
    quantized, _ = quantization_problems(proto)
    inputs, outputs = ports(proto)
    return GraphFacts(
        opset=find_opset(proto),
        inputs=inputs,
        outputs=outputs,
        parameters=sum(int(np.prod(tensor.dims)) for tensor in _parameters(graph)),
        macs=count_macs(proto),
        nodes=dict(sorted(counted.items())),
        layers=sum(counted[name] for name in LAYER_OPERATORS),
        quantized_layers=quantized,
        size_bytes=path.stat().st_size + sum(file.stat().st_size for file in others),
        nonfinite=tuple(nonfinite_tensors(proto)),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def read(path: Path) -> ModelProto:
    """Return a checked ONNX model with its external data loaded.

    Raises:
        UsageError: as `inspect`.
    """
    _external_files(path, _parse(path))
    try:
        onnx.checker.check_model(str(path))
        return onnx.load(path)
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise UsageError(f"{path}: not a valid ONNX model: {_first_line(error)}") from error


def _parse(path: Path) -> ModelProto:
    """Return what a file holds without the weights that lie in other files.

    Raises:
        UsageError: it is not an ONNX file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'a directory, not an ONNX file' if path.is_dir() else 'there is no such file'}")
    if not path.stat().st_size:
        raise UsageError(f"{path}: the file is empty, not an ONNX model")
    try:
        bare = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{path}: not an ONNX file, or a truncated one ({error})") from error
    if not bare.ir_version or not bare.opset_import or not bare.graph.node:
        raise UsageError(f"{path}: not an ONNX file: it holds no graph")
    return bare


def files(path: Path) -> list[Path]:
    """Return an ONNX file and the files beside it that hold its weights.

    Raises:
        UsageError: as `inspect`.
    """
    return [path, *_external_files(path, _parse(path))]


def find_opset(proto: ModelProto) -> int:
    """Return the version of the standard operators that a model uses."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def ports(proto: ModelProto) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs that a model has to be fed, and its outputs."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(_port(value) for value in proto.graph.input if value.name not in constants)
    return inputs, tuple(_port(value) for value in proto.graph.output)


def nonfinite_tensors(proto: ModelProto) -> list[str]:
    """Return the names of weights that hold NaN or infinity."""
    floats = (tensor for tensor in _parameters(proto.graph) if tensor.data_type in _FLOATS)
    return [tensor.name for tensor in floats if not np.isfinite(numpy_helper.to_array(tensor).astype(np.float64)).all()]


def quantization_problems(proto: ModelProto) -> tuple[int, list[str]]:
    """Return how many layers compute on integers, and what is wrong with the QDQ form of the graph.

    A layer counts when its input and weight come from a DequantizeLinear, and a constant weight has 8 or 4 bits, or
    when it multiplies integers itself.
    Wrong are quantized or dequantized values that nothing uses, and constants that are quantized but stored as floats.
    """
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    problems, layers = [], 0
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            if node.input[0] in constants:
                problems.append(f"{node.name} quantizes the constant {node.input[0]}, which stays stored as float")
            if node.output[0] not in users and node.output[0] not in outputs:
                problems.append(f"nothing uses {node.name}")
        elif node.op_type == "DequantizeLinear" and not any(name in users or name in outputs for name in node.output):
            problems.append(f"nothing uses {node.name}")
        elif node.op_type in LAYER_OPERATORS:
            layers += node.op_type == INTEGER_PRODUCT or _is_quantized(node, producers, constants)
    return layers, problems


def _is_quantized(node: NodeProto, producers: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]) -> bool:
    sources = [_origin(name, producers) for name in node.input[:2]]
    return all(
        source is not None
        and source.op_type == "DequantizeLinear"
        and (source.input[0] not in constants or constants[source.input[0]].data_type in _INTEGERS)
        for source in sources
    )


def _origin(name: str, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """Return the node that computed a value, looking through those that only moved it."""
    node = producers.get(name)
    while node is not None and node.op_type in _MOVES:
        node = producers.get(node.input[0])
    return node


def _parameters(graph: GraphProto) -> Iterator[TensorProto]:
    scales = {
        name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]
    }
    steps = {name for node in graph.node if node.op_type == "DynamicQuantizeLinear" for name in node.output[1:]}
    scales |= {name for node in graph.node if steps & {*node.input} and node.op_type == "Mul" for name in node.input}
    return (
        tensor
        for tensor in graph.initializer
        if tensor.data_type in _WEIGHT_TYPES and tensor.name not in scales and len(tensor.dims)
    )


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim)
    kind = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type in _TYPES else "no tensor"
    return Port(value.name, shape, kind)


def _external_files(path: Path, proto: ModelProto) -> list[Path]:
    """Return the files beside the model that hold its weights.

    Raises:
        UsageError: one is missing or too short, or lies outside the model's folder (a foreign model must not choose
            what is read).
    """
    for problem in external.problems(path, proto):
        raise UsageError(f"{path}: its weights cannot be read: {problem}")
    return external.files(path, proto)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""What the stand-in of TensorRT knows of an ONNX file: its layers, their types, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
COMPUTING = {"MatMul": "MatrixMultiply", "Gemm": "MatrixMultiply", "Conv": "Convolution"}
UNSUPPORTED = ("Det", "Unique")
NOT_ON_DLA = ("Log",)


def data_type(trt: Any, kind: str) -> Any:
    """Return a type of the release; what has no int64 reads it as int32."""
    has_none = kind == "INT64" and "INT64" not in trt.names["DataType"]
    return trt.DataType["INT32" if has_none else kind]


def tensors(values: Sequence[Any]) -> list[tuple[str, tuple[int, ...], str]]:
    """Return (name, shape with -1 for open axes, type) of a graph's inputs or outputs."""
    found = []
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim)
        found.append((value.name, shape, TYPES[kind.elem_type]))
    return found


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Return the type of every tensor between the nodes."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {name: kind for name, _, kind in tensors([*graph.input, *graph.output, *graph.value_info])}
    return known | {constant.name: TYPES[constant.data_type] for constant in graph.initializer}


def computing(model: onnx.ModelProto, flags: Sequence[str], typed: bool) -> list[dict[str, str]]:
    """Return name, kind and precision ("Int8", "Half", "Float") of the layers that multiply."""
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    known, layers = types(model), []
    for node in model.graph.node:
        if node.op_type in COMPUTING:
            quantized = producers.get(node.input[0]) == "DequantizeLinear"
            if quantized and (typed or "INT8" in flags):
                precision = "Int8"
            else:
                precision = "Half" if "FP16" in flags or known[node.input[0]] == "HALF" else "Float"
            layers.append({"name": node.name, "kind": COMPUTING[node.op_type], "precision": precision})
    return layers


def session(content: bytes) -> Any:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def compute(runner: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = runner.run(None, dict(feeds))
    return dict(zip([output.name for output in runner.get_outputs()], outputs, strict=True))

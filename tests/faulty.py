"""Small residual networks in integers, sound or with one fault planted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

INPUT = (1, 32, 16, 16)
SCALE = 0.05


@dataclass
class Network:
    """A graph in the making: x -> c1 -> c2 -> c3 -> + (c1) -> c4 -> mean -> fc.

    Args:
        channels: of all convolutions.
        dtype: of activations.
        quantized: whether there are integers at all.
        add: quantize what the addition takes and gives.
        batchnorm: leave one behind each convolution.
        per_channel: scales of weights.
        outlier: by how much the first channel of c2's weight is larger than the others.
        transposed: a transposed convolution behind c4, for which ONNX Runtime has no integer kernel.
        late: a Sigmoid between c4 and its QuantizeLinear.
        limit: the largest integer of weights.
        zero: the zero point of positive values, above the least.
        bias_scale: what the scale of biases is wrong by.
    """

    channels: int = 32
    dtype: Any = np.uint8
    quantized: bool = True
    add: bool = True
    batchnorm: bool = False
    per_channel: bool = True
    outlier: float = 1.0
    transposed: bool = False
    late: bool = False
    limit: int = 64
    zero: int = 0
    bias_scale: float = 1.0
    nodes: list[Any] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def proto(self) -> ModelProto:
        count, generator = self.channels, np.random.default_rng(0)

        def conv(name: str, source: str, taken: int, *, relu: bool = True, quantize: bool = True) -> str:
            values = generator.standard_normal((count, taken, 3, 3)) / 17
            values[0] *= self.outlier if name == "c2" else 1.0
            value = self.layer("Conv", name, source, values, pads=[1, 1, 1, 1])
            if self.batchnorm:
                parts = {"scale": 1.0, "bias": 0.0, "mean": 0.1, "var": 1.0}
                taken_parts = [self.constant(f"{name}.bn.{key}", np.full(count, part)) for key, part in parts.items()]
                value = self.node("BatchNormalization", f"{name}.bn", value, *taken_parts)
            if self.late and name == "c4":
                value = self.node("Sigmoid", f"{name}.sigmoid", value)
            value = self.node("Relu", f"{name}.relu", value) if relu else value
            return self.pair(f"{name}.a", value, relu) if quantize else value

        first = conv("c1", self.pair("in", "x", False), INPUT[1])
        third = conv("c3", conv("c2", first, count), count, relu=False, quantize=self.add)
        total = self.node("Relu", "sum.relu", self.node("Add", "sum", third, first))
        value = conv("c4", self.pair("sum.a", total, True), count)
        if self.transposed:
            weight = generator.standard_normal((count, count, 2, 2)) / 17
            value = self.pair("ct.a", self.layer("ConvTranspose", "ct", value, weight, strides=[2, 2]), False)
        value = self.node("Flatten", "flat", self.node("GlobalAveragePool", "mean", value))
        self.layer("Gemm", "fc", self.pair("flat.a", value, True), generator.standard_normal((10, count)), transB=1)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *INPUT[1:]])],
            [helper.make_tensor_value_info("fc", TensorProto.FLOAT, ["N", 10])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def save(self, path: Path) -> Path:
        onnx.save(self.proto(), path)
        return path

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def pair(self, name: str, source: str, positive: bool) -> str:
        """Q and DQ behind a value; integers of a positive one begin at zero."""
        if not self.quantized:
            return source
        kind = np.iinfo(self.dtype)
        zero = int(kind.min) + self.zero if positive else (int(kind.min) + int(kind.max) + 1) // 2
        taken = [self.constant(f"{name}_s", SCALE), self.constant(f"{name}_z", zero, self.dtype)]
        return self.node("DequantizeLinear", name, self.node("QuantizeLinear", f"{name}_q", source, *taken), *taken)

    def layer(self, kind: str, name: str, source: str, values: np.ndarray, **attributes: Any) -> str:
        """A layer with weight and bias, dequantized where there are integers."""
        axis = 1 if kind == "ConvTranspose" else 0
        zeros = np.zeros(values.shape[axis])
        if not self.quantized:
            taken = [self.constant(f"{name}.weight", values), self.constant(f"{name}.bias", zeros)]
            return self.node(kind, name, source, *taken, **attributes)
        others = tuple(place for place in range(values.ndim) if place != axis)
        scale = np.abs(values).max(others if self.per_channel else None, keepdims=True) / self.limit
        flat = scale.reshape(-1) if self.per_channel else scale.reshape(())
        weight = self.dequantized(f"{name}.weight", np.round(values / scale), flat, np.int8, axis)
        bias = self.dequantized(f"{name}.bias", zeros, flat * SCALE * self.bias_scale, np.int32, 0)
        return self.node(kind, name, source, weight, bias, **attributes)

    def dequantized(self, name: str, integers: np.ndarray, scale: np.ndarray, dtype: Any, axis: int) -> str:
        taken = [self.constant(f"{name}_i", integers, dtype), self.constant(f"{name}_s", scale)]
        taken.append(self.constant(f"{name}_z", np.zeros(scale.shape), dtype))
        return self.node("DequantizeLinear", name, *taken, **({"axis": axis} if scale.ndim else {}))

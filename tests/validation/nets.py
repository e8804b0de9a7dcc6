"""Small networks, float and quantized, and ways to break them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

SHAPE = (3, 8, 8)
CLASSES = 5
FLAT = 24
SAMPLES = 48
WIDE = ("x", ["N", *SHAPE])
IR = 8


@dataclass
class Graph:
    """A graph in the making."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def model(
        self, inputs: Sequence[Any], outputs: Sequence[Any], opset: int = 17, dtype: int = TensorProto.FLOAT,
        domains: Sequence[str] = (), ir: int = IR,
    ) -> ModelProto:  # fmt: skip
        def ports(values: Sequence[Any]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, kind[0] if kind else dtype, shape) for name, shape, *kind in values
            ]

        graph = helper.make_graph(self.nodes, "net", ports(inputs), ports(outputs), self.constants)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def classifier(
    *, opset: int = 17, seed: int = 0, batch: Any = "N", batchnorm: bool = False, width: int = 6, ir: int = IR,
    names: tuple[str, str] = ("x", "y"),
) -> ModelProto:  # fmt: skip
    """x -> c1 -> r1 -> c2 -> + r1 -> r2 -> pool -> flat -> y; answers of a random network on [N, 3, 8, 8]."""
    generator, graph = np.random.default_rng(seed), Graph()
    x, y = names

    def conv(name: str, source: str, taken: int) -> str:
        values = generator.standard_normal((width, taken, 3, 3)) / np.sqrt(9 * taken) * 1.5
        parts = [
            graph.constant(f"{name}.w", values),
            graph.constant(f"{name}.b", generator.standard_normal(width) / 10),
        ]
        value = graph.node("Conv", name, source, *parts, pads=[1, 1, 1, 1])
        if batchnorm:
            kinds = {"scale": 1.3, "bias": 0.1, "mean": 0.05, "var": 0.9}
            own = [graph.constant(f"{name}.bn.{kind}", np.full(width, part)) for kind, part in kinds.items()]
            value = graph.node("BatchNormalization", f"{name}.bn", value, *own)
        return value

    first = graph.node("Relu", "r1", conv("c1", x, SHAPE[0]))
    total = graph.node("Add", "sum", conv("c2", first, width), first)
    mean = graph.node("AveragePool", "pool", graph.node("Relu", "r2", total), kernel_shape=[4, 4], strides=[4, 4])
    flat = graph.node("Flatten", "flat", mean)
    weight = graph.constant("fc.w", generator.standard_normal((CLASSES, 4 * width)) / 2)
    graph.node("Gemm", y, flat, weight, graph.constant("fc.b", generator.standard_normal(CLASSES) / 5), transB=1)
    return graph.model([(x, [batch, *SHAPE])], [(y, [batch, CLASSES])], opset, ir=ir)


def quantized(model: ModelProto | None = None, kind: Any = np.uint8, limit: int = 63) -> ModelProto:
    """The classifier with Q and DQ around its layers, by hand: 7-bit weights, so that no processor's sums saturate."""
    proto = copy(model or classifier())
    graph, info = proto.graph, np.iinfo(kind)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ranges = activations(proto)
    nodes: list[NodeProto] = []
    stored: dict[str, np.ndarray] = {}

    def pair(source: str, low: float, high: float) -> str:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / (info.max - info.min))
        zero = np.asarray(np.clip(np.round(info.min - low / scale), info.min, info.max), kind)
        stored[f"{source}.s"], stored[f"{source}.z"] = np.asarray(scale, np.float32), zero
        nodes.append(
            helper.make_node("QuantizeLinear", [source, f"{source}.s", f"{source}.z"], [f"{source}.q"], f"{source}.q")
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{source}.q", f"{source}.s", f"{source}.z"], [f"{source}.dq"], f"{source}.dq"
            )
        )
        return f"{source}.dq"

    done: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type in ("Conv", "Gemm"):
            source, weight = node.input[0], node.input[1]
            if source not in done:
                done[source] = pair(source, *ranges[source])
            array = values.pop(weight)
            scale = np.abs(array).reshape(len(array), -1).max(axis=1) / limit
            whole = np.round(array / scale.reshape(-1, *[1] * (array.ndim - 1)))
            stored[f"{weight}.q"], stored[f"{weight}.s"] = whole.astype(np.int8), scale.astype(np.float32)
            stored[f"{weight}.z"] = np.zeros(len(scale), np.int8)
            names = [f"{weight}.q", f"{weight}.s", f"{weight}.z"]
            nodes.append(helper.make_node("DequantizeLinear", names, [weight], f"{weight}.dq", axis=0))
            node.input[0] = done[source]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in {**values, **stored}.items())
    return proto


def activations(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Smallest and largest of each value of the graph, on the samples."""
    from onnx.reference import ReferenceEvaluator

    proto = copy(model)
    del proto.graph.output[:]
    names = list(dict.fromkeys(name for node in proto.graph.node for name in node.output))
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    feed = samples()
    found = dict(zip(names, ReferenceEvaluator(proto).run(None, {"x": feed}), strict=True))
    return {name: (float(value.min()), float(value.max())) for name, value in {"x": feed, **found}.items()}


def samples(count: int = SAMPLES, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def copy(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def tensor(graph: GraphProto, name: str) -> TensorProto:
    return next(one for one in graph.initializer if one.name == name)


def node(graph: GraphProto, name: str) -> NodeProto:
    return next(one for one in graph.node if one.name == name)


def change(model: ModelProto, name: str, edit: Any) -> ModelProto:
    """The model with one stored tensor edited: edit(array) -> array."""
    made = copy(model)
    target = tensor(made.graph, name)
    target.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(edit(numpy_helper.to_array(target).copy())), name))
    return made


def attribute(model: ModelProto, name: str, **values: Any) -> ModelProto:
    """The model with attributes of a node set anew."""
    made = copy(model)
    found = node(made.graph, name)
    kept = [one for one in found.attribute if one.name not in values]
    del found.attribute[:]
    found.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in values.items())])
    return made


def operator(model: ModelProto, name: str, kind: str, **attributes: Any) -> ModelProto:
    """The model with another operator in a node's place."""
    made = copy(model)
    found = node(made.graph, name)
    found.op_type = kind
    del found.attribute[:]
    found.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return made


def without(model: ModelProto, name: str) -> ModelProto:
    """The model without a node of one input: who took its output takes its input."""
    made = copy(model)
    gone = node(made.graph, name)
    made.graph.node.remove(gone)
    for other in made.graph.node:
        other.input[:] = [gone.input[0] if value == gone.output[0] else value for value in other.input]
    return made

"""Who makes and who takes each value of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

MOVES = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only move or select values."""


@dataclass(frozen=True)
class Links:
    """Who makes and who takes each value."""

    producers: Mapping[str, NodeProto]
    users: Mapping[str, list[NodeProto]]
    constants: Mapping[str, TensorProto]
    outputs: frozenset[str]

    def origin(self, name: str) -> NodeProto | None:
        """Return the node that computed a value, looking through those that only moved it."""
        node = self.producers.get(name)
        while node is not None and node.op_type in MOVES:
            node = self.producers.get(node.input[0])
        return node

    def stored(self, node: NodeProto) -> TensorProto | None:
        """Return the constant that a Q or DQ, or the Q before a DQ, takes its values from."""
        before = self.producers.get(node.input[0])
        source = before.input[0] if before is not None and before.op_type == "QuantizeLinear" else node.input[0]
        return self.constants.get(source)


def name_of(node: NodeProto) -> str:
    """Return what a node is called: its name, or what it makes."""
    return node.name or f"{node.op_type} -> {node.output[0]}"


def is_dequantized(name: str, graph: Links) -> bool:
    """Return whether a value comes from a DequantizeLinear, moved or not."""
    origin = graph.origin(name)
    return origin is not None and origin.op_type == "DequantizeLinear"


def channel_axis(layer: NodeProto, rank: int) -> int:
    """Return the axis of a layer's weight along which its output channels lie."""
    if layer.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in layer.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(layer.op_type, rank - 1)


def link(graph: GraphProto) -> Links:
    """Return the links of a graph."""
    users: dict[str, list[NodeProto]] = {}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    producers = {name: node for node in graph.node for name in node.output}
    return Links(producers, users, constants, frozenset(value.name for value in graph.output))

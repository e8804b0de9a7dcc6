"""The convolutions and linear layers of a prepared graph: their parameters, and what observes their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from torch.fx import GraphModule, Node

from edgekd.compress.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from edgekd.compress.quantizer import LAYERS, LINEARS, layer_name


@dataclass(frozen=True)
class Layer:
    """A layer of a prepared graph.

    Args:
        name: dotted, of the module.
        node: what it gives.
        weight: a parameter of the graph, (outputs, inputs / groups, *kernel).
        bias: likewise, (outputs).
        observer: of the weight.
        groups: 1 for a linear layer.
    """

    name: str
    node: Node
    weight: nn.Parameter
    bias: nn.Parameter | None
    observer: MinMaxObserver | PerChannelMinMaxObserver
    groups: int

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer: its channels are the last axis, not the second."""
        return self.node.target in LINEARS

    @property
    def source(self) -> Node:
        """The value that it is given."""
        return cast(Node, self.node.args[0])


def layers(prepared: GraphModule) -> Iterator[Layer]:
    """Yield the quantized layers in the order of the computation."""
    for node in prepared.graph.nodes:
        observed = cast(Node, node.args[1]) if node.target in LAYERS else None
        if observed is not None and observed.op == "call_module":  # else the layer stays in float
            bias = argument(node, "bias", None)
            yield Layer(
                name=layer_name(node),
                node=node,
                weight=_parameter(prepared, observed),
                bias=None if bias is None else _parameter(prepared, bias),
                observer=cast(MinMaxObserver, prepared.get_submodule(str(observed.target))),
                groups=1 if node.target in LINEARS else int(argument(node, "groups", 1)),
            )


def argument(node: Node, name: str, default: Any) -> Any:
    """Return an argument of an operator by the name that its schema gives it; where it is not given, the default."""
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name == name:
            given = node.args[position] if len(node.args) > position else node.kwargs.get(name)
            return default if given is None else given
    return default


def _parameter(prepared: GraphModule, node: Node) -> nn.Parameter:
    while node.op == "call_module":  # an observer
        node = cast(Node, node.args[0])
    return prepared.get_parameter(str(node.target))

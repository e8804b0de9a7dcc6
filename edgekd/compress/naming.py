"""The network's named layers in a captured graph, which has operators only: losses between features ask for layers."""

from __future__ import annotations

import operator
from functools import partial

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.compress.quantizer import LINEARS


class Named(nn.Module):
    """Gives on what a layer of the network gave, so that a hook finds it under the layer's name.

    Args:
        kind: the class of the layer where losses look for it.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, given: Tensor, result: Tensor) -> Tensor:
        """Return `result`; `given` is what the layer was given."""
        return result


def name_layers(graph: GraphModule) -> None:
    """Put the layers that the network had into its graph, in place.

    A layer that was folded into another (BatchNorm) or does nothing is not there.
    """
    inside: dict[str, list[Node]] = {}
    for node in graph.graph.nodes:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            if node.op == "call_function" and path:
                inside.setdefault(str(path), []).append(node)
    last: dict[Node, Node] = {}
    for path, nodes in sorted(inside.items(), key=lambda item: -item[0].count(".")):  # inner layers end first
        kind = "Linear" if len(nodes) == 1 and nodes[0].target in LINEARS else "Named"
        _install(graph, path, Named(kind))
        result, given = nodes[-1], next((node.args[0] for node in nodes if node.args[0] not in nodes), nodes[0])
        before = last.get(result, result)
        with graph.graph.inserting_after(before):
            named = graph.graph.call_module(path, (given, before))
        before.replace_all_uses_with(named, delete_user_cb=partial(operator.is_not, named))
        last[result] = named
    graph.recompile()


def forget_layers(graph: GraphModule) -> None:
    """Take what `name_layers` put there out of the graph's operators again."""
    modules = dict(graph.named_modules(remove_duplicate=False))
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], Named):
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)
    graph.recompile()


def _install(graph: GraphModule, path: str, named: Named) -> None:
    """Put a module where the layer's parameters are, which it takes over."""
    modules = dict(graph.named_modules(remove_duplicate=False))
    if path in modules:
        held = modules[path]
        named._parameters, named._buffers, named._modules = held._parameters, held._buffers, held._modules
        graph.set_submodule(path, named)
    else:
        graph.add_submodule(path, named)

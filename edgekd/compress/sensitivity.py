"""How much each layer alone harms a network when it computes on integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekd.compress.fake_quantization import FakeActivation, FakeWeight
from edgekd.compress.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from edgekd.compress.quantization import quantized_layers
from edgekd.compress.quantizer import ACTIVATIONS, LAYERS, MOVES, layer_name
from edgekd.compress.simulation import decibels, first


class _Rounding(Interpreter):
    """Runs a calibrated graph in float, but for some of its observers, which round."""

    def __init__(self, prepared: GraphModule, rounding: Mapping[str, nn.Module]) -> None:
        super().__init__(prepared)
        self._rounding = rounding

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Round what an observer is given, or give it on."""
        rounding = self._rounding.get(str(target))
        return args[0] if rounding is None else rounding(args[0])


def sqnr_db(prepared: GraphModule, batches: Sequence[Tensor]) -> dict[str, float]:
    """Return the signal-to-quantization-noise ratio of a network's answers with one layer alone in integers, by layer.

    A layer's integers are its input, its weight and its output; a layer that is called more than once is one.

    Args:
        prepared: a calibrated graph; it is not changed.
        batches: inputs.

    Returns:
        Decibels, the most harmful layer first; infinite where nothing changes.
    """
    alone = {name: _roundings(prepared, name) for name in dict.fromkeys(quantized_layers(prepared))}
    signal, noise = 0.0, dict.fromkeys(alone, 0.0)
    with torch.no_grad():
        for batch in batches:
            exact = _answers(prepared, {}, batch)
            signal += float(exact.square().sum())
            for name, rounding in alone.items():
                noise[name] += float((_answers(prepared, rounding, batch) - exact).square().sum())
    ratios = {name: decibels(signal, lost) for name, lost in noise.items()}
    return dict(sorted(ratios.items(), key=lambda item: item[1]))


def _answers(prepared: GraphModule, rounding: Mapping[str, nn.Module], batch: Tensor) -> Tensor:
    return first(_Rounding(prepared, rounding).run(batch)).double()


def _roundings(prepared: GraphModule, name: str) -> dict[str, nn.Module]:
    """Return what rounds in place of each observer of a layer."""
    found: dict[str, nn.Module] = {}
    for node in prepared.graph.nodes:
        if node.target not in LAYERS or layer_name(node) != name:
            continue
        for target in _observers(node):
            observer = prepared.get_submodule(target)
            if isinstance(observer, MinMaxObserver | PerChannelMinMaxObserver):
                is_weight = target == str(node.args[1].target)
                found[target] = (FakeWeight if is_weight else _resting)(observer)
    return found


def _resting(observer: MinMaxObserver) -> nn.Module:
    return FakeActivation(observer, (1.0, 1.0), 0).eval()


def _observers(layer: Node) -> Iterator[str]:
    """Yield the names of what observes a layer's input, weight and output."""
    for argument in cast(Sequence[Node], layer.args[:2]):
        value = argument
        while value.target in MOVES:  # a float that is moved on its way is rounded before it is moved
            value = cast(Node, value.args[0])
        if value.op == "call_module":
            yield str(value.target)
    users = list(layer.users)
    given = users[0].users if len(users) == 1 and users[0].target in ACTIVATIONS else layer.users
    yield from (str(user.target) for user in given if user.op == "call_module")

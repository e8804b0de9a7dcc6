"""A calibrated graph run value by value: as the float network that it is, or with the rounding of its integers.

Nothing in the graph changes, its observers neither. Values can be looked at on the way, which is what the methods that
repair a quantization need (`edgekd.compress.equalization`, `rounding` and `bias_correction`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekd.compress.pt2e import DerivedObserverOrFakeQuantize, MinMaxObserver, ObserverBase, PerChannelMinMaxObserver

Look = Callable[[Tensor], Tensor | None]
"""What is done with a value, of one batch; what it returns, if anything, takes the value's place."""
Looks = Mapping[str, Look]
"""By the names of nodes, which a copy of a graph shares with it."""


class _Run(Interpreter):
    """One run; observers give on what they get, or what their integers hold of it.

    Biases stay as they are: in 32 bits, their rounding is none.
    """

    def __init__(self, prepared: GraphModule, looks: Looks, *, integers: bool) -> None:
        super().__init__(prepared)
        self._looks, self._integers = looks, integers

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        given = self._looks[n.name](value) if n.name in self._looks else None
        return value if given is None else given

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        if self._integers and isinstance(module, MinMaxObserver | PerChannelMinMaxObserver):
            return rounded(module, args[0])
        if isinstance(module, ObserverBase | DerivedObserverOrFakeQuantize):
            return args[0]
        return super().call_module(target, args, kwargs)


def run(prepared: GraphModule, batches: Iterable[Tensor], looks: Looks, *, integers: bool) -> None:
    """Show a graph real inputs, and look at values of it.

    Args:
        looks: what is done with values, for each batch.
        integers: with the rounding of the integers, or in float.
    """
    runner = _Run(prepared, looks, integers=integers)
    with torch.no_grad():
        for batch in batches:
            runner.run(batch)


def sqnr_db(prepared: GraphModule, batch: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio of a calibrated graph's answers to a batch, in decibels."""
    with torch.no_grad():
        exact, whole = (first(_Run(prepared, {}, integers=integers).run(batch)).double() for integers in (False, True))
    return decibels(float(exact.square().sum()), float((whole - exact).square().sum()))


def first(answers: Any) -> Tensor:
    """Return the first output of a graph."""
    return cast(Tensor, answers[0] if isinstance(answers, tuple | list) else answers)


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two energies in decibels; infinite without noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def rounded(observer: MinMaxObserver | PerChannelMinMaxObserver, x: Tensor) -> Tensor:
    """Return what the integers of an observer hold of a value, in its own shape."""
    scale, zero_point = observer.calculate_qparams()
    if isinstance(observer, PerChannelMinMaxObserver):
        return torch.fake_quantize_per_channel_affine(
            x, scale, zero_point.int(), observer.ch_axis, observer.quant_min, observer.quant_max
        )
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), observer.quant_min, observer.quant_max)

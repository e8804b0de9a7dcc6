"""Post-training quantization: prepare, calibrate, convert, and keep what calibration found."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd import models
from edgekd.compress.histograms import Chooser, Histogram, Levels
from edgekd.compress.pt2e import (
    DerivedObserverOrFakeQuantize,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    convert_pt2e,
    prepare_pt2e,
)
from edgekd.compress.quantizer import BIAS_LIMIT, LAYERS, SchemeQuantizer, layer_name
from edgekd.device import Scheme
from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.graph.capture import capture, quiet_pytrees

_SMALLEST_CHANNEL = 2.0**-12
"""The smallest range of a weight channel, as a share of the layer's largest."""


def captured(model: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """Return the graph of a float network in evaluation mode, for `prepare` to be given more than once.

    Raises:
        StageError: there is no convolution and no linear layer, or the network cannot be exported.
    """
    graph: GraphModule = capture(model, example).module(check_guards=False)
    if not layers(graph):
        called = sorted({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        raise StageError(
            f"{type(model).__name__} has nothing to quantize: no 1d or 2d convolution and no linear layer "
            f"(it calls {', '.join(called) or 'nothing'}). Switch the quantize stage off for this network"
        )
    return graph


def prepare(
    model: nn.Module,
    example: tuple[Tensor, ...],
    scheme: Scheme,
    weights_bits: int = 8,
    float_layers: Collection[str] = (),
) -> GraphModule:
    """Return the model as a graph with its BatchNorm folded and an observer wherever the scheme quantizes.

    Args:
        model: the float network, or what `captured` made of it; it is not changed.
        example: inputs, the first axis of each is the batch, which stays free.
        scheme: what becomes an integer.
        weights_bits: 8, or 4.
        float_layers: names of layers that stay as they are.

    Raises:
        StageError: as `captured`, or all layers are to stay as they are.
    """
    graph = duplicate(model) if isinstance(model, GraphModule) else captured(model, example)
    if set(layers(graph)) <= set(float_layers):
        raise StageError(
            "quantize: every layer is to stay in float, and nothing is left to quantize; switch the stage off "
            "(quantize: false), or exclude fewer"
        )
    prepared: GraphModule = prepare_pt2e(graph, SchemeQuantizer(scheme, weights_bits, float_layers))
    return prepared


def layers(graph: GraphModule) -> list[str]:
    """Return the names of the convolutions and linear layers of a graph, in the order in which they run."""
    return [layer_name(node) for node in graph.graph.nodes if node.target in LAYERS]


def quantized_layers(graph: GraphModule) -> list[str]:
    """Return those layers of a prepared or converted graph that are not left in float."""
    return [layer_name(node) for node in graph.graph.nodes if node.target in LAYERS and _takes_integers(node)]


def _takes_integers(layer: Node) -> bool:
    weight = cast(Node, layer.args[1])
    return weight.op == "call_module" or "dequantize" in str(weight.target)


def excluded(model: nn.Module, names: Sequence[str]) -> frozenset[str]:
    """Return the names of the layers that are named or lie inside of what is named.

    Raises:
        StageError: the network has nothing of a name.
    """
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise StageError(f"quantize: no layer {name!r} to exclude{suggest(name, known)}")
    return frozenset(path for path in known for name in names if path == name or path.startswith(f"{name}."))


def calibrate(
    prepared: GraphModule, batches: Iterable[Tensor | tuple[Tensor, ...]], choose: Chooser | None = None
) -> dict[str, Histogram]:
    """Show a prepared graph real inputs, so that its observers learn the ranges.

    Args:
        prepared: what `prepare` returned.
        batches: inputs; a tuple where the network takes several.
        choose: the range of an activation from the histogram of its values. None: the smallest and largest value seen,
            which is always the range of weights.

    Returns:
        With `choose` what was seen, by the names of the observers of activations.

    Raises:
        StageError: there is no batch, or a value in the network is NaN or infinite.
    """
    watched = dict(activation_observers(prepared)) if choose else {}
    seen = {name: Histogram() for name in watched}
    hooks = [
        observer.register_forward_pre_hook(lambda _, given, name=name: seen[name].add(given[0]))
        for name, observer in watched.items()
    ]
    count = 0
    with models.hooked(hooks), torch.no_grad():
        for batch in batches:
            prepared(*(batch if isinstance(batch, tuple) else (batch,)))
            count += 1
    if not count:
        raise StageError("no calibration data: quantization needs real inputs to learn the ranges from")
    check_finite(prepared)
    if choose is not None:
        for name, observer in watched.items():
            _narrow(observer, seen[name], choose)
    settle(prepared)
    return seen


def forget(prepared: GraphModule) -> None:
    """Take the ranges from a calibrated graph, so that it can be calibrated anew."""
    for module in prepared.modules():
        if isinstance(module, MinMaxObserver | PerChannelMinMaxObserver):
            module.reset_min_max_vals()


def activation_observers(prepared: GraphModule) -> Iterator[tuple[str, MinMaxObserver]]:
    """Yield the observers of values that are computed, with their names; one that serves several values comes once."""
    for name, source, observer in _observers(prepared):
        if source.op != "get_attr":
            yield name, observer


def weight_observers(prepared: GraphModule) -> Iterator[tuple[str, MinMaxObserver | PerChannelMinMaxObserver]]:
    """Yield the observers of weights, with the names of the parameters."""
    for _, source, observer in _observers(prepared):
        if source.op == "get_attr":
            yield str(source.target), observer


def observe_weight(observer: MinMaxObserver | PerChannelMinMaxObserver, weight: Tensor) -> None:
    """Give an observer the range of a weight as it is now, whatever it was before."""
    if isinstance(observer, PerChannelMinMaxObserver):
        low, high = weight.movedim(observer.ch_axis, 0).flatten(1).aminmax(dim=1)
    else:
        low, high = weight.aminmax()
    observer.min_val.copy_(low)
    observer.max_val.copy_(high)
    _widen_zeros(observer)


def _observers(prepared: GraphModule) -> Iterator[tuple[str, Node, Any]]:
    """Yield the name of what observes a range of its own, the value that it observes, and itself; each once."""
    modules, found = dict(prepared.named_modules(remove_duplicate=False)), set()
    for node in prepared.graph.nodes:
        observer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(observer, MinMaxObserver | PerChannelMinMaxObserver) and observer not in found:
            found.add(observer)
            yield str(node.target), cast(Node, node.args[0]), observer


def settle(prepared: GraphModule) -> None:
    """Make observed ranges such that kernels can work with them: of what is always zero, and of biases."""
    for module in prepared.modules():
        if isinstance(module, MinMaxObserver | PerChannelMinMaxObserver):
            _widen_zeros(module)
    _fit_biases(prepared)


def check_finite(prepared: GraphModule) -> None:
    """Refuse ranges that are not finite.

    Raises:
        StageError: with the name of the observer.
    """
    for name, module in prepared.named_modules():
        if isinstance(module, MinMaxObserver | PerChannelMinMaxObserver) and not bool(
            torch.isfinite(module.min_val).all() and torch.isfinite(module.max_val).all()
        ):
            raise StageError(f"calibration saw NaN or infinity at {name}: a weight or an input is not finite")


def _narrow(observer: MinMaxObserver, seen: Histogram, choose: Chooser) -> None:
    """Give an observer the range that is chosen, which is never wider than what was seen."""
    symmetric = observer.qscheme == torch.per_tensor_symmetric
    low, high = choose(seen, Levels(observer.quant_min, observer.quant_max, symmetric))
    observer.min_val.clamp_(min=low)
    observer.max_val.clamp_(max=high)


def _widen_zeros(observer: MinMaxObserver | PerChannelMinMaxObserver) -> None:
    """Give a range to what is always zero, a dead channel or input: kernels divide by its scale."""
    largest = torch.maximum(observer.max_val, -observer.min_val).max()
    observer.max_val.clamp_(min=torch.where(largest > 0, largest * _SMALLEST_CHANNEL, 1.0))


def _fit_biases(prepared: GraphModule) -> None:
    """Widen the range of weight channels so small that their bias, an integer in their scale, would overflow."""
    modules = dict(prepared.named_modules())
    for node in prepared.graph.nodes:
        observer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(observer, DerivedObserverOrFakeQuantize):
            activation, weight = observer.obs_or_fqs
            bias = attrgetter(node.args[0].target)(prepared).detach().abs()
            scale, _ = activation.calculate_qparams()
            needed = bias / (scale * BIAS_LIMIT) * weight.quant_max
            weight.max_val.copy_(torch.maximum(weight.max_val, needed if weight.max_val.dim() else needed.max()))


def convert(prepared: GraphModule) -> GraphModule:
    """Return a copy of a calibrated graph with integer weights and with quantize and dequantize operators."""
    converted: GraphModule = convert_pt2e(duplicate(prepared))
    # An exported graph refuses to be told its mode; nothing in this one has modes.
    del converted.train, converted.eval
    return converted


def duplicate(prepared: GraphModule) -> GraphModule:
    """Return a copy of a graph; its nodes have the same names."""
    with quiet_pytrees():
        return copy.deepcopy(prepared)


def observed_state(prepared: GraphModule) -> dict[str, Tensor]:
    """Return weights and calibrated ranges: with the float model's description, all that `convert` depends on."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in prepared.state_dict().items()}


def load_observed_state(prepared: GraphModule, state: Mapping[str, Tensor]) -> None:
    """Put a kept state into a freshly prepared graph of the same network and scheme."""
    prepared.load_state_dict(dict(state), strict=True)

"""Which values of a network become 8-bit integers: the annotation rules of a device's `Scheme`, for torchao's PT2E.

The rules follow what integer kernels can fuse (ONNX Runtime's QLinear operators, OpenVINO, TensorRT):

- a convolution computes integers to integers, so its input, weight and bias and its output are quantized. The output is
  taken after a ReLU that is its only user; quantizing between the two would split the fused kernel in two.
- a linear layer's input, weight and bias are quantized; its output is what the next layer asks for. The logits at the
  end of a network stay float: no kernel gains from rounding them, and every decision is made on them.
- residual additions, concatenations and average pools compute in integers when all their inputs are integers already.
  Left in float, each would cost a conversion on both sides, which is slower than a float network.
- what only moves or selects values (max-pool, flatten, transpose) is transparent: integers in, the same integers out. A
  second pair of quantize and dequantize behind it would be dropped by ONNX Runtime, but executed by OpenVINO.

Biases are int32 in the scale of the product they are added to (input scale times weight scale), except in the symmetric
scheme: TensorRT takes float biases only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.compress.pt2e import (
    DerivedQuantizationSpec,
    MinMaxObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
)
from edgekd.device import Scheme

aten = torch.ops.aten

EdgeOrNode = tuple[Node, Node] | Node
"""Where an observer sits: on a value as one user takes it, or on a value for all its users."""
Integers = dict[Node, EdgeOrNode]
"""The values that are integers, and which observer gives their scale."""

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding})
LINEARS = frozenset({aten.linear.default})
LAYERS = CONVOLUTIONS | LINEARS
ACTIVATIONS = frozenset(
    {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default}
)
_ADDITIONS = frozenset({aten.add.Tensor, aten.add_.Tensor})
_CONCATENATIONS = frozenset({aten.cat.default})
_POOLS = frozenset({aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim})
MOVES = frozenset(
    {
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.slice.Tensor,
    }
)
_IDENTITIES = frozenset({aten.dropout.default, aten.dropout_.default})

_WEIGHT_LIMIT = 127
_FOUR_BIT_WEIGHT_LIMIT = 7
_REDUCED_WEIGHT_LIMIT = 64
"""The largest weight for which the sum of two products with 8-bit activations fits 16 bits: 2 * 255 * 64 < 2**15."""

BIAS_LIMIT = 2**30
"""Biases are clamped as floats, and the float next to 2**31 - 1 would overflow int32."""


class SchemeQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates an exported graph by the rules above.

    Args:
        weights_bits: 8 (or 7, as the scheme says), or 4.
        float_layers: names of layers that stay as they are.
    """

    def __init__(self, scheme: Scheme, weights_bits: int = 8, float_layers: Collection[str] = ()) -> None:
        super().__init__()
        self._float_layers = frozenset(float_layers)
        self._scheme = scheme
        self._activation = _activation_spec(scheme)
        self._weight = _weight_spec(scheme, weights_bits)

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write means over the image as average pools, which have integer kernels, and remove what does nothing."""
        for node in list(model.graph.nodes):
            if node.target is aten.mean.dim and _is_image_mean(node):
                _mean_to_pool(model, node)
            elif node.target in _IDENTITIES:
                node.replace_all_uses_with(node.args[0])
                model.graph.erase_node(node)
        model.recompile()
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write onto every node what of it is quantized."""
        integers: Integers = {}
        for node in model.graph.nodes:
            if node.target in LAYERS:
                if layer_name(node) not in self._float_layers:
                    self._annotate_layer(node, integers)
            elif self._computes_in_integers(node, integers):
                for value in _tensor_inputs(node):
                    self._annotate_input(value, node, integers)
                self._annotate_output(node, integers)
            elif node.target in MOVES and node.args[0] in integers:
                integers[node] = self._annotate_input(cast(Node, node.args[0]), node, integers)
            elif node.target in ACTIVATIONS and node not in integers and node.args[0] in integers:
                self._annotate_input(cast(Node, node.args[0]), node, integers)
                self._annotate_output(node, integers)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: a value is annotated only where a kernel exists."""

    def _annotate_layer(self, node: Node, integers: Integers) -> None:
        source, weight = cast(Node, node.args[0]), cast(Node, node.args[1])
        bias = node.args[2] if len(node.args) > 2 else None
        origin = self._annotate_input(source, node, integers)
        inputs: dict[Node, QuantizationSpecBase] = {weight: self._weight}
        if isinstance(bias, Node) and not self._scheme.symmetric:
            inputs[bias] = _bias_spec(origin, (weight, node), per_channel=self._scheme.weights == "per-channel")
        _annotate(node, inputs)
        if node.target in CONVOLUTIONS:
            self._annotate_output(node, integers)

    def _annotate_input(self, value: Node, user: Node, integers: Integers) -> EdgeOrNode:
        """Quantize a value for its user, and return where.

        A float that is only moved on its way is quantized before the move: a quarter of the bytes are moved then.
        """
        path = []
        while value.target in MOVES and value not in integers and len(value.users) == 1:
            path.append(value)
            value, user = cast(Node, value.args[0]), value
        if value.target in MOVES and value in integers:
            origin = integers[value]
        else:
            _annotate(user, {value: self._activation})
            origin = (value, user)
        integers.setdefault(value, origin)
        integers.update(dict.fromkeys(path, origin))
        return origin

    def _annotate_output(self, node: Node, integers: Integers) -> None:
        """Quantize what a kernel gives: the value after an activation that can be fused into it, else its own."""
        users = list(node.users)
        fused = len(users) == 1 and users[0].target in ACTIVATIONS
        last = users[0] if fused else node
        _annotate(last, output=self._activation)
        integers[last] = last

    def _computes_in_integers(self, node: Node, integers: Integers) -> bool:
        if not self._scheme.quantize_add or node.target not in _ADDITIONS | _CONCATENATIONS | _POOLS:
            return False
        inputs = _tensor_inputs(node)
        operands = 2 if node.target in _ADDITIONS else 1
        return len(inputs) >= operands and all(value in integers for value in inputs)


def layer_name(node: Node) -> str:
    """Return the dotted module name of a layer, or the node's own name where the layer is a plain function call."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path) or node.name


def weight_limit(scheme: Scheme) -> int:
    """Return the largest 8-bit weight of a scheme."""
    return _REDUCED_WEIGHT_LIMIT if scheme.reduce_range else _WEIGHT_LIMIT


def _activation_spec(scheme: Scheme) -> QuantizationSpec:
    low, high, dtype = (0, 255, torch.uint8) if scheme.activations == "u8" else (-128, 127, torch.int8)
    return QuantizationSpec(
        dtype=dtype,
        observer_or_fake_quant_ctr=MinMaxObserver.with_args(),
        quant_min=low,
        quant_max=high,
        qscheme=torch.per_tensor_symmetric if scheme.symmetric else torch.per_tensor_affine,
    )


def _weight_spec(scheme: Scheme, bits: int) -> QuantizationSpec:
    per_channel = scheme.weights == "per-channel"
    limit = _FOUR_BIT_WEIGHT_LIMIT if bits == 4 else weight_limit(scheme)
    return QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=(PerChannelMinMaxObserver if per_channel else MinMaxObserver).with_args(),
        quant_min=-limit,
        quant_max=limit,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if per_channel else None,
    )


def _bias_spec(source: EdgeOrNode, weight: EdgeOrNode, *, per_channel: bool) -> DerivedQuantizationSpec:
    return DerivedQuantizationSpec(
        derived_from=[source, weight],
        derive_qparams_fn=_product_scale,
        dtype=torch.int32,
        quant_min=-BIAS_LIMIT,
        quant_max=BIAS_LIMIT,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=0 if per_channel else None,
    )


def _product_scale(observers: list[ObserverBase]) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of what an activation times a weight gives."""
    (activation, _), (weight, _) = (observer.calculate_qparams() for observer in observers)
    scale = activation * weight
    return scale, torch.zeros_like(scale, dtype=torch.int64)


def _annotate(
    node: Node, inputs: dict[Node, QuantizationSpecBase] | None = None, output: QuantizationSpecBase | None = None
) -> None:
    """Add to a node's annotation."""
    annotation = node.meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))
    annotation.input_qspec_map.update(inputs or {})
    if output is not None:
        annotation.output_qspec = output


def _tensor_inputs(node: Node) -> list[Node]:
    first = node.args[0]
    values = first if isinstance(first, list | tuple) else node.args
    return [value for value in values if isinstance(value, Node) and isinstance(value.meta.get("val"), Tensor)]


def _is_image_mean(node: Node) -> bool:
    axes = node.args[1]
    value = node.args[0].meta["val"]  # type: ignore[union-attr]
    return value.dim() == 4 and isinstance(axes, list | tuple) and sorted(a % 4 for a in axes) == [2, 3]  # type: ignore[operator]


def _mean_to_pool(model: GraphModule, node: Node) -> None:
    source = node.args[0]
    keepdim = len(node.args) > 2 and bool(node.args[2])
    with model.graph.inserting_before(node):
        pool = _call(model, aten.adaptive_avg_pool2d.default, (source, [1, 1]), node)
        result = pool if keepdim else _call(model, aten.flatten.using_ints, (pool, 1), node)
    node.replace_all_uses_with(result)
    model.graph.erase_node(node)


def _call(model: GraphModule, target: Callable[..., Tensor], args: tuple[object, ...], like: Node) -> Node:
    """Insert a call with the meta data that later passes read: the value's shape, and whose module it belongs to."""
    node = model.graph.call_function(target, args)  # type: ignore[arg-type]
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    node.meta = {key: value for key, value in like.meta.items() if key in ("nn_module_stack", "stack_trace")}
    node.meta["val"] = target(*values)
    return node

"""What decides how fast and how exact the layers of an ONNX graph can be in integers: channels, scales, neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekd.graph.links import MOVES, Links, channel_axis, is_dequantized, link, name_of
from edgekd.graph.lint import INTEGER_PRODUCT, LAYER_OPERATORS

_RECTIFIERS = frozenset({"Relu", "Clip"})
_EIGHT_BITS: dict[int, str] = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product."""

    name: str
    operator: str
    channels: tuple[int, ...]
    """Of its input and output, without what the network's input and its answers have; () for two activations."""
    quantized: bool
    """Its input and its weight are integers, dequantized or not."""
    activations: str | None
    """The type of the integers that it is fed with: "uint8", "int8"."""
    scales: int
    """How many its stored weight has; 0 for a float weight."""
    channel_range: NDArray[np.float64] | None
    """Largest magnitude of each output channel's weights [channels]."""
    largest_integer: int
    """Largest magnitude of its stored weight; 0 for a float weight."""
    batchnorm: str | None
    """The BatchNormalization that takes its output, and could be folded into it."""
    obstacle: str | None
    """Why integer kernels that need a QuantizeLinear right behind them cannot take it, in words."""


@dataclass(frozen=True)
class Addition:
    """A sum of two branches."""

    name: str
    branches: tuple[str, ...]
    """The layers whose outputs it takes as floats."""
    quantized: bool
    """Both branches and the sum are integers."""


@dataclass(frozen=True)
class Anatomy:
    """An ONNX graph, taken apart."""

    layers: tuple[Layer, ...]
    additions: tuple[Addition, ...]
    names: Mapping[str, NodeProto]
    """Nodes by their names and those of their outputs: what runtimes call them by."""
    links: Links
    inputs: int
    outputs: int

    @property
    def quantized(self) -> bool:
        """Whether a layer is fed with integers."""
        return any(layer.quantized for layer in self.layers)

    def layer_of(self, name: str) -> str | None:
        """Return the layer that a node belongs to: itself, or the one whose output it normalizes or rectifies."""
        node = self.names.get(name)
        while node is not None and node.op_type not in LAYER_OPERATORS:
            follows = node.op_type in _RECTIFIERS | {"BatchNormalization", "Add", "QuantizeLinear"}
            node = self.links.producers.get(node.input[0]) if follows else None
        return None if node is None else name_of(node)


def dissect(proto: ModelProto) -> Anatomy:
    """Take the main graph of a model apart."""
    graph, links = proto.graph, link(proto.graph)
    above, below = _above(proto, links), _below(proto, links)
    found = [node for node in graph.node if node.op_type in LAYER_OPERATORS]
    names = {name: node for node in graph.node for name in (*node.output, node.name) if name}
    constants = {tensor.name for tensor in graph.initializer}
    return Anatomy(
        layers=tuple(_layer(node, links, node.output[0] in above, node.output[0] in below) for node in found),
        additions=tuple(_additions(proto, links)),
        names=names,
        links=links,
        inputs=sum(value.name not in constants for value in graph.input),
        outputs=len(graph.output),
    )


def weight_of(node: NodeProto, links: Links) -> tuple[NDArray[np.float64], NDArray[np.integer] | None, int] | None:
    """Return a layer's weight as floats with its output channels first [channels, ...], the stored integers or None,
    and the number of scales; None where it is computed.

    The scales of a product of integers are not looked for: it is given as if each channel had one, which is 1.
    """
    name, turned = node.input[1], False
    producer = links.producers.get(name)
    while producer is not None and producer.op_type in ("Transpose", "Identity"):
        turned ^= producer.op_type == "Transpose"
        name = producer.input[0]
        producer = links.producers.get(name)
    if node.op_type == INTEGER_PRODUCT and name in links.constants:
        factor = numpy_helper.to_array(links.constants[name])
        return factor.T.astype(np.float64), factor, factor.shape[1]
    if producer is not None and producer.op_type == "DequantizeLinear":
        stored, scale = links.stored(producer), links.constants.get(producer.input[1])
        if stored is None or scale is None:
            return None
        integers, steps = numpy_helper.to_array(stored), numpy_helper.to_array(scale).astype(np.float64)
        if stored.data_type not in _EIGHT_BITS:  # floats that a Q rounds when the file is loaded
            values, whole = integers.astype(np.float64), None
        else:
            axis = next((attribute.i for attribute in producer.attribute if attribute.name == "axis"), 1)
            shape = [-1 if place == axis % integers.ndim else 1 for place in range(integers.ndim)]
            values, whole = integers * (steps.reshape(shape) if steps.size > 1 else steps.reshape(())), integers
        scales = steps.size
    elif name in links.constants:
        values, whole, scales = numpy_helper.to_array(links.constants[name]).astype(np.float64), None, 0
    else:
        return None
    axis = channel_axis(node, values.ndim)
    axis = values.ndim - 1 - axis if turned and values.ndim == 2 else axis
    return np.moveaxis(values, axis, 0), whole, scales


def _layer(node: NodeProto, links: Links, above: bool, below: bool) -> Layer:
    weight = weight_of(node, links)
    values, integers, scales = weight if weight is not None else (None, None, 0)
    source = links.origin(node.input[0])
    fed = source if source is not None and source.op_type == "DequantizeLinear" else None
    multiplies = node.op_type == INTEGER_PRODUCT
    quantized = multiplies or (fed is not None and is_dequantized(node.input[1], links))
    return Layer(
        name=name_of(node),
        operator=node.op_type,
        channels=() if values is None else _channels(node, values, above, below),
        quantized=quantized,
        activations="uint8" if multiplies else None if fed is None else _integers(fed, links),
        scales=scales,
        channel_range=None if values is None else np.abs(values).reshape(len(values), -1).max(axis=1),
        largest_integer=0 if integers is None else int(np.abs(integers.astype(np.int64)).max()),
        batchnorm=_batchnorm(node, links),
        obstacle=_obstacle(node, fed, links) if fed is not None and quantized else None,
    )


def _channels(node: NodeProto, values: NDArray[np.float64], above: bool, below: bool) -> tuple[int, ...]:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    taken, given = values.shape[1] * groups, values.shape[0]
    if node.op_type == "ConvTranspose":
        taken, given = values.shape[1], values.shape[0] * groups
    return ((taken,) if above else ()) + ((given,) if below else ())


def _integers(fed: NodeProto, links: Links) -> str | None:
    before = links.producers.get(fed.input[0])
    for node in (fed, before):
        point = links.constants.get(node.input[2]) if node is not None and len(node.input) > 2 else None
        if point is not None:
            return _EIGHT_BITS.get(point.data_type)
    return "uint8"


def _batchnorm(node: NodeProto, links: Links) -> str | None:
    users = links.users.get(node.output[0], [])
    return name_of(users[0]) if len(users) == 1 and users[0].op_type == "BatchNormalization" else None


def _obstacle(node: NodeProto, fed: NodeProto, links: Links) -> str | None:
    """Return what stands between a layer and the QuantizeLinear behind it, or is wrong with its bias."""
    wrong = _bias_problem(node, fed, links)
    if wrong is not None:
        return wrong
    between, value = [], node.output[0]
    while True:
        users = links.users.get(value, [])
        if value in links.outputs or not users:
            # Matrix products can give floats; convolutions cannot.
            return None if node.op_type in ("Gemm", "MatMul") else "its output leaves the network as floats"
        if len(users) > 1 or users[0].op_type in LAYER_OPERATORS | {"Add", "Concat"}:
            return f"its output is not quantized: {name_of(users[0])} takes it as floats"
        if users[0].op_type == "QuantizeLinear":
            break
        if users[0].op_type not in MOVES:
            between.append(users[0])
        value = users[0].output[0]
    for other in between:
        if other.op_type not in _RECTIFIERS:
            return f"{name_of(other)} ({other.op_type}) stands between it and its QuantizeLinear"
        if not _begins_at_zero(users[0], links):
            return f"the integers behind {name_of(other)} do not begin at zero, so that it has to be computed"
    return None


def _begins_at_zero(quantizer: NodeProto, links: Links) -> bool:
    point = links.constants.get(quantizer.input[2]) if len(quantizer.input) > 2 else None
    if point is None:
        return len(quantizer.input) < 3
    values = numpy_helper.to_array(point)
    return bool((values == np.iinfo(values.dtype).min).all())


def _bias_problem(node: NodeProto, fed: NodeProto, links: Links) -> str | None:
    """Return what is wrong with a quantized bias: kernels add it in the scale of the product."""
    bias = links.producers.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    weight = links.origin(node.input[1])
    if bias is None or weight is None or bias.op_type != "DequantizeLinear":
        return None
    scales = [links.constants.get(one.input[1]) for one in (fed, weight, bias)]
    taken, own, given = (None if one is None else numpy_helper.to_array(one).astype(np.float64) for one in scales)
    if taken is None or own is None or given is None:
        return None
    if given.size not in (1, own.size) or not np.allclose(given, taken * own, rtol=1e-3, atol=0):
        return "the scale of its bias is not that of its input times that of its weight"
    return None


def _additions(proto: ModelProto, links: Links) -> Iterator[Addition]:
    for node in proto.graph.node:
        if node.op_type != "Add" or any(name in links.constants or not name for name in node.input):
            continue
        origins = [links.producers.get(name) for name in node.input]
        if not all(origin is not None and not _is_constant(origin, links) for origin in origins):
            continue
        branches = tuple(name for name in (_layer_name(one, links) for one in origins) if name is not None)
        users = links.users.get(node.output[0], [])
        while len(users) == 1 and users[0].op_type in _RECTIFIERS:
            users = links.users.get(users[0].output[0], [])
        integers = bool(users) and all(user.op_type == "QuantizeLinear" for user in users)
        yield Addition(name_of(node), branches, integers and all(is_dequantized(name, links) for name in node.input))


def _is_constant(node: NodeProto, links: Links) -> bool:
    """Return whether a node gives a stored value, such as a quantized bias."""
    return node.op_type in ("Constant", "DequantizeLinear") and (
        node.op_type == "Constant" or links.stored(node) is not None
    )


def _layer_name(node: NodeProto | None, links: Links) -> str | None:
    """Return the layer that gives a float, through what normalizes or rectifies it."""
    while node is not None and node.op_type in _RECTIFIERS | {"BatchNormalization"}:
        node = links.producers.get(node.input[0])
    return name_of(node) if node is not None and node.op_type in LAYER_OPERATORS else None


def _above(proto: ModelProto, links: Links) -> frozenset[str]:
    """Return the first outputs of nodes that depend on a layer."""
    found: set[str] = set()
    for node in proto.graph.node:
        sources = (links.producers.get(name) for name in node.input)
        if any(one is not None and (one.op_type in LAYER_OPERATORS or one.output[0] in found) for one in sources):
            found.add(node.output[0])
    return frozenset(found)


def _below(proto: ModelProto, links: Links) -> frozenset[str]:
    """Return the first outputs of nodes on which a layer depends."""
    found: set[str] = set()
    for node in reversed(proto.graph.node):
        users = (user for name in node.output for user in links.users.get(name, ()))
        if any(user.op_type in LAYER_OPERATORS or user.output[0] in found for user in users):
            found.add(node.output[0])
    return frozenset(found)

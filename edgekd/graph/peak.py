"""A benchmark network for what a machine reaches at most: four wide convolutions, in floats or integers.

It takes the same inputs as the network that it stands beside, so that both are timed in the same rounds: a mean of the
inputs is added to a constant image, which no runtime can compute beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

CHANNELS, CONVOLUTIONS = 64, 4
SIZES = (14, 28)
"""Of the images: those on which ONNX Runtime and OpenVINO were fastest; which of the two is, depends on caches."""
_OPSET, _IR = 17, 8
_SCALE = 0.05
_PREFIX = "edgekd/peak/"


def peak_macs(size: int) -> int:
    """Return the multiply-accumulates of the convolutions."""
    return CONVOLUTIONS * CHANNELS**2 * 9 * size**2


def peak_model(inputs: Sequence[ValueInfoProto], size: int, integers: Mapping[str, Any] | None) -> ModelProto:
    """Return the network.

    Args:
        size: of its images.
        inputs: as the other network declares them.
        integers: None for floats, else {"activations": "u8" or "s8", "symmetric": bool, "limit": largest weight}.
    """
    generator = np.random.default_rng(0)
    nodes, constants = _seed(inputs, size)
    value = "start"
    if integers is not None:
        value = _pair(nodes, constants, "in", value, integers)
    for index in range(CONVOLUTIONS):
        weight = generator.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(9 * CHANNELS)
        taken = _weight(nodes, constants, f"c{index}.weight", weight, integers)
        nodes.append(helper.make_node("Conv", [value, taken], [f"c{index}"], f"c{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"r{index}"))
        value = f"r{index}"
        if integers is not None:
            value = _pair(nodes, constants, f"a{index}", value, integers, positive=True)
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["peak"], "peak"))
    _set_apart(nodes, constants)
    graph = helper.make_graph(
        nodes,
        "peak",
        list(inputs),
        [helper.make_tensor_value_info(f"{_PREFIX}peak", TensorProto.FLOAT, [1, CHANNELS, 1, 1])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def _seed(inputs: Sequence[ValueInfoProto], size: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes that make the image "start" [1, channels, size, size] of all inputs."""
    nodes = []
    for index, value in enumerate(inputs):
        cast = helper.make_node("Cast", [value.name], [f"cast{index}"], f"cast{index}", to=TensorProto.FLOAT)
        mean = helper.make_node("ReduceMean", [f"cast{index}"], [f"mean{index}"], f"mean{index}", keepdims=0)
        nodes += [cast, mean]
    means = [f"mean{index}" for index in range(len(inputs))]
    image = np.random.default_rng(1).standard_normal((1, CHANNELS, size, size)).astype(np.float32)
    nodes.append(helper.make_node("Sum", means, ["means"], "means"))
    nodes.append(helper.make_node("Add", ["constant", "means"], ["start"], "start"))
    return nodes, [numpy_helper.from_array(image, "constant")]


def _set_apart(nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> None:
    """Give all values names that no input of the other network has."""
    own = {name for node in nodes for name in node.output} | {tensor.name for tensor in constants}
    for node in nodes:
        node.name = f"{_PREFIX}{node.name}"
        for names in (node.output,) if node.op_type == "Cast" else (node.input, node.output):  # casts take the inputs
            names[:] = [f"{_PREFIX}{name}" if name in own else name for name in names]
    for tensor in constants:
        tensor.name = f"{_PREFIX}{tensor.name}"


def _pair(
    nodes: list[NodeProto],
    constants: list[TensorProto],
    name: str,
    source: str,
    integers: Mapping[str, Any],
    *,
    positive: bool = False,
) -> str:
    """Add a QuantizeLinear and a DequantizeLinear, and return what they give."""
    kind = np.dtype(np.uint8 if integers["activations"] == "u8" else np.int8)
    zero = 0 if integers["symmetric"] else int(np.iinfo(kind).min) + (0 if positive else 128)
    constants.append(numpy_helper.from_array(np.asarray(_SCALE, np.float32), f"{name}_scale"))
    constants.append(numpy_helper.from_array(np.asarray(zero, kind), f"{name}_zero"))
    taken = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [source, *taken], [f"{name}_q"], f"{name}_q"))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *taken], [name], name))
    return name


def _weight(
    nodes: list[NodeProto],
    constants: list[TensorProto],
    name: str,
    values: np.ndarray,
    integers: Mapping[str, Any] | None,
) -> str:
    """Add a weight, dequantized where there are integers, and return its name."""
    if integers is None:
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name
    scale = np.abs(values).max((1, 2, 3)) / integers["limit"]
    stored = {
        f"{name}_integers": np.round(values / scale[:, None, None, None]).astype(np.int8),
        f"{name}_scale": scale.astype(np.float32),
        f"{name}_zero": np.zeros(len(scale), np.int8),
    }
    constants.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
    nodes.append(helper.make_node("DequantizeLinear", list(stored), [name], name, axis=0))
    return name

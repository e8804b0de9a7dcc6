"""4-bit weights in an ONNX file: two of them in a byte, from opset 21 on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 21
"""The first in which DequantizeLinear takes 4-bit integers."""
LARGEST = 7


def too_old(max_opset: int) -> str:
    """Return what to say of a device that reads no newer opset than this."""
    return (
        f"4-bit weights need ONNX opset {OPSET}, and the runtime reads up to {max_opset} (max_opset of the device's "
        "profile): set quantize.weights_bits to 8, or raise max_opset if the runtime reads more"
    )


def pack_weights(proto: ModelProto) -> int:
    """Store the weights of a quantized model in 4 bits each, in place; they are what DequantizeLinear takes in 8 bits.

    Returns:
        How many tensors were stored so.

    Raises:
        ValueError: a weight does not fit, or has another zero point than 0.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    packed = 0
    for node in proto.graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.data_type == TensorProto.INT8:
            _pack(stored)
            _drop_zero_point(node, constants)
            packed += 1
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return packed


def _pack(tensor: TensorProto) -> None:
    integers = numpy_helper.to_array(tensor)
    if np.abs(integers.astype(np.int16)).max(initial=0) > LARGEST:
        raise ValueError(f"{tensor.name} holds integers beyond {LARGEST}, which do not fit 4 bits")
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT4, tensor.dims, nibbles(integers).tobytes(), True))


def nibbles(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return two integers in a byte, the first one in its lower half; of an odd number the last half is 0."""
    flat = integers.ravel().astype(np.uint8) & 0xF
    even = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return np.asarray(even[::2] | (even[1::2] << 4), dtype=np.uint8)


def _drop_zero_point(node: NodeProto, constants: dict[str, TensorProto]) -> None:
    """Leave out a zero point of 0, which is what an absent one means; a kept one would have to be of 4 bits too."""
    if len(node.input) > 2:
        if numpy_helper.to_array(constants[node.input[2]]).any():
            raise ValueError(f"{node.name} has a zero point other than 0")
        del node.input[2:]

"""A template made by hand, small enough to be measured in a moment."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekd.graph.template import Size, Template

A, B = Size(0, (("a", Fraction(1)),)), Size(0, (("b", Fraction(1)),))
IMAGE = 6


def template(full: int = 16) -> Template:
    """Return a 3x3 convolution (2 to a channels, 6 x 6), a 1x1 one (a to b), the mean, and a layer to 3 classes."""
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["c"], "first", kernel_shape=[3, 3], pads=[1] * 4, group=1),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "second.weight"], ["d"], "second", kernel_shape=[1, 1], group=1),
        helper.make_node("GlobalAveragePool", ["d"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten", axis=1),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], "head", transB=1),
    ]
    return Template(model(nodes, full), {"a": full, "b": full}, {"a": 1, "b": 2}, AXES)


AXES = {
    "first.weight": (A, Size(2), Size(3), Size(3)),
    "second.weight": (B, A, Size(1), Size(1)),
    "head.weight": (Size(3), B),
}


def model(nodes: list[onnx.NodeProto], full: int) -> ModelProto:
    widths = {"a": full, "b": full}
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal([size.of(widths) for size in sizes]).astype(np.float32), name)
        for name, sizes in AXES.items()
    ]
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, IMAGE, IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

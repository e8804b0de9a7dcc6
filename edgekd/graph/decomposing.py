"""Spare the exporter a decomposition where there is nothing to decompose.

It traces the whole program once more to find that out, half of the time of an export. Networks whose BatchNorm is
folded, quantized ones above all, consist of a handful of operators that have a translation each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

PLAIN = frozenset(
    {
        "aten.add.Tensor",
        "aten.avg_pool2d.default",
        "aten.cat.default",
        "aten.conv1d.default",
        "aten.conv2d.default",
        "aten.flatten.using_ints",
        "aten.hardtanh.default",
        "aten.leaky_relu.default",
        "aten.linear.default",
        "aten.max_pool2d.default",
        "aten.mean.dim",
        "aten.mul.Tensor",
        "aten.relu.default",
        "aten.relu6.default",
        "aten.sigmoid.default",
        "aten.silu.default",
        "quantized_decomposed.dequantize_per_channel.default",
        "quantized_decomposed.dequantize_per_tensor.default",
        "quantized_decomposed.quantize_per_tensor.default",
    }
)
"""Operators that are translated as they are, by name: those of quantization are not there before torchao is."""


def decomposed_where_needed(program: ExportedProgram) -> ExportedProgram:
    """Let `run_decompositions`, which the exporter calls, give back a program that it would not change."""
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    if all(str(node.target) in PLAIN or _is_image_mean(node) for node in called):
        for node in filter(_is_image_mean, called):
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [-1, -2], True)
        program.run_decompositions = lambda *_: program
    return program


def _is_image_mean(node: Node) -> bool:
    return node.target == torch.ops.aten.adaptive_avg_pool2d.default and _pair(node.args[1]) == (1, 1)


def _pair(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)

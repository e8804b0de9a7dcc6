"""A linear layer whose activations are quantized at run time, as torch computes it and as ONNX writes it.

ONNX's DynamicQuantizeLinear takes the range of a whole tensor, all samples of the batch together, at every call; the
product is one of integers (MatMulInteger). ONNX Runtime fuses the five operators into one kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor

_FLOAT = 1
_LEVELS = 255


@torch.library.custom_op("edgekd::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Return x times weight plus bias, with x rounded to the 8-bit integers of its own range.

    Args:
        x: float32, [..., inputs].
        weight: int8, [inputs, outputs].
        scale: of the weight, float32, [outputs] or [1].
        bias: float32, [outputs].
    """
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    step = (high - low) / _LEVELS
    step = torch.where(step > 0, step, 1.0)  # of nothing but zeros
    zero = (-low / step).round().clamp(0, _LEVELS)
    integers = ((x / step).round() + zero).clamp(0, _LEVELS) - zero
    sums = (integers.double() @ weight.double()).float()  # exact: float64 holds every sum of such products
    result = sums * (step * scale)
    return result if bias is None else result + bias


@dynamic_linear.register_fake
def _shape(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    del scale, bias
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def _in_onnx(x: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    integers, step, zero = op.DynamicQuantizeLinear(x)
    sums = op.Cast(op.MatMulInteger(integers, weight, zero), to=_FLOAT)
    result = op.Mul(sums, op.Mul(step, scale))
    return result if bias is None else op.Add(result, bias)


OPERATOR: Callable[..., Any] = torch.ops.edgekd.dynamic_linear.default
"""`dynamic_linear` as graphs call it."""
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {OPERATOR: _in_onnx}
"""What the exporter writes for it."""

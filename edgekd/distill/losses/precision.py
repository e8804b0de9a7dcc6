"""What every loss does to its arguments first: enough precision, the right shapes, one value or one per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekd.options import Reduction


def precise(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in one type, float32 at least: half precision is widened, float64 stays."""
    wide = torch.float64 if any(tensor.dtype is torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(wide) for tensor in tensors)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of rows, (..., N, D) and (..., M, D) -> (..., N, M), not lowered by autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT


def unit(rows: Tensor) -> Tensor:
    """Return vectors (..., D) divided by their length; a vector of zeros stays, and its gradient stays finite.

    Each is first divided by its largest element, so that no square overflows or vanishes.
    """
    largest = rows.detach().abs().amax(-1, keepdim=True)
    scaled = rows / largest.where(largest != 0, 1)
    squares = scaled.square().sum(-1, keepdim=True)
    return scaled / squares.where(squares != 0, 1).sqrt()


def same_shape(student: Tensor, teacher: Tensor, name: str) -> None:
    """Raise ValueError unless both tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"{name} needs student and teacher of one shape, not {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def same_batch(student: Tensor, teacher: Tensor, name: str) -> None:
    """Raise ValueError unless both tensors have as many samples (first axis), one at least."""
    for who, tensor in (("student", student), ("teacher", teacher)):
        if tensor.ndim == 0 or tensor.shape[0] == 0:
            raise ValueError(f"{name} needs samples along the first axis; the {who} has shape {tuple(tensor.shape)}")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{name} needs as many samples from the student as from the teacher, "
            f"not {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def dimensions(tensor: Tensor, axes: str, name: str) -> None:
    """Raise ValueError unless a tensor has these axes, written as in "B, C, H, W"."""
    if tensor.ndim != axes.count(",") + 1 or 0 in tensor.shape:
        raise ValueError(f"{name} needs shape ({axes}), not {tuple(tensor.shape)}")


def reduce(per_sample: Tensor, reduction: Reduction) -> Tensor:
    """Return values per sample (B,) as they are for "none", their mean for "mean"."""
    if reduction not in ("none", "mean"):
        raise ValueError(f'reduction is "none" or "mean", not {reduction!r}')
    return per_sample if reduction == "none" else per_sample.mean()


def positive(**options: float) -> None:
    """Raise ValueError unless every option is a finite number above 0."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, not {value}")


def not_negative(**options: float) -> None:
    """Raise ValueError unless every option is a finite number of at least 0."""
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more, not {value}")

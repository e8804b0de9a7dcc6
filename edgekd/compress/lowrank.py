"""Low-rank factors of a weight: of a matrix by its singular values, of a kernel by Tucker-2.

A weight is (outputs, inputs, *kernel). One whose kernel is a single point is a matrix, W = up down, of one rank.
Any other is up x core x down (Kim et al. 2016, arXiv:1511.06530, section 3), of two ranks, of its inputs and of its
outputs; the kernel's own axes stay whole. A side at its full rank has no factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ITERATIONS = 5
"""Rounds of orthogonal iteration (HOOI) after the HOSVD."""
OUTPUTS, INPUTS = 0, 1


def is_matrix(weight: Tensor) -> bool:
    """Return whether a weight (outputs, inputs, *kernel) is a matrix."""
    return weight.shape[2:].numel() == 1


def losses(weight: Tensor) -> Tensor:
    """Return which part of the squared entries is lost at each rank.

    Of a kernel what the truncated HOSVD loses (De Lathauwer et al. 2000, doi:10.1137/S0895479896305696), which
    `factors` only betters.

    Returns:
        (min(outputs, inputs) + 1,) for a matrix, by its rank; (inputs + 1, outputs + 1) for a kernel, by its ranks.
    """
    weight = weight.detach().double().cpu()
    if is_matrix(weight):
        squares = torch.linalg.svdvals(weight.flatten(1)).square()
        tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        return tails / max(float(tails[0]), torch.finfo(tails.dtype).tiny)
    core = weight
    for axis in (OUTPUTS, INPUTS):
        core = _project(core, _basis(weight, axis), axis)
    squares = core.square().flatten(2).sum(2).T
    kept = squares.new_zeros(squares.shape[0] + 1, squares.shape[1] + 1)
    kept[1:, 1:] = squares.cumsum(0).cumsum(1)
    return (1 - kept / max(float(kept[-1, -1]), torch.finfo(kept.dtype).tiny)).clamp_(min=0)


def factors(weight: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Return the factors of a weight in the order in which a network applies them, in the weight's precision.

    Args:
        ranks: one of a matrix: [down (rank, inputs), up (outputs, rank)], each with the roots of the singular values,
            so that training moves both alike. Of a kernel (of inputs, of outputs): [down (rank, inputs),
            core (rank, rank, *kernel), up (outputs, rank)], without the sides at their full rank.
    """
    exact = weight.detach().double().cpu()
    if is_matrix(weight):
        (rank,) = ranks
        left, values, right = torch.linalg.svd(exact.flatten(1), full_matrices=False)
        roots = values[:rank].sqrt()
        found = [roots[:, None] * right[:rank], left[:, :rank] * roots]
    else:
        found = _tucker(exact, *ranks)
    return [factor.to(weight) for factor in found]


def product(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the weight of this shape that factors stand for."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _chained(whole, part)
    return whole.reshape(tuple(shape))


def kept(weight: Tensor, parts: Sequence[Tensor]) -> float:
    """Return which part of a weight's squared entries its factors keep; 1 of a weight of zeros."""
    exact = weight.detach().double()
    lost = (exact - product([part.double() for part in parts], weight.shape)).square().sum()
    return 1 - float(lost) / max(float(exact.square().sum()), torch.finfo(exact.dtype).tiny)


def _chained(first: Tensor, second: Tensor) -> Tensor:
    """Return the weight of two layers one after the other, of which one at most has a kernel."""
    if second.ndim > 2:  # down, then core
        return _project(second, first, INPUTS)
    return _project(first, second.T, OUTPUTS)


def _tucker(kernel: Tensor, inputs: int, outputs: int) -> list[Tensor]:
    """Return [down, core, up] of these ranks by HOSVD and higher-order orthogonal iteration."""
    down, up = _side(kernel, INPUTS, inputs), _side(kernel, OUTPUTS, outputs)
    for _ in range(ITERATIONS):
        up = _side(_project(kernel, down, INPUTS), OUTPUTS, outputs)
        down = _side(_project(kernel, up, OUTPUTS), INPUTS, inputs)
    core = _project(_project(kernel, down, INPUTS), up, OUTPUTS)
    first = [down.T] if inputs < kernel.shape[INPUTS] else []
    last = [up] if outputs < kernel.shape[OUTPUTS] else []
    return [*first, core, *last]


def _side(kernel: Tensor, axis: int, rank: int) -> Tensor:
    """Return the basis of a side, (length of the axis, rank); of one that stays whole the one that needs no factor."""
    length = kernel.shape[axis]
    return torch.eye(length, dtype=kernel.dtype) if rank == length else _basis(kernel, axis)[:, :rank]


def _basis(kernel: Tensor, axis: int) -> Tensor:
    """Return the left singular vectors of a kernel unfolded along an axis, the leading one first."""
    matrix = kernel.movedim(axis, 0).flatten(1)
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T).eigenvectors
    return vectors.flip(1)


def _project(kernel: Tensor, basis: Tensor, axis: int) -> Tensor:
    """Return a kernel whose axis is told in a basis (length of the axis, rank)."""
    projected: Tensor = torch.tensordot(basis, kernel, dims=([0], [axis]))
    return projected.movedim(0, axis)

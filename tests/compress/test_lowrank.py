"""Factors of weights against numpy's singular values, closed forms, and tensors whose rank is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.compress import lowrank


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_of_ranks(outputs: int, inputs: int, size: tuple[int, ...], ranks: tuple[int, int]) -> Tensor:
    """Return up x core x down, written as the sum that it is."""
    first, second = ranks
    up, core, down = random(outputs, second), random(second, first, *size, seed=1), random(first, inputs, seed=2)
    return torch.einsum("os,sf...,fi->oi...", up, core, down)


def error(weight: Tensor, ranks: tuple[int, ...]) -> float:
    """Return the squared norm of what is lost."""
    return float((weight - lowrank.product(lowrank.factors(weight, ranks), weight.shape)).square().sum())


def test_a_matrix_of_rank_r_comes_back_exactly():
    weight = random(20, 5) @ random(5, 30, seed=1)
    down, up = lowrank.factors(weight, (5,))
    assert (down.shape, up.shape) == ((5, 30), (20, 5))
    torch.testing.assert_close(up @ down, weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(up.T @ up, down @ down.T, rtol=0, atol=1e-10)  # the scale is shared alike
    found = lowrank.losses(weight)
    assert found[5] < 1e-20 < found[4]


@given(outputs=st.integers(1, 12), inputs=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_what_a_matrix_loses_is_the_tail_of_its_singular_values(outputs, inputs, seed):
    weight = random(outputs, inputs, seed=seed)
    values = np.linalg.svd(weight.numpy(), compute_uv=False) ** 2
    found = lowrank.losses(weight)
    assert found.shape == (min(outputs, inputs) + 1,)
    for rank in range(len(values) + 1):
        assert float(found[rank]) == pytest.approx(values[rank:].sum() / values.sum(), abs=1e-12)
        if rank:
            assert error(weight, (rank,)) == pytest.approx(values[rank:].sum(), abs=1e-9)


@pytest.mark.parametrize("size", [(3,), (3, 3), (1, 5), (2, 2, 2)])
@pytest.mark.parametrize("ranks", [(3, 4), (7, 4), (3, 9), (1, 1)])
def test_a_kernel_of_low_rank_comes_back_exactly(size, ranks):
    weight = kernel_of_ranks(9, 7, size, ranks)
    parts = lowrank.factors(weight, ranks)
    core = (ranks[1], ranks[0], *size)
    assert [tuple(part.shape) for part in parts] == [
        *([(ranks[0], 7)] if ranks[0] < 7 else []), core, *([(9, ranks[1])] if ranks[1] < 9 else []),
    ]  # fmt: skip
    torch.testing.assert_close(lowrank.product(parts, weight.shape), weight, rtol=0, atol=1e-8)
    assert lowrank.kept(weight, parts) == pytest.approx(1, abs=1e-12)
    assert float(lowrank.losses(weight)[ranks]) < 1e-12


def test_a_kernel_of_one_point_is_a_matrix():
    weight = random(6, 4, 1, 1)
    assert lowrank.is_matrix(weight)
    assert lowrank.is_matrix(weight[:, :, 0, 0])
    assert not lowrank.is_matrix(random(6, 4, 1, 3))
    torch.testing.assert_close(lowrank.losses(weight), lowrank.losses(weight.flatten(1)))
    parts = lowrank.factors(weight, (2,))
    assert [tuple(part.shape) for part in parts] == [(2, 4), (6, 2)]
    tail = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)[2:] ** 2
    assert error(weight, (2,)) == pytest.approx(tail.sum(), abs=1e-10)


def hosvd_loss(weight: Tensor, inputs: int, outputs: int) -> float:
    """Return what truncated HOSVD loses, by numpy's SVD of both unfoldings and a projection written out."""
    tensor = weight.numpy()
    up = np.linalg.svd(tensor.reshape(len(tensor), -1))[0][:, :outputs]
    down = np.linalg.svd(np.moveaxis(tensor, 1, 0).reshape(tensor.shape[1], -1))[0][:, :inputs]
    approximation = np.einsum("ab,cd,bdxy->acxy", up @ up.T, down @ down.T, tensor)
    return float(((tensor - approximation) ** 2).sum() / (tensor**2).sum())


def test_what_a_kernel_loses_is_what_truncation_loses():
    weight = random(6, 5, 3, 3)
    found = lowrank.losses(weight)
    assert found.shape == (6, 7)
    for inputs in range(1, 6):
        for outputs in range(1, 7):
            assert float(found[inputs, outputs]) == pytest.approx(hosvd_loss(weight, inputs, outputs), abs=1e-12)
    assert float(found[5, 6]) == 0
    assert (found[0] == 1).all()
    assert (found[:, 0] == 1).all()


def test_the_loss_is_bounded_by_the_tails_of_both_sides_and_not_below_the_larger_one():
    """De Lathauwer et al. 2000, property 10."""
    weight = random(8, 6, 3, 3, seed=4)
    total = float(weight.square().sum())
    sides = [
        np.linalg.svd(weight.movedim(axis, 0).flatten(1).numpy(), compute_uv=False) ** 2 / total for axis in (1, 0)
    ]
    found = lowrank.losses(weight)
    for inputs in range(1, 6):
        for outputs in range(1, 8):
            tails = [sides[0][inputs:].sum(), sides[1][outputs:].sum()]
            assert max(tails) - 1e-12 <= float(found[inputs, outputs]) <= sum(tails) + 1e-12


def test_iterating_loses_no_more_than_truncation_and_here_less(monkeypatch):
    weight = random(8, 8, 3, 3, seed=7)
    total = float(weight.square().sum())
    lost = []
    for rounds in (0, 1, 3, 5):
        monkeypatch.setattr(lowrank, "ITERATIONS", rounds)
        lost.append(error(weight, (3, 4)) / total)
    assert lost[0] == pytest.approx(float(lowrank.losses(weight)[3, 4]), abs=1e-12)
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < lost[0] - 1e-4


def test_a_side_that_stays_whole_is_the_best_matrix_of_the_other():
    """With one side cut the optimum is known: the SVD of that unfolding (Eckart and Young)."""
    weight = random(8, 6, 3, 3, seed=2)
    for ranks, axis, rank in (((6, 3), 0, 3), ((2, 8), 1, 2)):
        values = np.linalg.svd(weight.movedim(axis, 0).flatten(1).numpy(), compute_uv=False) ** 2
        assert error(weight, ranks) == pytest.approx(values[rank:].sum(), rel=1e-9)


def test_weights_of_zeros_lose_nothing():
    assert (lowrank.losses(torch.zeros(4, 3)) == 0).all()
    parts = lowrank.factors(torch.zeros(4, 3, 3, 3), (2, 2))
    assert lowrank.kept(torch.zeros(4, 3, 3, 3), parts) == 1


def test_factors_have_the_precision_of_the_weight():
    assert {part.dtype for part in lowrank.factors(random(8, 8, 3, 3).float(), (2, 2))} == {torch.float32}

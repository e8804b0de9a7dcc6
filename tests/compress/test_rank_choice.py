"""What ranks cost, counted by hand, and which of them a rule or a budget chooses, against all choices tried out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgekd.compress import rank_choice
from edgekd.compress.rank_choice import Candidate, Choices, Work, by_budget, by_energy, choices, why_never


def with_values(outputs: int, inputs: int, squares: list[float]) -> Tensor:
    """Return a matrix of these squared singular values."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(squares), generator=generator, dtype=torch.float64))[0]
        for n in (outputs, inputs)
    )
    return left * torch.tensor(squares, dtype=torch.float64).sqrt() @ right.T


def listed(found: Choices) -> dict[tuple[int, ...], Candidate]:
    every = [found.at(index) for index in range(len(found.ranks))]
    return {candidate.ranks: candidate for candidate in every}


def test_costs_of_a_matrix():
    """W (30 x 20) reads and writes 7 points: 600 products for each; of rank r, r (20 + 30)."""
    found = choices(Work(torch.randn(30, 20), 7, 7), 8)
    assert (found.whole.macs, found.whole.parameters) == (7 * 600, 600)
    known = listed(found)
    assert list(known) == [(8,), (16,)]
    assert [(known[rank,].macs, known[rank,].parameters) for rank in (8, 16)] == [(7 * 400, 400), (7 * 800, 800)]
    assert found.pays().tolist() == [True, False]


def test_costs_of_a_kernel_with_a_stride():
    """24 channels to 32 by 3x3, from 64 points to 16: down runs on all points that are read."""
    found = choices(Work(torch.randn(32, 24, 3, 3), 64, 16), 8)
    assert (found.whole.macs, found.whole.parameters) == (16 * 9 * 24 * 32, 9 * 24 * 32)
    known = listed(found)
    assert set(known) == set(itertools.product((8, 16, 24), (8, 16, 24, 32))) - {(24, 32)}
    assert known[8, 16].macs == 64 * 24 * 8 + 16 * (9 * 8 * 16 + 16 * 32)
    assert known[8, 16].parameters == 24 * 8 + 9 * 8 * 16 + 16 * 32
    assert known[24, 16].macs == 16 * (9 * 24 * 16 + 16 * 32)  # all inputs: no convolution before
    assert known[24, 16].parameters == 9 * 24 * 16 + 16 * 32
    assert known[16, 32].macs == 64 * 24 * 16 + 16 * 9 * 16 * 32  # all outputs: none behind


def test_ranks_that_save_weights_and_cost_multiplications_do_not_pay():
    """Where 100 points are read for each that is written, no convolution before pays, and one behind does."""
    found = choices(Work(torch.randn(32, 32, 3, 3), 6400, 64), 8)
    before = found.ranks[:, 0] < 32
    assert (found.saves("parameters")[before] > 0).any()
    assert not found.pays()[before].any()
    assert found.pays()[~before].any()


SQUARES = [50.0, 25.0, 12.0, 6.0, 3.0, 2.0, 1.0, 1.0]
"""Sums: 50, 75, 87, 93, 96, 98, 99, 100."""


@pytest.mark.parametrize(
    ("energy", "round_to", "rank"),
    [(0.5, 1, 1), (0.51, 1, 2), (0.75, 1, 2), (0.87, 1, 3), (0.9, 1, 4), (0.9, 2, 4), (0.9, 3, 6), (0.8, 4, 4)],
)
def test_energy_takes_the_smallest_rank_that_keeps_enough(energy, round_to, rank):
    found = by_energy(choices(Work(with_values(40, 30, SQUARES), 1, 1), round_to), energy, "macs")
    assert isinstance(found, Candidate)
    assert found.ranks == (rank,)
    assert found.lost == pytest.approx(sum(SQUARES[rank:]) / 100, abs=1e-9)
    assert (found.macs, found.parameters) == (70 * rank, 70 * rank)


def test_energy_takes_the_cheapest_ranks_of_a_kernel_that_keep_enough():
    weight = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    all_choices = choices(Work(weight, 10, 10), 2)
    found = by_energy(all_choices, 0.7, "macs")
    enough = [one for one in listed(all_choices).values() if one.lost <= 0.3]
    assert isinstance(found, Candidate)
    assert found.macs == min(one.macs for one in enough) < all_choices.whole.macs


@pytest.mark.parametrize(
    ("work", "round_to", "energy", "told"),
    [
        (Work(torch.eye(12), 1, 1), 1, 0.99, "keeping 0.99 of it takes its full rank"),
        (
            Work(torch.eye(12), 1, 1), 1, 0.9,
            "keeping 0.9 of it, rank 11 takes 264 MACs and 264 weights, the layer 144 and 144",
        ),
        (Work(torch.eye(12), 5, 5), 1, 0.25, Candidate((3,), 360, 72, 0.75)),
    ],
)  # fmt: skip
def test_a_layer_that_would_cost_more_is_refused_with_the_figures(work, round_to, energy, told):
    found = by_energy(choices(work, round_to), energy, "macs")
    if isinstance(told, str):
        assert found == told
    else:
        assert isinstance(found, Candidate)
        assert (found.ranks, found.macs, found.parameters) == (told.ranks, told.macs, told.parameters)
        assert found.lost == pytest.approx(told.lost)


def test_layers_that_never_pay_are_told():
    assert why_never(choices(Work(torch.randn(8, 100), 1, 1), 8), 8, "macs") == (
        "too small: no multiple of 8 (round_to) is below its full rank"
    )
    assert why_never(choices(Work(torch.randn(10, 12), 2, 2), 8), 8, "macs") == (
        "even rank 8 takes 352 MACs and 176 weights, the layer 240 and 120"
    )
    assert why_never(choices(Work(torch.randn(100, 100), 1, 1), 8), 8, "macs") is None


def table(*rows: tuple[int, float]) -> Choices:
    """Return choices of a layer of 1000 by (saving, part lost)."""
    saved, lost = (np.array(column) for column in zip(*rows, strict=True))
    costs = (1000 - saved).astype(np.int64)
    return Choices(np.arange(len(rows))[:, None], costs, costs, lost.astype(float), Candidate((), 1000, 1000, 0.0))


def test_a_budget_goes_where_a_unit_saved_harms_least():
    """By hand: b saves 400 at .02, then a saves 300 at .04, then b 200 more at .08 more."""
    layers = {
        "a": table((300, 1 - math.exp(-0.04)), (600, 1 - math.exp(-0.5))),
        "b": table((400, 1 - math.exp(-0.02)), (600, 1 - math.exp(-0.10))),
    }

    def chosen(saving: int) -> dict[str, int]:
        return {name: one.ranks[0] for name, one in by_budget(layers, saving, "macs").items()}

    assert chosen(1) == chosen(400) == {"b": 0}
    assert chosen(401) == chosen(700) == {"a": 0, "b": 0}
    assert chosen(701) == chosen(900) == {"a": 0, "b": 1}
    assert chosen(901) == chosen(1200) == {"a": 1, "b": 1}
    assert rank_choice.most(layers, "macs") == 1200


def test_what_is_next_to_nothing_is_not_cheap():
    """A layer cut to 1 % of itself stops the network: two layers at a half keep a quarter of what passes."""
    layers = {name: table((400, 0.5), (800, 0.99)) for name in ("a", "b")}
    assert {name: one.ranks[0] for name, one in by_budget(layers, 800, "macs").items()} == {"a": 0, "b": 0}


def test_the_last_step_goes_no_further_than_it_must():
    """(500, .30) is above the hull from 0 to (900, .31), but is enough for 450."""
    layers = {"a": table((500, 0.30), (900, 0.31))}
    assert by_budget(layers, 450, "macs")["a"].ranks == (0,)
    assert by_budget(layers, 501, "macs")["a"].ranks == (1,)


@given(
    tables=st.lists(
        st.lists(st.tuples(st.integers(1, 999), st.floats(0, 0.95)), min_size=1, max_size=6), min_size=1, max_size=3
    ),
    share=st.floats(0.01, 1),
)
@settings(max_examples=150)
def test_a_budget_holds_and_its_harm_is_within_a_step_of_the_best(tables, share):
    layers = {str(index): table(*rows) for index, rows in enumerate(tables)}
    saving = max(1, int(share * rank_choice.most(layers, "macs")))
    found = by_budget(layers, saving, "macs")
    assert sum(1000 - one.macs for one in found.values()) >= saving

    def harm(lost: float) -> float:
        return -math.log(1 - lost)

    every = [[(0, 0.0), *rows] for rows in tables]
    possible = [
        sum(harm(lost) for _, lost in combination)
        for combination in itertools.product(*every)
        if sum(saved for saved, _ in combination) >= saving
    ]
    own = sum(harm(one.lost) for one in found.values())
    assert own >= min(possible) - 1e-9
    assert own <= min(possible) + max(harm(lost) for rows in tables for _, lost in rows) + 1e-9

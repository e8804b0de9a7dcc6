"""Several teachers as one: the published weights, and what has to hold for every way of weighting."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from edgekd.distill import fusion
from edgekd.distill.losses.response import kd

TEACHERS, BATCH, CLASSES = 3, 5, 4
Weighting = Callable[[Tensor], Tensor]


def answers(seed: int = 0, teachers: int = TEACHERS, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(teachers, BATCH, CLASSES, generator=generator) * scale


STUDENT = answers(99)[0]
TARGETS = torch.arange(BATCH) % CLASSES
SHARES = (1.0, 2.0, 5.0)


def wrong(logits: Tensor) -> Tensor:
    return torch.stack([cross_entropy(one, TARGETS, reduction="none") for one in logits])


WEIGHTINGS: dict[str, Weighting] = {
    "mean": fusion.mean,
    "weighted": lambda logits: fusion.weighted(logits, SHARES[: len(logits)]),
    "entropy": fusion.entropy,
    "confidence": lambda logits: fusion.confidence(logits, wrong(logits)),
    "gradient": lambda logits: fusion.gradient(logits, STUDENT, 2.0),
}


@pytest.fixture(params=WEIGHTINGS)
def weighting(request: pytest.FixtureRequest) -> Weighting:
    return WEIGHTINGS[request.param]


# ---- what holds for all of them


def test_weights_are_shares_of_one(weighting):
    for seed in range(20):
        weights = weighting(answers(seed))
        assert weights.shape == (TEACHERS, BATCH)
        assert float(weights.min()) >= 0
        torch.testing.assert_close(weights.sum(0), torch.ones(BATCH))


@pytest.mark.parametrize("name", ["mean", "entropy", "confidence", "gradient"])
def test_another_order_of_the_teachers_gives_the_same_weights_in_that_order(name):
    logits = answers(1)
    weights = WEIGHTINGS[name](logits)
    for order in map(list, permutations(range(TEACHERS))):
        torch.testing.assert_close(WEIGHTINGS[name](logits[order]), weights[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("teachers", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equal_teachers_are_one(weighting, teachers, temperature):
    one = answers(2)[:1]
    logits = one.expand(teachers, -1, -1)
    mixed = fusion.fused(logits, weighting(logits), temperature)
    torch.testing.assert_close(mixed, one[0], rtol=1e-5, atol=1e-5)


def test_extreme_answers_stay_numbers(weighting):
    logits = torch.zeros(TEACHERS, BATCH, CLASSES)
    logits[0, :, 0], logits[1, :, 1], logits[2, :, :2] = 1e4, 1e4, -1e4
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        weights = weighting(logits.to(kind).float())
        mixed = fusion.fused(logits.to(kind), weights, 1.0)
        assert bool(torch.isfinite(weights).all())
        assert bool(torch.isfinite(mixed).all())
        # The last digit of 1e4 is worth 1e-3 in float32.
        expected = (weights[..., None] * softmax(logits, -1)).sum(0)
        torch.testing.assert_close(softmax(mixed, -1), expected, rtol=2e-3, atol=1e-6)


# ---- the mixture


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_what_is_mixed_are_the_softened_probabilities(temperature):
    logits = answers(3)
    weights = fusion.weighted(logits, SHARES)
    expected = (torch.tensor(SHARES) / 8)[:, None, None] * softmax(logits / temperature, -1)
    mixed = fusion.fused(logits, weights, temperature)
    torch.testing.assert_close(softmax(mixed / temperature, -1), expected.sum(0))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_of_the_mixture_is_the_weighted_mean_of_the_gradients(weighting, temperature):
    logits = answers(4)
    weights = weighting(logits)

    def gradient(teacher: Tensor) -> Tensor:
        student = STUDENT.clone().requires_grad_(True)
        kd(student, teacher, temperature=temperature).backward()
        assert student.grad is not None
        return student.grad

    each = torch.stack([gradient(one) for one in logits])
    found = gradient(fusion.fused(logits, weights, temperature))
    torch.testing.assert_close(found, (weights[..., None] * each).sum(0), rtol=1e-4, atol=1e-6)


# ---- the published weights


def test_fixed_weights_are_in_proportion():
    torch.testing.assert_close(fusion.weighted(answers(), SHARES)[:, 0], torch.tensor([0.125, 0.25, 0.625]))
    torch.testing.assert_close(fusion.mean(answers()), torch.full((TEACHERS, BATCH), 1 / 3))


def test_entropy_weights_by_hand():
    """Two classes; entropies log 2, 0 and H(3/4) in natural units."""
    logits = torch.tensor([[[0.0, 0.0]], [[500.0, -500.0]], [[math.log(3), 0.0]]])
    third = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    total = math.log(2) + third
    expected = [(1 - math.log(2) / total) / 2, 1 / 2, (1 - third / total) / 2]
    torch.testing.assert_close(fusion.entropy(logits)[:, 0], torch.tensor(expected))


def test_teachers_who_are_all_certain_weigh_the_same():
    logits = torch.zeros(TEACHERS, 1, CLASSES)
    logits[..., 0] = 1e4
    torch.testing.assert_close(fusion.entropy(logits), torch.full((TEACHERS, 1), 1 / 3))


def test_confidence_weights_by_hand():
    """Softmax of the cross-entropies: exp(CE) is one over the probability of the label."""
    probabilities = torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9]])
    logits = probabilities.log()[:, None]  # one sample, whose label is 0
    inverse = [1 / 0.5, 1 / 0.8, 1 / 0.1]
    expected = [(1 - one / sum(inverse)) / 2 for one in inverse]
    errors = torch.stack([cross_entropy(one, torch.tensor([0]), reduction="none") for one in logits])
    found = fusion.confidence(logits, errors)
    torch.testing.assert_close(found[:, 0], torch.tensor(expected))
    assert found.argmax(0).item() == 1


# ---- AEKD: the shortest mixed gradient


def gram(seed: int, teachers: int, rank: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((teachers, rank))
    return vectors @ vectors.T


def slack(matrix: np.ndarray, shares: np.ndarray, largest: float) -> float:
    """Return by how much the conditions of Karush, Kuhn and Tucker are missed: what a move between two would gain."""
    slopes = matrix @ shares
    gives, takes = slopes[shares > 1e-8], slopes[shares < largest - 1e-8]
    return float(gives.max() - takes.min(initial=np.inf))


CASES = [(seed, teachers, rank) for seed in range(6) for teachers in (2, 3, 5, 8) for rank in (1, 3, 12)]


@pytest.mark.parametrize("largest", [0.6, 1.0])
@pytest.mark.parametrize(("seed", "teachers", "rank"), CASES)
def test_the_least_norm_is_that_of_a_general_solver(seed, teachers, rank, largest):
    matrix = gram(seed, teachers, rank)
    found = np.array(fusion.least_norm(matrix.tolist(), largest))
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= largest + 1e-12
    solved = minimize(
        lambda a: a @ matrix @ a, np.full(teachers, 1 / teachers), jac=lambda a: 2 * matrix @ a, method="SLSQP",
        bounds=[(0, largest)] * teachers, constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    # More teachers than directions are no case of a training; there the last digits take long.
    scale = np.trace(matrix) * (1 if rank >= teachers else 300)
    assert found @ matrix @ found <= solved.fun + 1e-8 * scale
    assert slack(matrix, found, largest) <= 1e-6 * scale


def test_the_least_norm_of_two_by_hand():
    """|a g + (1 - a) h|^2 is least at a = h.(h - g) / |g - h|^2."""
    matrix = [[4.0, 1.0], [1.0, 2.0]]
    assert fusion.least_norm(matrix, 1.0) == pytest.approx([1 / 4, 3 / 4])
    assert fusion.least_norm(matrix, 0.6) == pytest.approx([0.4, 0.6])
    assert fusion.least_norm([[0.0, 0.0], [0.0, 1.0]], 1.0) == pytest.approx([1.0, 0.0])
    assert fusion.least_norm([[7.0]], 1.0) == [1.0]


def test_a_residue_of_rounding_does_not_end_the_search():
    """0.2 + (0.6 - 0.2) is not 0.6: what is full up to rounding takes nothing more."""
    for seed in range(200):
        matrix = gram(seed, 5, 12)
        found = np.array(fusion.least_norm(matrix.tolist(), 0.3))
        assert slack(matrix, found, 0.3) <= 1e-6 * np.trace(matrix)


def test_gradient_weights_are_those_of_the_students_gradients():
    """One weight per teacher: the shortest sum of the gradients that autograd finds."""
    logits, temperature = answers(5), 2.0
    weights = fusion.gradient(logits, STUDENT, temperature)
    assert bool((weights == weights[:, :1]).all())

    def gradient(teacher: Tensor) -> Tensor:
        student = STUDENT.double().requires_grad_(True)
        kd(student, teacher.double(), temperature=temperature).backward()
        assert student.grad is not None
        return student.grad.flatten()

    each = torch.stack([gradient(one) for one in logits])
    shortest = float((weights[:, 0].double() @ each).norm())
    generator = np.random.default_rng(0)
    others = [share for share in generator.dirichlet(np.ones(TEACHERS), 3000) if share.max() <= fusion.LARGEST_SHARE]
    assert len(others) > 500
    assert all(float((torch.tensor(share) @ each).norm()) >= shortest * (1 - 1e-6) for share in others)


def test_no_teacher_has_more_than_the_largest_share():
    logits = torch.stack([STUDENT, *answers(6, teachers=2)])  # the first one has no gradient at all
    weights = fusion.gradient(logits, STUDENT, 1.0)
    assert float(weights[0, 0]) == pytest.approx(fusion.LARGEST_SHARE)
    alone = fusion.gradient(logits[:1], STUDENT, 1.0)
    assert alone.tolist() == [[1.0] * BATCH]


def test_the_student_gets_no_gradient_through_the_weights():
    student = STUDENT.clone().requires_grad_(True)
    assert not fusion.gradient(answers(7), student, 1.0).requires_grad

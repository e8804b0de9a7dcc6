"""The distillation loss against closed forms, in value and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from edgekd.distill.losses.response import kd


def _logits(seed: int, batch: int = 8, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 3 for _ in range(2))


@given(st.integers(0, 10_000), st.floats(0.5, 20))
@settings(max_examples=30, deadline=None)
def test_it_is_t_squared_times_the_kl_divergence_summed_over_classes(seed, temperature):
    student, teacher = _logits(seed)
    p, q = softmax(teacher.numpy() / temperature, axis=1), softmax(student.numpy() / temperature, axis=1)
    expected = temperature**2 * rel_entr(p, q).sum(1)
    actual = kd(student, teacher, temperature=temperature, reduction="none")
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)
    assert float(kd(student, teacher, temperature=temperature)) == pytest.approx(expected.mean(), rel=2e-4, abs=2e-5)


def test_the_mean_is_over_samples_not_over_elements():
    student, teacher = _logits(1, classes=100)
    per_sample = kd(student, teacher, reduction="none")
    assert per_sample.shape == (8,)
    assert float(kd(torch.cat([student] * 3), torch.cat([teacher] * 3))) == pytest.approx(
        float(per_sample.mean()), rel=1e-6
    )


def test_classes_that_both_rule_out_change_nothing():
    student, teacher = _logits(2)
    ruled_out = torch.full((8, 5), -1e4, dtype=torch.float64)
    padded = kd(torch.cat([student, ruled_out], 1), torch.cat([teacher, ruled_out], 1))
    assert float(padded) == pytest.approx(float(kd(student, teacher)), rel=1e-6)


def test_at_high_temperature_its_gradient_is_that_of_the_squared_difference_of_centred_logits():
    """Hinton et al. 2015, section 2.1: dL/dz_s -> (z_s - z_t) / K for zero-mean logits, times 1/B for the mean."""
    student, teacher = _logits(3)
    student.requires_grad_(True)
    kd(student, teacher, temperature=200.0).backward()
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(student.grad, (centred / (8 * 10)).detach(), rtol=0.05, atol=1e-3)


def test_equal_answers_cost_nothing_and_the_teacher_gets_no_gradient():
    student, teacher = _logits(4)
    teacher.requires_grad_(True)
    student.requires_grad_(True)
    assert float(kd(student, student.detach().clone()).detach()) == pytest.approx(0.0, abs=1e-6)
    kd(student, teacher).backward()
    assert teacher.grad is None
    assert float(student.grad.abs().sum()) > 0


def test_swapped_arguments_are_another_loss():
    """KL(p || q) and KL(q || p) of (0.9, 0.1) and (0.5, 0.5), by hand: 0.3681 and 0.5108 nats."""
    teacher, student = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert float(kd(student, teacher, temperature=1.0)) == pytest.approx(0.368064, abs=1e-6)
    assert float(kd(teacher, student, temperature=1.0)) == pytest.approx(0.510826, abs=1e-6)


@given(st.integers(0, 10_000), st.floats(0.5, 20))
@settings(max_examples=30, deadline=None)
def test_it_is_never_negative_and_blind_to_a_constant_in_the_logits(seed, temperature):
    student, teacher = _logits(seed)
    per_sample = kd(student, teacher, temperature=temperature, reduction="none")
    assert float(per_sample.min()) >= -1e-4
    moved = kd(student + 5.0, teacher - 3.0, temperature=temperature, reduction="none")
    torch.testing.assert_close(per_sample, moved, rtol=2e-4, atol=2e-4)


def test_its_gradient_is_the_difference_of_the_softened_probabilities():
    """d/dz_s of T^2 KL, meaned over B: T (q - p) / B."""
    student, teacher = _logits(5)
    student.requires_grad_(True)
    kd(student, teacher, temperature=3.0).backward()
    expected = 3 * (softmax(student.detach().numpy() / 3, 1) - softmax(teacher.numpy() / 3, 1)) / 8
    np.testing.assert_allclose(student.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_give_finite_values_and_gradients(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-3e4, 3e4, 0.0]], dtype=dtype)
    loss = kd(student, teacher)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(student.grad).all())
    expected = -log_softmax(student.detach().double().numpy() / 4, axis=1)[0, 1] * 16
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-2)

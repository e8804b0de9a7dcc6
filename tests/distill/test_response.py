"""The losses on answers against closed forms in float64, in value and gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr, zscore

from edgekd.distill.losses.response import _nckd, _tckd, dist, dkd, kd, logit_mse, standardized_kd

seeds, temperatures = st.integers(0, 10_000), st.floats(0.5, 20)
examples = settings(max_examples=30)


def _logits(seed: int, batch: int = 8, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 3 for _ in range(2))


def _targets(seed: int, batch: int = 8, classes: int = 10) -> torch.Tensor:
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


def _centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(1, keepdim=True)


@given(seeds, temperatures)
@examples
def test_kd_is_t_squared_times_the_kl_divergence_summed_over_classes(seed, temperature):
    student, teacher = _logits(seed)
    p, q = softmax(teacher.numpy() / temperature, axis=1), softmax(student.numpy() / temperature, axis=1)
    forward, reverse = temperature**2 * rel_entr(p, q).sum(1), temperature**2 * rel_entr(q, p).sum(1)
    options = {"temperature": temperature, "reduction": "none"}
    np.testing.assert_allclose(kd(student, teacher, **options), forward, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(kd(student, teacher, direction="reverse", **options), reverse, rtol=1e-9, atol=1e-10)
    assert float(kd(student, teacher, temperature=temperature)) == pytest.approx(forward.mean(), rel=1e-9)


@given(seeds, temperatures)
@examples
def test_the_js_direction_is_the_jensen_shannon_divergence(seed, temperature):
    student, teacher = _logits(seed)
    p, q = softmax(teacher.numpy() / temperature, axis=1), softmax(student.numpy() / temperature, axis=1)
    actual = kd(student, teacher, temperature=temperature, direction="js", reduction="none")
    np.testing.assert_allclose(actual, temperature**2 * jensenshannon(p, q, axis=1) ** 2, rtol=1e-7, atol=1e-9)
    swapped = kd(teacher, student, temperature=temperature, direction="js", reduction="none")
    torch.testing.assert_close(actual, swapped)
    assert float(actual.max()) <= temperature**2 * math.log(2)


def test_js_of_answers_that_exclude_each_other_is_t_squared_log_two():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert float(kd(student, teacher, direction="js", temperature=3.0)) == pytest.approx(9 * math.log(2), rel=1e-6)


@given(seeds, temperatures)
@examples
def test_reverse_is_forward_with_the_arguments_swapped(seed, temperature):
    student, teacher = _logits(seed)
    torch.testing.assert_close(
        kd(student, teacher, temperature=temperature, direction="reverse"),
        kd(teacher, student, temperature=temperature),
    )


def test_the_mean_is_over_samples_and_the_legacy_mean_over_elements():
    student, teacher = _logits(1, classes=100)
    assert float(kd(student, teacher, legacy_mean=True)) == pytest.approx(float(kd(student, teacher)) / 100, rel=1e-12)
    elements = 16 * rel_entr(softmax(teacher.numpy() / 4, axis=1), softmax(student.numpy() / 4, axis=1)).mean()
    assert float(kd(student, teacher, legacy_mean=True)) == pytest.approx(elements, rel=1e-9)


def test_classes_that_both_rule_out_change_nothing():
    student, teacher = _logits(2)
    ruled_out = torch.full((8, 5), -1e4, dtype=torch.float64)
    padded = kd(torch.cat([student, ruled_out], 1), torch.cat([teacher, ruled_out], 1))
    assert float(padded) == pytest.approx(float(kd(student, teacher)), rel=1e-9)


@given(seeds, st.sampled_from([("forward", 1), ("reverse", 1), ("js", 1 / 4)]))
@examples
def test_at_high_temperature_kd_is_the_squared_difference_of_centred_logits_over_2k(seed, case):
    """Hinton et al. 2015, section 2.1; the gradient is then (c_s - c_t) / (K B), a quarter of it for js."""
    direction, factor = case
    student, teacher = _logits(seed)
    student.requires_grad_(True)
    value = kd(student, teacher, temperature=1e4, direction=direction)
    value.backward()
    difference = (_centred(student) - _centred(teacher)).detach()
    expected = factor * float(difference.square().sum(1).mean()) / (2 * 10)
    assert float(value.detach()) == pytest.approx(expected, rel=2e-3)
    assert expected == pytest.approx(factor * float(logit_mse(student.detach(), teacher, centred=True)) / 2, rel=1e-9)
    torch.testing.assert_close(student.grad, factor * difference / (10 * 8), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_equal_answers_cost_nothing(direction):
    student, _ = _logits(4)
    assert float(kd(student, student.clone(), direction=direction)) == pytest.approx(0.0, abs=1e-12)


def test_swapped_arguments_are_another_loss():
    """KL(p || q) and KL(q || p) of (0.9, 0.1) and (0.5, 0.5), by hand: 0.3681 and 0.5108 nats."""
    teacher, student = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert float(kd(student, teacher, temperature=1.0)) == pytest.approx(0.368064, abs=1e-6)
    assert float(kd(teacher, student, temperature=1.0)) == pytest.approx(0.510826, abs=1e-6)


@given(seeds, temperatures, st.sampled_from(["forward", "reverse", "js"]))
@examples
def test_kd_is_never_negative_and_blind_to_a_constant_in_the_logits(seed, temperature, direction):
    student, teacher = _logits(seed)
    options = {"temperature": temperature, "direction": direction, "reduction": "none"}
    per_sample = kd(student, teacher, **options)
    assert float(per_sample.min()) >= 0
    torch.testing.assert_close(per_sample, kd(student + 5.0, teacher - 3.0, **options), rtol=1e-9, atol=1e-10)


def test_its_gradient_is_the_difference_of_the_softened_probabilities():
    """d/dz_s of T^2 KL, meaned over B: T (q - p) / B."""
    student, teacher = _logits(5)
    student.requires_grad_(True)
    kd(student, teacher, temperature=3.0).backward()
    expected = 3 * (softmax(student.detach().numpy() / 3, 1) - softmax(teacher.numpy() / 3, 1)) / 8
    np.testing.assert_allclose(student.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_keep_their_value(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0]], dtype=dtype)
    teacher = torch.tensor([[-3e4, 3e4, 0.0]], dtype=dtype)
    expected = -log_softmax(student.double().numpy() / 4, axis=1)[0, 1] * 16
    assert float(kd(student, teacher)) == pytest.approx(expected, rel=1e-6)


@given(seeds, temperatures, st.floats(0.01, 100), st.floats(-50, 50))
@examples
def test_standardised_kd_is_kd_of_the_z_scores_and_blind_to_scale(seed, temperature, scale, shift):
    student, teacher = _logits(seed)
    scores = [torch.from_numpy(zscore(side.numpy(), axis=1)) for side in (student, teacher)]
    expected = kd(*scores, temperature=temperature)
    actual = kd(student, teacher, temperature=temperature, standardize=True)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(standardized_kd(student * scale + shift, teacher, temperature=temperature), expected)


@pytest.mark.parametrize("level", [0.0, 0.1, -1234.5])
def test_logits_without_spread_count_as_zeros(level):
    """A last layer that starts at zero: nothing is divided by zero, and the student can leave it."""
    _, teacher = _logits(6)
    student = torch.full((8, 10), level, requires_grad=True)
    value = standardized_kd(student, teacher.float())
    value.backward()
    expected = kd(torch.zeros(8, 10).double(), torch.from_numpy(zscore(teacher.numpy(), axis=1)), temperature=2.0)
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-3)
    assert 0 < float(student.grad.abs().max()) < 1


def _decoupled(student: np.ndarray, teacher: np.ndarray, target: int, temperature: float) -> tuple[float, float]:
    """TCKD and NCKD of one sample, from probabilities."""
    q, p = softmax(student / temperature), softmax(teacher / temperature)
    others = [k for k in range(len(p)) if k != target]
    tckd = p[target] * math.log(p[target] / q[target])
    rest_p, rest_q = sum(p[k] for k in others), sum(q[k] for k in others)
    tckd += rest_p * math.log(rest_p / rest_q)
    nckd = sum(p[k] / rest_p * math.log((p[k] / rest_p) / (q[k] / rest_q)) for k in others)
    return tckd, nckd


@given(seeds, temperatures, st.floats(0, 4), st.floats(0, 10), st.integers(3, 12))
@examples
def test_dkd_is_the_weighted_sum_of_its_two_divergences(seed, temperature, alpha, beta, classes):
    student, teacher = _logits(seed, classes=classes)
    targets = _targets(seed, classes=classes)
    rows = zip(student.numpy(), teacher.numpy(), targets.tolist(), strict=True)
    parts = np.array([_decoupled(s, t, y, temperature) for s, t, y in rows])
    expected = temperature**2 * (alpha * parts[:, 0] + beta * parts[:, 1])
    options = {"temperature": temperature, "alpha": alpha, "beta": beta, "reduction": "none"}
    actual = dkd(student, teacher, targets=targets, **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-9)


@given(seeds, temperatures)
@examples
def test_kd_is_tckd_plus_what_the_teacher_leaves_to_the_others_times_nckd(seed, temperature):
    student, teacher = _logits(seed)
    targets = _targets(seed)
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    left = 1 - log_teacher.gather(1, targets[:, None])[:, 0].exp()
    whole = _tckd(log_student, log_teacher, targets) + left * _nckd(log_student, log_teacher, targets)
    expected = kd(student, teacher, temperature=temperature, reduction="none") / temperature**2
    torch.testing.assert_close(whole, expected, rtol=1e-9, atol=1e-12)


def test_dkd_sees_the_other_classes_where_the_teacher_is_sure():
    """In float32 the teacher's p[y] is 1 and the others' probabilities are 0; their ratios are still known."""
    teacher, student = torch.tensor([[500.0, 1.0, 0.0]]), torch.tensor([[500.0, 0.0, 1.0]])
    p, q = softmax([1.0, 0.0]), softmax([0.0, 1.0])
    value = dkd(student, teacher, targets=torch.tensor([0]), temperature=1.0, beta=2.0)
    assert float(value) == pytest.approx(2 * rel_entr(p, q).sum(), rel=1e-5)
    assert float(kd(student, teacher, temperature=1.0)) == pytest.approx(0, abs=1e-6)


def test_dkd_of_two_classes_or_of_targets_that_are_no_classes_is_refused():
    student, teacher = _logits(7, classes=2)
    with pytest.raises(ValueError, match="dkd needs 3 classes at least, not 2"):
        dkd(student, teacher, targets=_targets(7, classes=2))
    with pytest.raises(ValueError, match=r"dkd needs targets of shape \(8,\).*float64.*\(8, 10\)"):
        dkd(*_logits(7), targets=_logits(7)[0])


@given(seeds, temperatures, st.floats(0, 3), st.floats(0, 3))
@examples
def test_dist_is_one_minus_pearson_over_rows_and_over_columns(seed, temperature, beta, gamma):
    student, teacher = _logits(seed)
    q, p = softmax(student.numpy() / temperature, axis=1), softmax(teacher.numpy() / temperature, axis=1)
    inter = np.array([1 - pearsonr(q[b], p[b]).statistic for b in range(8)])
    intra = np.mean([1 - pearsonr(q[:, k], p[:, k]).statistic for k in range(10)])
    options = {"temperature": temperature, "beta": beta, "gamma": gamma}
    per_sample = dist(student, teacher, reduction="none", **options)
    np.testing.assert_allclose(per_sample, temperature**2 * (beta * inter + gamma * intra), rtol=1e-6, atol=1e-8)
    mean = temperature**2 * (beta * inter.mean() + gamma * intra)
    assert float(dist(student, teacher, **options)) == pytest.approx(mean, rel=1e-6, abs=1e-8)


def test_dist_counts_a_class_that_is_improbable_in_every_sample():
    """Its column is about 1e-30, of which float32 has no squares; the correlation does not depend on the scale."""
    student, teacher = (torch.cat([side, side[:, :1] - 70], 1) for side in _logits(8))
    expected = dist(student, teacher, temperature=1.0)
    assert float(dist(student.float(), teacher.float(), temperature=1.0)) == pytest.approx(float(expected), rel=1e-4)


def test_dist_of_answers_without_spread_counts_them_as_unrelated():
    _, teacher = _logits(9)
    student = torch.zeros(8, 10, requires_grad=True)
    value = dist(student, teacher.float(), temperature=1.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0, abs=1e-5)
    assert 0 < float(student.grad.abs().max()) < 1
    alone = dist(*(side[:1] for side in _logits(9)), temperature=1.0, beta=0.0)
    assert float(alone) == pytest.approx(1.0, abs=1e-9)


@given(seeds)
@examples
def test_logit_mse_is_the_mean_over_classes_and_centred_it_is_blind_to_a_constant(seed):
    student, teacher = _logits(seed)
    np.testing.assert_allclose(
        logit_mse(student, teacher, reduction="none"), ((student - teacher).numpy() ** 2).mean(1), rtol=1e-12
    )
    expected = (_centred(student) - _centred(teacher)).square().mean()
    torch.testing.assert_close(logit_mse(student + 7, teacher, centred=True), expected)
    torch.testing.assert_close(logit_mse(student, teacher), torch.nn.functional.mse_loss(student, teacher))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("loss", [kd, standardized_kd, dist, dkd])
def test_a_temperature_that_is_none_is_refused(loss, temperature):
    targets = {"targets": _targets(0)} if loss is dkd else {}
    with pytest.raises(ValueError, match="temperature must be above 0"):
        loss(*_logits(0), temperature=temperature, **targets)


def test_logits_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"kd needs student and teacher of one shape, not \(8, 10\) and \(8, 3\)"):
        kd(_logits(0)[0], _logits(0, classes=3)[0])
    with pytest.raises(ValueError, match=r"kd needs shape \(B, K\), not \(10,\)"):
        kd(_logits(0)[0][0], _logits(0)[0][0])

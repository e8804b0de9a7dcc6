"""Losses on features against closed forms, written as loops in numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import adaptive_avg_pool2d, gaussian_nll_loss

from edgekd.distill.losses.feature import attention, hint, mad, mmd, nst, vid, vid_parts

MODES = ("code", "paper", "seed")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(student: tuple[int, ...], teacher: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(*student, seed=2 * seed), drawn(*teacher, seed=2 * seed + 1)


def length_1(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(value**2 for value in vector))


def check(loss, student, teacher, expected, **options):
    """Values per sample and their mean, and a gradient for the student alone that numerical differences confirm."""
    np.testing.assert_allclose(loss(student, teacher, reduction="none", **options), expected, rtol=1e-10, atol=1e-12)
    assert float(loss(student, teacher, **options)) == pytest.approx(np.mean(expected), rel=1e-10, abs=1e-12)
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda features: loss(features, teacher, **options), (student,))
    loss(student, teacher, **options).backward()
    assert teacher.grad is None


# hint


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 2), (4, 5, 3)])
def test_hint_is_the_mean_squared_difference(shape):
    student, teacher = pair(shape, shape)
    expected = [((s - t) ** 2).mean() for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    check(hint, student, teacher, expected)


def test_hint_needs_equal_shapes():
    with pytest.raises(ValueError, match=r"one shape, not \(2, 3\) and \(2, 4\)"):
        hint(torch.zeros(2, 3), torch.zeros(2, 4))


# attention


def attention_map(maps: np.ndarray, power: float) -> np.ndarray:
    channels, height, width = maps.shape
    places = itertools.product(range(height), range(width))
    return length_1(np.array([sum(abs(maps[c, h, w]) ** power for c in range(channels)) / channels for h, w in places]))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("mode", MODES)
def test_attention_compares_where_maps_are_strong(mode, power):
    student, teacher = pair((3, 4, 3, 2), (3, 5, 3, 2))
    expected = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        squares = ((attention_map(s, power) - attention_map(t, power)) ** 2).sum()
        expected.append({"code": squares / 6, "paper": math.sqrt(squares), "seed": squares / 2}[mode])
    check(attention, student, teacher, expected, mode=mode, power=power)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 6), st.floats(0.5, 4))
@settings(max_examples=30)
def test_the_modes_of_attention_are_related_by_their_factors(seed, height, width, power):
    student, teacher = pair((4, 3, height, width), (4, 2, height, width), seed)
    values = {mode: attention(student, teacher, mode=mode, power=power, reduction="none") for mode in MODES}
    torch.testing.assert_close(values["seed"], values["code"] * height * width / 2)
    torch.testing.assert_close(values["paper"].square(), values["code"] * height * width)


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=30)
def test_attention_is_blind_to_scale_sign_and_order_of_channels(seed, factor):
    student, teacher = pair((2, 3, 4, 4), (2, 5, 4, 4), seed)
    torch.testing.assert_close(
        attention(-factor * student[:, [2, 0, 1]], teacher), attention(student, teacher), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("mode", MODES)
def test_attention_pools_the_larger_map_axis_by_axis(mode):
    student, teacher = pair((2, 3, 8, 4), (2, 3, 4, 8))
    small = attention(adaptive_avg_pool2d(student, 4), adaptive_avg_pool2d(teacher, 4), mode=mode)
    torch.testing.assert_close(attention(student, teacher, mode=mode), small)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("mode", MODES)
def test_attention_of_equal_maps_and_of_zeros_has_a_finite_gradient(mode, power):
    student = drawn(3, 2, 4, 4).float()
    student[1] = 0
    teacher = student.clone()
    teacher[2] = 0
    student.requires_grad_()
    values = attention(student, teacher, mode=mode, power=power, reduction="none")
    assert values[0] == values[1] == 0
    assert float(values[2].detach()) == pytest.approx(
        {"code": 1 / 16, "paper": 1.0, "seed": 0.5}[mode]
    )  # |a_s - 0|^2 = 1
    values.sum().backward()
    assert bool(torch.isfinite(student.grad).all())
    assert student.grad[:2].abs().sum() == 0


def test_attention_says_what_it_needs():
    maps = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="mode"):
        attention(maps, maps, mode="squared")
    with pytest.raises(ValueError, match="power"):
        attention(maps, maps, power=0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), not \(2, 3\)"):
        attention(torch.ones(2, 3), maps)
    with pytest.raises(ValueError, match="as many samples"):
        attention(torch.ones(3, 3, 4, 4), maps)


# mad


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 2)])
def test_mad_sums_over_features_as_its_formula_does(shape):
    student, teacher = pair(shape, shape)
    rows = [(length_1(s.ravel()), length_1(t.ravel())) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    expected = np.array([sum(abs(s - t)) for s, t in rows])
    check(mad, student, teacher, expected)
    check(mad, student, teacher, expected / math.prod(shape[1:]), features="mean")


def test_mad_knows_two_ways_over_features():
    with pytest.raises(ValueError, match="features"):
        mad(torch.ones(2, 3), torch.ones(2, 3), features="max")


# mmd


def rbf(x: np.ndarray, y: np.ndarray, sigma: float, bandwidths) -> float:
    return sum(math.exp(-((x - y) ** 2).sum() / (2 * (b * sigma) ** 2)) for b in bandwidths) / len(bandwidths)


def median_distance(samples: np.ndarray) -> float:
    distances = sorted(math.sqrt(((x - y) ** 2).sum()) for x, y in itertools.combinations(samples, 2))
    return distances[(len(distances) - 1) // 2]


def mmd_by_hand(x: np.ndarray, y: np.ndarray, bandwidths) -> float:
    sigma = median_distance(np.concatenate([x, y]))

    def within(z):
        return sum(rbf(a, b, sigma, bandwidths) for a, b in itertools.permutations(z, 2)) / (len(z) * (len(z) - 1))

    across = sum(rbf(a, b, sigma, bandwidths) for a, b in itertools.product(x, y)) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 8), (2, 3)])
@pytest.mark.parametrize("bandwidths", [(1.0,), (0.25, 0.5, 1.0, 2.0, 4.0)])
def test_mmd_is_the_unbiased_estimate(n, m, bandwidths):
    student, teacher = pair((n, 6), (m, 6))
    expected = mmd_by_hand(student.numpy(), teacher.numpy(), bandwidths)
    assert float(mmd(student, teacher, bandwidths=bandwidths)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_mmd_per_sample_has_the_value_as_mean():
    student, teacher = pair((7, 2, 3, 3), (7, 2, 3, 3))
    per_sample = mmd(student, teacher, reduction="none")
    assert per_sample.shape == (7,)
    torch.testing.assert_close(per_sample.mean(), mmd(student, teacher))


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_mmd_of_a_set_with_its_own_permutation_is_zero_up_to_its_known_bias_and_mad_is_not(seed):
    """The two sets are no independent draws: each sample meets itself once, which gives -2 (1 - k) / n, k the mean of
    the kernel over different samples. Another distribution is far away."""
    x = drawn(64, 8, seed=seed)
    shuffled = x[torch.randperm(64, generator=torch.Generator().manual_seed(seed))]
    sigma = median_distance(np.concatenate([x.numpy(), x.numpy()]))
    squares = torch.cdist(x, x).square()[~torch.eye(64, dtype=torch.bool)]
    kernel = float(torch.exp(-squares / (2 * sigma**2)).mean())
    value = float(mmd(x, shuffled, bandwidths=(1.0,)))
    assert value == pytest.approx(-2 * (1 - kernel) / 64, rel=1e-6)
    assert abs(value) < 0.02
    assert float(mmd(x + 2, shuffled, bandwidths=(1.0,))) > 0.2
    assert float(mad(x, shuffled)) > 1


def test_mmd_is_unbiased():
    """The mean over many pairs of independent draws of one distribution is zero within its standard error."""
    values = np.array([float(mmd(*pair((20, 4), (20, 4), seed))) for seed in range(300)])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert (values < 0).mean() > 0.3


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-1e4, 1e4))
@settings(max_examples=20)
def test_mmd_is_blind_to_a_scale_and_shift_of_both_and_to_order(seed, factor, shift):
    student, teacher = pair((6, 5), (6, 5), seed)
    moved = mmd(factor * student.flip(0) + shift, factor * teacher + shift)
    torch.testing.assert_close(moved, mmd(student, teacher), rtol=1e-5, atol=1e-7)


def test_mmds_gradient_moves_the_student_to_the_teacher():
    student, teacher = pair((16, 3), (16, 3))
    student = (student + 3).requires_grad_()
    teacher.requires_grad_()
    before = mmd(student, teacher)
    before.backward()
    assert teacher.grad is None
    after = mmd((student - 20 * student.grad).detach(), teacher)
    assert float(after) < float(before.detach())


def test_mmd_of_equal_samples_is_zero_with_a_finite_gradient():
    student = torch.ones(4, 3, requires_grad=True)
    value = mmd(student, torch.ones(4, 3))
    value.backward()
    assert float(value.detach()) == 0
    assert bool(torch.isfinite(student.grad).all())


def test_mmd_says_what_it_needs():
    with pytest.raises(ValueError, match="two samples"):
        mmd(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="one shape"):
        mmd(torch.ones(4, 3), torch.ones(4, 2))
    with pytest.raises(ValueError, match="not 4 and 5"):
        mmd(torch.ones(4, 3), torch.ones(5, 3), reduction="none")
    with pytest.raises(ValueError, match="one number"):
        mmd(torch.ones(4, 3), torch.ones(4, 3), bandwidths=())
    with pytest.raises(ValueError, match=r"bandwidths\[1\]"):
        mmd(torch.ones(4, 3), torch.ones(4, 3), bandwidths=(1.0, -1.0))


# nst


def nst_by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    s, t = ([length_1(channel.ravel()) for channel in maps] for maps in (student, teacher))

    def mean(x, y):
        return sum(float(a @ b) ** 2 for a, b in itertools.product(x, y)) / (len(x) * len(y))

    return mean(t, t) + mean(s, s) - 2 * mean(s, t)


@pytest.mark.parametrize(("channels", "size"), [((3, 5), (2, 2)), ((2, 3), (4, 3)), ((4, 4), (2, 2))])
def test_nst_compares_the_channels_patterns(channels, size):
    """Both forms of the same number: more places than channels, and fewer."""
    student, teacher = pair((2, channels[0], *size), (2, channels[1], *size))
    expected = [nst_by_hand(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    check(nst, student, teacher, expected)


def test_nst_pools_to_the_smaller_map_and_is_blind_to_the_channels_order_and_scale():
    student, teacher = pair((2, 3, 8, 8), (2, 5, 4, 4))
    torch.testing.assert_close(nst(student, teacher), nst(adaptive_avg_pool2d(student, 4), teacher))
    torch.testing.assert_close(nst(7 * student[:, [1, 2, 0]], teacher), nst(student, teacher))
    assert float(nst(teacher.flip(1), teacher)) == pytest.approx(0, abs=1e-12)


def test_nst_of_dead_channels_has_a_finite_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    nst(student, drawn(2, 5, 4, 4).float()).backward()
    assert bool(torch.isfinite(student.grad).all())


# vid


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 6)])
def test_vid_is_the_negative_log_likelihood_of_a_normal_distribution(shape):
    student, teacher = pair(shape, shape)
    variance = drawn(shape[1], seed=9).exp()
    broad = variance.view(-1, *[1] * (len(shape) - 2)).expand(shape)
    expected = gaussian_nll_loss(student, teacher, broad, reduction="none").flatten(1).mean(1)
    check(vid, student, teacher, expected.numpy(), variance=variance)
    exact = -torch.distributions.Normal(student, broad.sqrt()).log_prob(teacher).mean()
    assert float(vid(student, teacher, variance=variance)) == pytest.approx(
        float(exact) - math.log(2 * math.pi) / 2, rel=1e-10
    )


def test_vid_is_least_where_the_variance_is_that_of_the_error():
    student, teacher = pair((50, 3), (50, 3))
    best = (student - teacher).square().mean(0)
    values = [float(vid(student, teacher, variance=best * factor)) for factor in (0.8, 1.0, 1.25)]
    assert values[1] < min(values[0], values[2])


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 8, 8), (5, 4, 4)), ((3, 4, 4), (5, 8, 8)), ((3, 4, 4), (5, 4, 4)), ((3,), (5,))]
)
def test_vids_parts_regress_the_teachers_features(student, teacher):
    torch.manual_seed(0)
    parts = vid_parts(student, teacher, samples=10)
    ours, theirs = torch.randn(4, *student, requires_grad=True), torch.randn(4, *teacher, requires_grad=True)
    given = parts(ours, theirs, samples=torch.arange(4), targets=torch.zeros(4))
    torch.testing.assert_close(given["variance"], torch.full((5,), 5.0))
    assert given["student"].shape == theirs.shape
    vid(**given).backward()
    assert theirs.grad is None
    assert ours.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in parts.parameters())
    assert sum(parameter.numel() for parameter in parts.parameters()) == (3 * 5 + 5) + 2 * (5 * 5 + 5) + 5


def test_vid_says_what_it_needs():
    with pytest.raises(ValueError, match=r"variance \(C,\)"):
        vid(torch.ones(2, 3), torch.ones(2, 3), variance=torch.ones(2))
    with pytest.raises(ValueError, match=r"not \(3,\) and \(5, 4, 4\)"):
        vid_parts((3,), (5, 4, 4), samples=10)


# all


MAPS = {"hint": hint, "attention": attention, "mad": mad, "mmd": mmd, "nst": nst}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_features_of_any_precision_give_finite_values_and_gradients(name, dtype):
    student = (drawn(4, 3, 4, 4).sign() * 1e4).to(dtype).requires_grad_()
    teacher = (drawn(4, 3, 4, 4, seed=1).sign() * 1e4).to(dtype)
    value = MAPS[name](student, teacher)
    value.backward()
    assert value.dtype is torch.float32
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("name", sorted(MAPS.keys() - {"mmd"}))
def test_a_batch_twice_has_the_same_mean(name):
    student, teacher = pair((3, 4, 4, 4), (3, 4, 4, 4))
    twice = MAPS[name](torch.cat([student, student]), torch.cat([teacher, teacher]))
    torch.testing.assert_close(twice, MAPS[name](student, teacher))

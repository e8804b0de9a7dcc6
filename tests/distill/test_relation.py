"""The losses on relations against closed forms in float64: plain loops over samples, pairs and triplets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group

from edgekd.distill.losses import relation
from edgekd.distill.losses.relation import cc, pkt, rkd_angle, rkd_distance, sp

LOSSES = [sp, cc, rkd_distance, rkd_angle, pkt]
seeds = st.integers(0, 10_000)
examples = settings(max_examples=20)
every = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def _features(seed: int, batch: int = 5, *, widths: tuple[int, int] = (4, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, width, generator=generator, dtype=torch.float64) * 2 for width in widths)


def _huber(a: float, b: float) -> float:
    return (a - b) ** 2 / 2 if abs(a - b) <= 1 else abs(a - b) - 1 / 2


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / lengths if lengths else 0.0


def _expected_sp(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    def similarities(x: np.ndarray) -> np.ndarray:
        gram = x @ x.T
        return gram / np.sqrt((gram**2).sum(1))[:, None]

    return ((similarities(student) - similarities(teacher)) ** 2).sum(1) / len(student)


def _expected_cc(student: np.ndarray, teacher: np.ndarray, gamma: float = 0.4, order: int = 2) -> np.ndarray:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        powers = range(order + 1)
        series = sum((2 * gamma) ** p / math.factorial(p) * _cosine(a, b) ** p for p in powers)
        return math.exp(-2 * gamma) * series

    batch = range(len(student))
    pairs = [[(kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for j in batch] for i in batch]
    return np.mean(pairs, axis=1)


def _expected_rkd_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    def relative(x: np.ndarray) -> np.ndarray:
        distances = cdist(x, x)
        return distances / distances[distances > 0].mean()

    s, t = relative(student), relative(teacher)
    return np.mean([[_huber(s[i, j], t[i, j]) for j in range(len(s))] for i in range(len(s))], axis=1)


def _expected_rkd_angle(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        return _cosine(x[i] - x[j], x[k] - x[j])

    batch = range(len(student))
    return np.array(
        [
            np.mean([_huber(angle(student, i, j, k), angle(teacher, i, j, k)) for i in batch for k in batch])
            for j in batch
        ]
    )


def _expected_pkt(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    def affinities(x: np.ndarray) -> np.ndarray:
        values = np.array([[(_cosine(a, b) + 1) / 2 for b in x] for a in x])
        return values / values.sum(1)[:, None]

    p, q = affinities(teacher), affinities(student)
    return (p * np.log((p + 1e-7) / (q + 1e-7))).mean(1)


EXPECTED = {
    "sp": _expected_sp,
    "cc": _expected_cc,
    "rkd_distance": _expected_rkd_distance,
    "rkd_angle": _expected_rkd_angle,
    "pkt": _expected_pkt,
}


@every
@given(seed=seeds, batch=st.integers(2, 6))
@examples
def test_its_value_is_the_closed_form(loss, seed, batch):
    student, teacher = _features(seed, batch)
    expected = EXPECTED[loss.__name__](student.numpy(), teacher.numpy())
    np.testing.assert_allclose(loss(student, teacher, reduction="none"), expected, rtol=1e-7, atol=1e-12)
    assert float(loss(student, teacher)) == pytest.approx(expected.mean(), rel=1e-7, abs=1e-12)


@every
def test_equal_features_cost_nothing_and_maps_count_as_their_values_in_a_row(loss):
    maps, other = torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(loss(maps, maps.clone())) == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(loss(maps, other), loss(maps.reshape(5, 12), other.reshape(5, 12)))


@every
@given(seed=seeds, student_scale=st.floats(1e-3, 1e3), teacher_scale=st.floats(1e-3, 1e3))
@examples
def test_a_factor_on_the_features_changes_nothing(loss, seed, student_scale, teacher_scale):
    student, teacher = _features(seed)
    torch.testing.assert_close(loss(student * student_scale, teacher * teacher_scale), loss(student, teacher))


@every
@given(seed=seeds)
@examples
def test_a_rotation_of_the_features_changes_nothing(loss, seed):
    student, teacher = _features(seed)
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=seed))
    torch.testing.assert_close(loss(student @ rotation, teacher), loss(student, teacher))


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
@given(seed=seeds)
@examples
def test_rkd_is_blind_to_a_shift(loss, seed):
    student, teacher = _features(seed)
    torch.testing.assert_close(loss(student + student[:1] * 3, teacher - 5), loss(student, teacher))


@pytest.mark.parametrize("loss", [cc, pkt])
@given(seed=seeds)
@examples
def test_losses_on_cosines_are_blind_to_each_sample_s_length(loss, seed):
    student, teacher = _features(seed)
    factors = torch.tensor([0.1, 1.0, 2.0, 30.0, 400.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(student * factors, teacher / factors), loss(student, teacher))


@pytest.mark.parametrize(("gamma", "order"), [(0.1, 1), (0.4, 3), (2.0, 5)])
def test_cc_of_any_order_and_its_limit_the_gaussian_kernel(gamma, order):
    student, teacher = _features(3)
    expected = _expected_cc(student.numpy(), teacher.numpy(), gamma, order)
    np.testing.assert_allclose(cc(student, teacher, gamma=gamma, order=order, reduction="none"), expected, rtol=1e-9)
    units = [x.numpy() / np.sqrt((x.numpy() ** 2).sum(1))[:, None] for x in (student, teacher)]
    gaussians = [np.exp(-gamma * cdist(u, u) ** 2) for u in units]
    limit = ((gaussians[0] - gaussians[1]) ** 2).mean()
    assert float(cc(student, teacher, gamma=gamma, order=40)) == pytest.approx(limit, rel=1e-9)


def test_an_equilateral_and_a_right_triangle_by_hand():
    """Angles: cos 60 deg three times against 0, cos 45 deg, cos 45 deg; each twice in 27 triplets."""
    right = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    equal = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    angles = 2 * (0.5**2 + 2 * (math.sqrt(0.5) - 0.5) ** 2) / 2 / 27
    assert float(rkd_angle(equal, right)) == pytest.approx(angles, rel=1e-12)
    mean = (2 + math.sqrt(2)) / 3
    distances = 2 * (2 * (1 - 1 / mean) ** 2 + (1 - math.sqrt(2) / mean) ** 2) / 2 / 9
    assert float(rkd_distance(equal, right)) == pytest.approx(distances, rel=1e-12)


@pytest.mark.parametrize("products", [0, 2**31])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every
def test_equal_rows_zeros_and_a_single_sample_give_gradients_of_ordinary_size(monkeypatch, loss, dtype, products):
    monkeypatch.setattr(relation, "_PRODUCTS", products)
    student, teacher = (side.to(dtype) for side in _features(4, 6, widths=(50, 9)))
    for case in ("equal to each other", "zeros", "all equal", "a single one"):
        at = student.clone()
        if case == "equal to each other":
            at[1] = at[0] = at[0] + 100  # where inner products leave rounding in place of a zero distance
        elif case == "zeros":
            at[:2] = 0
        elif case == "all equal":
            at[:] = at[0].clone()
        rows = 1 if case == "a single one" else 6
        at = at[:rows].requires_grad_(True)
        value = loss(at, teacher[:rows])
        value.backward()
        assert bool(torch.isfinite(value)), case
        assert float(at.grad.abs().max()) < 10, case


@every
def test_features_that_no_square_of_float32_holds(loss):
    student, teacher = _features(5)
    expected = float(loss(student, teacher))
    huge = (student * 1e30).float().requires_grad_(True)
    value = loss(huge, (teacher * 1e-30).float())
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    assert bool(torch.isfinite(huge.grad).all())


@pytest.mark.parametrize("elements", [1, 200, 10**9])
def test_angles_in_groups_are_those_at_once(monkeypatch, elements):
    student, teacher = _features(6, batch=7)
    student.requires_grad_(True)
    value = rkd_angle(student, teacher, reduction="none")
    (gradient,) = torch.autograd.grad(value.square().sum(), student)
    monkeypatch.setattr(relation, "_ELEMENTS", elements)
    grouped = rkd_angle(student, teacher, reduction="none")
    torch.testing.assert_close(grouped, value)
    # Twice from one graph: once to log a term's share, once to train.
    for retain in (True, False):
        (again,) = torch.autograd.grad(grouped.square().sum(), student, retain_graph=retain)
        torch.testing.assert_close(again, gradient)


def test_the_angles_of_a_large_batch_never_lie_in_memory_at_once(monkeypatch):
    batch = 40
    student, teacher = _features(7, batch)

    def largest_kept(elements: int) -> int:
        kept = [0]
        monkeypatch.setattr(relation, "_ELEMENTS", elements)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            rkd_angle(student.clone().requires_grad_(True), teacher).backward()
        return max(kept)

    assert largest_kept(10**9) == batch**3
    assert largest_kept(4 * batch * (batch + 6)) <= 4 * batch**2


@given(seed=seeds, batch=st.integers(1, 6))
@examples
def test_angles_from_fewer_coordinates_have_the_same_value_and_gradient(seed, batch):
    student, teacher = _features(seed, batch, widths=(9, 50))
    if batch > 3:
        student[1], teacher[2] = student[0], teacher[3]
    student.requires_grad_(True)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        value = rkd_angle(student, teacher, reduction="none")
        return value, torch.autograd.grad(value.square().sum(), student)[0]

    expected = both()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relation, "_PRODUCTS", 0)
        torch.testing.assert_close(both(), expected, rtol=1e-9, atol=1e-11)


@every
def test_features_without_an_axis_of_their_own_are_refused(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__} needs features \(B, \.\.\.\).*\(5,\)"):
        loss(torch.zeros(5), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=rf"{loss.__name__} needs as many samples.*\(5, 2\).*\(4, 2\)"):
        loss(torch.zeros(5, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=rf"{loss.__name__} needs samples.*\(0, 2\)"):
        loss(torch.zeros(0, 2), torch.zeros(0, 2))

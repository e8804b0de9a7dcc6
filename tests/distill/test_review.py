"""Knowledge review: the loss against loops, and what its fusions may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.losses.review import reviewkd, reviewkd_parts


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled(maps: np.ndarray, size: int) -> np.ndarray:
    """Adaptive average pooling of (C, H, W): cell i covers floor(i H / size) to ceil((i + 1) H / size)."""
    channels, height, width = maps.shape
    cells = np.empty((channels, size, size))
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            cells[:, i, j] = maps[:, rows, columns].mean((1, 2))
    return cells


def by_hand(student: np.ndarray, teacher: np.ndarray, sizes: tuple[int, ...]) -> float:
    weight, value, total = 1.0, ((student - teacher) ** 2).mean(), 1.0
    for size in sizes:
        weight /= 2
        value += weight * ((pooled(student, size) - pooled(teacher, size)) ** 2).mean()
        total += weight
    return value / total


@pytest.mark.parametrize(
    ("size", "sizes"),
    [((8, 8), (4, 2, 1)), ((5, 7), (4, 2, 1)), ((4, 4), (2, 1)), ((3, 4), (2, 1)), ((2, 2), (1,)), ((1, 1), ())],
)
def test_it_is_the_squared_difference_at_several_sizes(size, sizes):
    student, teacher = drawn(3, 2, *size), drawn(3, 2, *size, seed=1)
    expected = [by_hand(s, t, sizes) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(reviewkd([student], [teacher], reduction="none"), expected, rtol=1e-10)
    assert float(reviewkd([student], [teacher])) == pytest.approx(np.mean(expected), rel=1e-10)


def test_several_pairs_are_summed_and_a_batch_twice_has_the_same_mean():
    student = [drawn(3, 2, 8, 8), drawn(3, 4, 4, 4, seed=1)]
    teacher = [drawn(3, 2, 8, 8, seed=2), drawn(3, 4, 4, 4, seed=3)]
    single = sum(reviewkd([s], [t]) for s, t in zip(student, teacher, strict=True))
    torch.testing.assert_close(reviewkd(student, teacher), single)
    twice = reviewkd([torch.cat([s, s]) for s in student], [torch.cat([t, t]) for t in teacher])
    torch.testing.assert_close(twice, single)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_features_give_finite_values_and_gradients_to_the_student_alone(dtype):
    student = (drawn(2, 3, 4, 4).sign() * 1e4).to(dtype).requires_grad_()
    teacher = (drawn(2, 3, 4, 4, seed=1).sign() * 1e4).to(dtype).requires_grad_()
    value = reviewkd([student], [teacher])
    value.backward()
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(student.grad).all())
    assert teacher.grad is None


STUDENT = [(3, 8, 8), (4, 4, 4), (5, 2, 2)]
TEACHER = [(6, 8, 8), (7, 4, 4), (8, 2, 2)]


def batch(shapes, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *shape, generator=generator, requires_grad=True) for shape in shapes]


def fuse(parts, student, teacher):
    return parts(student, teacher, samples=torch.arange(4), targets=torch.zeros(4))


@pytest.mark.parametrize("teacher", [TEACHER, [(6, 4, 4), (7, 4, 4), (8, 4, 4)], [(6, 16, 16), (7, 8, 4), (8, 1, 1)]])
def test_the_parts_give_every_pair_the_teachers_shape_and_all_of_them_learn(teacher):
    torch.manual_seed(0)
    parts = reviewkd_parts(STUDENT, teacher, samples=10, channels=5)
    ours, theirs = batch(STUDENT), batch(teacher, 1)
    given = fuse(parts, ours, theirs)
    assert [maps.shape for maps in given["student"]] == [maps.shape for maps in theirs]
    reviewkd(**given).backward()
    assert all(maps.grad is None for maps in theirs)
    assert all(maps.grad.abs().sum() > 0 for maps in ours)
    assert all(parameter.grad is not None for parameter in parts.parameters())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_layer_is_reviewed_with_the_deeper_ones_and_never_with_shallower_ones(order):
    torch.manual_seed(0)
    parts = reviewkd_parts([STUDENT[i] for i in order], [TEACHER[i] for i in order], samples=10, channels=5)
    for position, layer in enumerate(order):
        ours = batch([STUDENT[i] for i in order])
        given = fuse(parts, ours, batch([TEACHER[i] for i in order], 1))
        given["student"][position].square().sum().backward()
        seen = {order[i] for i, maps in enumerate(ours) if maps.grad is not None}
        assert seen == set(range(layer, 3))


def test_of_two_maps_of_one_size_the_later_is_deeper():
    torch.manual_seed(0)
    parts = reviewkd_parts([(3, 4, 4), (3, 4, 4)], [(6, 4, 4), (6, 4, 4)], samples=10)
    ours = batch([(3, 4, 4), (3, 4, 4)])
    fuse(parts, ours, batch([(6, 4, 4)] * 2))["student"][1].square().sum().backward()
    assert ours[0].grad is None
    assert ours[1].grad is not None


def test_an_embedding_is_the_deepest_map():
    torch.manual_seed(0)
    parts = reviewkd_parts([(3, 4, 4), (5,)], [(6, 4, 4), (7,)], samples=10)
    ours, theirs = batch([(3, 4, 4), (5,)]), batch([(6, 4, 4), (7,)], 1)
    given = fuse(parts, ours, theirs)
    assert [tuple(maps.shape) for maps in given["student"]] == [(4, 6, 4, 4), (4, 7, 1, 1)]
    torch.testing.assert_close(given["teacher"][1][..., 0, 0], theirs[1].detach())
    given["student"][1].square().sum().backward(retain_graph=True)
    assert ours[0].grad is None
    reviewkd(**given).backward()
    assert ours[0].grad.abs().sum() > 0


def test_one_pair_needs_no_attention():
    parts = reviewkd_parts([(3, 4, 4)], [(6, 4, 4)], samples=10, channels=5)
    assert sum(parameter.numel() for parameter in parts.parameters()) == 3 * 5 + 2 * 5 + 5 * 6 * 9 + 2 * 6


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    parts = reviewkd_parts(STUDENT, TEACHER, samples=10, channels=8)
    ours, theirs = batch(STUDENT), batch(TEACHER, 1)
    optimizer = torch.optim.Adam(parts.parameters(), 0.01)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = reviewkd(**fuse(parts, ours, theirs))
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0] / 2


def test_wrong_input_is_said():
    maps = drawn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="pairs of maps"):
        reviewkd([maps], [])
    with pytest.raises(ValueError, match="one shape"):
        reviewkd([maps], [maps[:, :2]])
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), not \(2, 3\)"):
        reviewkd([maps[..., 0, 0]], [maps[..., 0, 0]])
    with pytest.raises(ValueError, match=r"\[\(3, 4\)\]"):
        reviewkd_parts([(3, 4)], [(3, 4, 4)], samples=10)
    with pytest.raises(ValueError, match="channels"):
        reviewkd_parts([(3, 4, 4)], [(3, 4, 4)], samples=10, channels=0)

"""Contrastive losses against closed forms and other libraries, and what the memory does."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, ive
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from edgekd.distill.losses.contrastive import crd, crd_parts, infonce, infonce_parts


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    return drawn(*shape, seed=2 * seed), drawn(*shape, seed=2 * seed + 1)


# infonce


@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0.05, 2))
@settings(max_examples=30)
def test_infonce_is_the_cross_entropy_of_the_similarity_matrix(seed, batch, temperature):
    student, teacher = pair((batch, 5), seed)
    similarities = cosine_similarity(student[:, None], teacher[None], dim=-1) / temperature
    expected = cross_entropy(similarities, torch.arange(batch), reduction="none")
    torch.testing.assert_close(infonce(student, teacher, temperature=temperature, reduction="none"), expected)
    torch.testing.assert_close(infonce(student, teacher, temperature=temperature), expected.mean())


def test_infonce_says_nothing_where_the_embeddings_are_equal_and_much_where_each_finds_its_own():
    """I >= log B - L is 0 where nothing can be told apart and log B where everything can."""
    same = torch.ones(8, 4, dtype=torch.float64)
    assert float(infonce(same, same)) == pytest.approx(math.log(8))
    apart = torch.eye(8, dtype=torch.float64)
    assert math.log(8) - float(infonce(apart, apart)) == pytest.approx(math.log(8), abs=1e-4)


def test_infonces_gradient_is_the_students_and_of_a_projection_that_is_given():
    student, teacher = pair((4, 3))
    assert torch.autograd.gradcheck(
        lambda features: infonce(features, teacher, temperature=0.5), student.requires_grad_()
    )
    projected = teacher.clone().requires_grad_()
    teacher.requires_grad_()
    value = infonce(student, teacher, projected=projected)
    torch.testing.assert_close(value, infonce(student, teacher))
    value.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert projected.grad.abs().sum() > 0


SHAPES = [((5,), (7,)), ((5,), (5,)), ((5, 4, 4), (7, 2, 2)), ((5, 4, 4), (7,))]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_infonces_parts_project_both(student, teacher):
    torch.manual_seed(0)
    parts = infonce_parts(student, teacher, samples=100, dimensions=6)
    ours, theirs = torch.randn(4, *student, requires_grad=True), torch.randn(4, *teacher, requires_grad=True)
    given = parts(ours, theirs, samples=torch.arange(4), targets=torch.zeros(4))
    assert given["student"].shape == given["teacher"].shape == (4, 6)
    torch.testing.assert_close(given["student"].norm(dim=1), torch.ones(4))
    means = ours.mean((2, 3)) if len(student) == 3 else ours
    expected = normalize(means @ parts.student.linear.weight.T + parts.student.linear.bias)
    torch.testing.assert_close(given["student"], expected)
    infonce(**given).backward()
    assert theirs.grad is None
    assert ours.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in parts.parameters())


# crd


def arguments(seed: int = 0, batch: int = 3, dimensions: int = 4, others: int = 6) -> dict[str, Tensor]:
    names = ("student_own", "teacher_own", "student_others", "teacher_others")
    sizes = (batch, batch, others, others)
    rows = {
        name: normalize(drawn(size, dimensions, seed=100 * seed + index))
        for index, (name, size) in enumerate(zip(names, sizes, strict=True))
    }
    contrast = drawn(batch, others, seed=100 * seed + 9) > -0.5
    return rows | {"contrast": contrast}


def log_mean_exp(dimensions: int, temperature: float) -> float:
    """Of the cosine of two random directions / T: the von Mises-Fisher constant, by scipy's Bessel function."""
    order, kappa = dimensions / 2 - 1, 1 / temperature
    return float(gammaln(dimensions / 2) + order * math.log(2 / kappa) + math.log(ive(order, kappa)) + kappa)


def crd_by_hand(student, teacher, given, temperature) -> list[float]:
    """The paper's probabilities, term by term."""
    scale = math.exp(log_mean_exp(student.shape[1], temperature))
    values = []
    for i in range(len(student)):
        chosen = [k for k in range(len(given["student_others"])) if given["contrast"][i, k]]
        value, count = 0.0, len(chosen)
        for anchor, side in ((student[i], "teacher"), (teacher[i], "student")):
            direction = (anchor / anchor.norm()).numpy()

            def h(row, direction=direction, count=count):
                e = math.exp(float(direction @ row.numpy()) / temperature) / scale
                return e / (e + count)

            value -= math.log(h(given[f"{side}_own"][i]))
            value -= sum(math.log(1 - h(given[f"{side}_others"][k])) for k in chosen)
        values.append(value)
    return values


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_crd_is_the_noise_contrastive_estimate_of_both_directions(seed, temperature):
    (student, teacher), given = pair((3, 4), seed), arguments(seed)
    expected = crd_by_hand(student, teacher, given, temperature)
    per_sample = crd(student, teacher, **given, temperature=temperature, reduction="none")
    np.testing.assert_allclose(per_sample, expected, rtol=1e-8)
    assert float(crd(student, teacher, **given, temperature=temperature)) == pytest.approx(np.mean(expected), rel=1e-8)


@pytest.mark.parametrize(
    ("dimensions", "temperature"), [(2, 1.0), (3, 0.5), (16, 0.2), (128, 0.07), (128, 0.01), (5, 50.0)]
)
def test_the_scale_is_that_of_random_directions(dimensions, temperature):
    """One anchor e and one other, both the same: h = 1/2 exactly where exp(cos / T) is the mean over directions."""
    student = torch.zeros(1, dimensions, dtype=torch.float64)
    student[0, 0] = 1
    cosine = temperature * log_mean_exp(dimensions, temperature)
    row = torch.zeros_like(student)
    row[0, 0], row[0, 1] = cosine, math.sqrt(1 - cosine**2)
    rows = dict.fromkeys(("student_own", "teacher_own", "student_others", "teacher_others"), row)
    value = crd(student, student, **rows, contrast=torch.tensor([[True]]), temperature=temperature)
    assert float(value) == pytest.approx(4 * math.log(2), rel=1e-9)


def test_the_scale_is_what_the_authors_take_from_the_first_batch():
    torch.manual_seed(0)
    parts = crd_parts((9,), (9,), samples=20_000, negatives=5000)
    given = parts(torch.randn(64, 9), torch.randn(64, 9), samples=torch.arange(64), targets=torch.zeros(64).long())
    estimate = torch.exp(given["student"] @ given["teacher_others"].T / 0.07).mean()
    assert float(estimate.detach().log()) == pytest.approx(log_mean_exp(128, 0.07), abs=0.02)


def test_crds_gradient_is_the_students_and_of_a_projection_that_is_given():
    (student, teacher), given = pair((3, 4)), arguments()
    assert torch.autograd.gradcheck(lambda x: crd(x, teacher, **given, temperature=0.5), student.requires_grad_())
    projected = teacher.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: crd(student.detach(), teacher, **given, projected=x, temperature=0.5), projected
    )
    teacher.requires_grad_()
    crd(student, teacher, **given, projected=projected).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert projected.grad.abs().sum() > 0


def test_crd_falls_when_the_student_moves_to_its_teacher():
    (student, teacher), given = pair((3, 64)), arguments(dimensions=64, others=3)
    given["teacher_own"] = normalize(teacher)
    given |= {"teacher_others": -given["teacher_own"], "contrast": torch.eye(3, dtype=torch.bool)}
    values = [float(crd(student + share * (teacher - student), teacher, **given)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert values == sorted(values, reverse=True)


def test_a_sample_without_contrast_says_nothing():
    (student, teacher), given = pair((3, 4)), arguments()
    given["contrast"][1] = False
    student.requires_grad_()
    values = crd(student, teacher, **given, reduction="none")
    values.sum().backward()
    assert float(values[1].detach()) == 0
    assert student.grad[1].abs().sum() == 0
    assert student.grad[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_embeddings_give_finite_values_and_gradients(dtype):
    student = (drawn(3, 4).sign() * 1e4).to(dtype).requires_grad_()
    teacher = (drawn(3, 4, seed=1).sign() * 1e4).to(dtype)
    rows = {name: value.float() if value.is_floating_point() else value for name, value in arguments().items()}
    value = infonce(student, teacher, temperature=0.001) + crd(student, teacher, **rows, temperature=0.001)
    value.backward()
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(student.grad).all())


def test_wrong_options_and_shapes_are_said():
    (student, teacher), given = pair((3, 4)), arguments()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            infonce(student, teacher, temperature=temperature)
        with pytest.raises(ValueError, match="temperature"):
            crd(student, teacher, **given, temperature=temperature)
    with pytest.raises(ValueError, match="one shape"):
        infonce(student, teacher[:, :3])
    with pytest.raises(ValueError, match=r"\(B, D\), not \(3, 4, 1\)"):
        infonce(student[..., None], teacher[..., None])
    with pytest.raises(ValueError, match=r"contrasts \(3, K\), not \(6, 4\) and \(3, 5\)"):
        crd(student, teacher, **given | {"contrast": given["contrast"][:, :5]})
    with pytest.raises(ValueError, match=r"the student's features are \(4, 5\)"):
        infonce_parts((4, 5), (4,), samples=10)
    with pytest.raises(ValueError, match="has 1"):
        crd_parts((4,), (4,), samples=1)
    with pytest.raises(ValueError, match="momentum"):
        crd_parts((4,), (4,), samples=10, momentum=1.5)
    with pytest.raises(ValueError, match="negatives"):
        crd_parts((4,), (4,), samples=10, negatives=0)
    with pytest.raises(ValueError, match="class of each sample"):
        crd_parts((4,), (4,), samples=10)(student, teacher, samples=torch.arange(3), targets=torch.zeros(3, 2))


# the memory of crd

SAMPLES, CLASSES = 30, 3
TARGETS = torch.arange(SAMPLES) % CLASSES


def memory(**options):
    torch.manual_seed(0)
    return crd_parts((5,), (7, 2, 2), samples=SAMPLES, dimensions=6, **options)


def step(parts, chosen: Tensor, seed: int = 0):
    """What a batch of these samples gives."""
    torch.manual_seed(seed)
    student, teacher = torch.randn(len(chosen), 5), torch.randn(len(chosen), 7, 2, 2)
    return parts(student, teacher, samples=chosen, targets=TARGETS[chosen])


def test_only_the_batchs_rows_move_by_the_momentum():
    parts, chosen = memory(momentum=0.25), torch.tensor([4, 0, 9])
    before = {name: getattr(parts, name).clone() for name in ("student_memory", "teacher_memory")}
    torch.testing.assert_close(before["student_memory"].norm(dim=1), torch.ones(SAMPLES))
    given = step(parts, chosen)
    for who in ("student", "teacher"):
        rows, after = before[f"{who}_memory"], getattr(parts, f"{who}_memory")
        torch.testing.assert_close(given[f"{who}_own"], rows[chosen])
        torch.testing.assert_close(after[chosen], normalize(0.25 * rows[chosen] + 0.75 * given[who].detach()))
        rest = torch.ones(SAMPLES, dtype=torch.bool)
        rest[chosen] = False
        assert torch.equal(after[rest], rows[rest])
        assert not after.requires_grad


def test_in_evaluation_nothing_moves():
    parts = memory().eval()
    before = {name: value.clone() for name, value in parts.state_dict().items()}
    step(parts, torch.tensor([4, 0, 9]))
    assert all(torch.equal(value, before[name]) for name, value in parts.state_dict().items())


def test_no_negative_is_of_the_samples_own_class_and_every_other_one_is():
    parts = memory(negatives=20)
    for batch in torch.arange(SAMPLES).split(10):
        step(parts, batch)
    assert torch.equal(parts.classes, TARGETS)
    parts.student_memory.copy_(torch.arange(SAMPLES)[:, None].expand(-1, 6))  # a row that says whose it is
    for seed in range(5):
        chosen = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(seed))[:8]
        parts.eval()
        given = step(parts, chosen, seed)
        others = given["student_others"][:, 0].long()
        assert torch.equal(given["contrast"], TARGETS[chosen][:, None] != TARGETS[others])


def test_a_sample_that_was_not_seen_counts_as_of_another_class_but_not_as_its_own():
    parts, chosen = memory(negatives=29), torch.tensor([0, 3])
    parts.student_memory.copy_(torch.arange(SAMPLES)[:, None].expand(-1, 6))
    given = step(parts, chosen)
    others = given["student_others"][:, 0].long()
    assert torch.equal(given["contrast"], (~torch.isin(others, chosen)).expand(2, -1))  # 0 and 3 are of one class


@pytest.mark.parametrize(("negatives", "expected"), [(7, 7), (29, 29), (16384, 29)])
def test_there_are_never_more_negatives_than_other_samples(negatives, expected):
    assert step(memory(negatives=negatives), torch.tensor([1, 2]))["contrast"].shape == (2, expected)


def test_the_negatives_are_drawn_evenly_and_from_torchs_seed():
    parts = memory().eval()
    parts.student_memory.copy_(torch.arange(SAMPLES)[:, None].expand(-1, 6))
    draws = [step(parts, torch.tensor([1]), seed)["student_others"][:, 0] for seed in range(200)]
    assert torch.equal(draws[0], step(parts, torch.tensor([1]), 0)["student_others"][:, 0])
    assert not torch.equal(draws[0], draws[1])
    counts = torch.bincount(torch.cat(draws).long(), minlength=SAMPLES).double()
    expected = counts.mean()
    assert float((counts - expected).square().sum() / expected) < 70  # chi-squared of 29: 99.99 % below 68


def test_a_restored_memory_goes_on_as_the_first_would_have():
    parts = memory()
    optimizer = torch.optim.SGD(parts.parameters(), 0.1)
    for seed, batch in enumerate(torch.arange(SAMPLES).split(10)):
        optimizer.zero_grad()
        crd(**step(parts, batch, seed)).backward()
        optimizer.step()
    restored = crd_parts((5,), (7, 2, 2), samples=SAMPLES, dimensions=6)
    restored.load_state_dict(copy.deepcopy(parts.state_dict()))
    first, second = (crd(**step(module, torch.arange(5), 7)) for module in (parts, restored))
    assert torch.equal(first, second)
    assert all(
        torch.equal(a, b) for a, b in zip(parts.state_dict().values(), restored.state_dict().values(), strict=True)
    )


def test_what_is_learned_are_parameters_and_what_is_remembered_are_buffers():
    parts = memory()
    assert {name for name, _ in parts.named_buffers()} == {"student_memory", "teacher_memory", "classes"}
    crd(**step(parts, torch.arange(5))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parts.parameters())


def test_training_with_crd_brings_each_student_to_its_own_teacher():
    """Free student embeddings, a few hundred steps: afterwards each is nearest to a teacher of its own class."""
    torch.manual_seed(0)
    teacher = torch.randn(CLASSES, 7)[TARGETS] + 0.1 * torch.randn(SAMPLES, 7)
    student = torch.randn(SAMPLES, 5, requires_grad=True)
    parts = crd_parts((5,), (7,), samples=SAMPLES, dimensions=6)
    optimizer = torch.optim.Adam([student, *parts.parameters()], 0.02)
    losses = []
    for _ in range(60):
        for batch in torch.randperm(SAMPLES).split(10):
            optimizer.zero_grad()
            value = crd(**parts(student[batch], teacher[batch], samples=batch, targets=TARGETS[batch]))
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    nearest = (parts.student_memory @ parts.teacher_memory.T).argmax(1)
    assert float((TARGETS[nearest] == TARGETS).float().mean()) > 0.9

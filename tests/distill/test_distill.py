"""The distill stage: its objective, its frozen teacher, and what only a right loss can teach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.artifact import Artifact
from edgekd.distill.distill import distill, frozen, objective
from edgekd.distill.losses.response import kd
from edgekd.models import Description
from edgekd.models import mlp as mlps
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options
from edgekd.training.engine import accelerate

TASK = tasks.load("classification")
TEACHER = Description("edgekd.models.convnet:build", {"input_shape": [1, 8, 8], "classes": 10, "width": 4}, (1, 8, 8))


@pytest.fixture
def teacher(tmp_path) -> Artifact:
    """A teacher with BatchNorm, whose statistics are not those it was made with."""
    torch.manual_seed(3)
    model = models.create(TEACHER).train()
    for _ in range(3):
        model(torch.randn(16, 1, 8, 8) * 2 + 1)
    (tmp_path / "teacher").mkdir()
    models.save(tmp_path / "teacher", TEACHER, model.state_dict())
    return Artifact(tmp_path / "teacher", "teacher", "", "", {})


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randn(12, 1, 8, 8, generator=generator)
    return torch.randn(12, 10, generator=generator), shown, torch.randint(0, 10, (12,), generator=generator)


def goal(teacher: Artifact, alpha: float, temperature: float = 3.0, smoothing: float = 0.0):
    training = Network(model="mlp", label_smoothing=smoothing)
    return objective(Options(alpha=alpha, temperature=temperature), teacher, TASK, training, accelerate("cpu", "fp32"))


def test_alpha_weighs_the_teacher_against_the_labels(teacher):
    outputs, shown, targets = batch()
    answers = models.load(teacher.path)(shown).detach()
    labels, imitation = cross_entropy(outputs, targets, label_smoothing=0.1), kd(outputs, answers, temperature=3.0)
    for alpha in (0.0, 0.25, 0.9, 1.0):
        expected = (1 - alpha) * labels + alpha * imitation
        found = goal(teacher, alpha, smoothing=0.1)(outputs, shown, targets)
        assert float(found) == pytest.approx(float(expected), rel=1e-6), alpha


def test_alpha_0_loads_no_teacher(tmp_path):
    outputs, shown, targets = batch()
    absent = Artifact(tmp_path / "absent", "teacher", "", "", {})
    assert float(goal(absent, 0.0)(outputs, shown, targets)) == float(cross_entropy(outputs, targets))


def test_alpha_1_never_looks_at_the_labels(teacher):
    outputs, shown, targets = batch()
    found = goal(teacher, 1.0)(outputs, shown, torch.full_like(targets, -1000))
    assert float(found) == float(goal(teacher, 1.0)(outputs, shown, targets))


def test_the_gradient_reaches_the_student_alone(teacher):
    outputs, shown, targets = batch()
    outputs.requires_grad_(True)
    shown.requires_grad_(True)
    goal(teacher, 0.9)(outputs, shown, targets).backward()
    assert float(outputs.grad.abs().sum()) > 0
    assert shown.grad is None


def test_frozen_is_evaluation_without_gradients():
    model = frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train())
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def given(teacher: Artifact, student: Network, **changes) -> Inputs:
    known = {"artifacts": {"teacher": teacher}, "blocks": {"student": student}, "data_dir": None, "seed": 0}
    known |= {"task": "classification", "compute": "cpu", "variant": "student"}
    return Inputs(**(known | {"data": Data(source="digits", validation=0.15, train_samples=200)} | changes))


def test_the_teacher_stays_as_it_is_and_sees_the_students_views(teacher, tmp_path, monkeypatch):
    loaded, seen = [], {"teacher": [], "student": []}
    original = models.load

    def load(folder):
        model = original(folder)
        model.register_forward_hook(
            lambda module, inputs, _: seen["teacher"].append((module.training, inputs[0].clone()))
        )
        loaded.append(model)
        return model

    monkeypatch.setattr(models, "load", load)
    created = models.create

    def create(description):
        model = created(description)
        model.register_forward_hook(
            lambda module, inputs, _: seen["student"].append(inputs[0].clone()) if module.training else None
        )
        return model

    monkeypatch.setattr("edgekd.training.networks.models.create", create)
    student = Network(model="convnet", width=2, epochs=2, batch_size=50, augment={"crop": 1, "flip": True})
    (tmp_path / "out").mkdir()
    distill(Options(), given(teacher, student), tmp_path / "out")
    monkeypatch.undo()
    (model,) = loaded
    kept = original(teacher.path).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    views = [inputs for training, inputs in seen["teacher"][1:]]  # the first is the look at its memory layout
    assert not any(training for training, _ in seen["teacher"])
    assert len(views) == len(seen["student"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(views, seen["student"], strict=True))


# What the teacher knows of a class passes through its answers to other classes alone (Hinton et al. 2015, section 3:
# a student that never saw a 3 knows the 3s). A small version: digits without any 3, no labels, a few hundred steps.
OMITTED = 3


def steps(model: nn.Module, x: Tensor, loss, epochs: int, rate: float) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            loss(model(x[chosen]), chosen).backward()
            optimizer.step()
    return model.eval()


def mlp(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlps.build(input_shape=[1, 8, 8], classes=10, widths=[width])


@pytest.fixture(scope="module")
def omitted():
    """(the teacher's logits without the omitted class, inputs, and the omitted class's test inputs)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = datasets.load("digits", validation=0.1, seed=0)
    x, y = torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.targets)
    teacher = steps(mlp(128, 1), x, lambda outputs, chosen: cross_entropy(outputs, y[chosen]), 30, 0.05)
    transfer = x[y != OMITTED]
    with torch.no_grad():
        answers = teacher(transfer)
    yield transfer, answers, torch.from_numpy(data.test.inputs[data.test.targets == OMITTED])
    torch.set_num_threads(threads)


def recall(omitted, loss) -> float:
    transfer, answers, threes = omitted
    student = steps(mlp(64, 2), transfer, lambda outputs, chosen: loss(outputs, answers[chosen]), 10, 0.02)
    with torch.no_grad():
        return float((student(threes).argmax(1) == OMITTED).float().mean())


def test_a_student_recognises_the_class_it_never_saw(omitted):
    assert recall(omitted, lambda student, teacher: kd(student, teacher, temperature=4.0)) >= 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        lambda student, teacher: kd(student, teacher, temperature=4.0) / 10,  # the mean over elements
        lambda student, teacher: kd(student, teacher, temperature=4.0) / 16,  # without T^2
        lambda student, teacher: cross_entropy(student, teacher.argmax(1)),  # the teacher's decisions only
        lambda student, teacher: (
            16
            * kl_div(  # probabilities where kl_div takes their logarithms
                softmax(student / 4, 1), softmax(teacher / 4, 1), reduction="batchmean"
            )
        ),
        lambda student, teacher: (
            16
            * kl_div(  # another class's answers
                log_softmax(student / 4, 1), softmax(teacher.roll(1, 1) / 4, 1), reduction="batchmean"
            )
        ),
    ],
    ids=["element mean", "no T squared", "decisions", "no logarithm", "shifted classes"],
)
def test_with_a_wrong_loss_it_does_not(omitted, wrong):
    """So the test above means something. Swapped arguments do teach it; the closed forms of test_response tell them."""
    assert recall(omitted, wrong) <= 0.2

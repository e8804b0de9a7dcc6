"""The distill stage: its objective, its frozen teacher, and what only a right loss can teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.artifact import CHECKPOINT, Artifact
from edgekd.distill.distill import distill, objective
from edgekd.distill.losses.response import kd
from edgekd.distill.targets import keep
from edgekd.distill.teachers import frozen, sources
from edgekd.document import check_dict
from edgekd.models import Description
from edgekd.models import mlp as mlps
from edgekd.options import Augment, Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options
from edgekd.stages.targets import Options as Targets
from edgekd.training import checkpoint
from edgekd.training.engine import accelerate
from edgekd.training.objective import Batch

DIGITS = datasets.load("digits", validation=0.15, train_samples=200)
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


def given(artifacts: dict[str, Artifact], student: Network, **changes: Any) -> Inputs:
    known = {"artifacts": artifacts, "blocks": {"student": student}, "data_dir": None, "seed": 0, "data_seed": 0}
    known |= {"task": "classification", "compute": "cpu", "variant": "student"}
    return Inputs(**(known | {"data": Data(source="digits", validation=0.15, train_samples=200)} | changes))


def trained(folder: Path, options: Options, artifacts: dict[str, Artifact], student: Network) -> dict[str, Any]:
    """Run the distill stage and return its facts."""
    folder.mkdir()
    return distill(options, given(artifacts, student), folder)


STUDENT = Network(model="convnet", width=2, epochs=2, batch_size=50)


def test_frozen_is_evaluation_without_gradients():
    model = frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train())
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


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
    student = STUDENT.model_copy(update={"augment": Augment(crop=1, flip=True)})
    trained(tmp_path / "out", Options(), {"teacher": teacher}, student)
    monkeypatch.undo()
    (model,) = loaded
    kept = original(teacher.path).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    views = [inputs for training, inputs in seen["teacher"][1:]]  # the first is the look at its memory layout
    assert not any(training for training, _ in seen["teacher"])
    assert len(views) == len(seen["student"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(views, seen["student"], strict=True))


def test_alpha_weighs_the_teacher_against_the_labels(teacher):
    generator = torch.Generator().manual_seed(0)
    shown = torch.randn(12, 1, 8, 8, generator=generator)
    outputs, targets = torch.randn(12, 10, generator=generator), torch.randint(0, 10, (12,), generator=generator)
    answers = models.load(teacher.path)(shown).detach()
    labels, imitation = cross_entropy(outputs, targets, label_smoothing=0.1), kd(outputs, answers, temperature=3.0)
    for alpha in (0.0, 0.25, 0.9, 1.0):
        made = objective(
            Options(alpha=alpha, temperature=3.0), nn.Identity(), sources({"teacher": teacher}), DIGITS, TASK,
            Network(model="mlp", label_smoothing=0.1), accelerator=accelerate("cpu", "fp32"), seed=0,
        )  # fmt: skip
        found = made(outputs, Batch(shown, targets, torch.arange(12)))
        assert found.keys() == {"labels", "kd"} - ({"labels"} if alpha == 1 else set()) - (
            {"kd"} if not alpha else set()
        )
        assert float(sum(found.values())) == pytest.approx(float((1 - alpha) * labels + alpha * imitation), rel=1e-6)


def test_with_kept_answers_the_student_learns_the_same(teacher, tmp_path):
    """Half precision is all that differs."""
    student = STUDENT.model_copy(update={"augment": Augment(crop=1, views=2), "epochs": 4, "learning_rate": 0.01})
    (tmp_path / "targets").mkdir()
    context = {"augment": student.augment.model_dump(mode="json"), "views": 2}
    facts = keep(Targets(), given({"teacher": teacher}, student, context=context), tmp_path / "targets")
    kept = Artifact(tmp_path / "targets", "targets", "", "", facts)
    live = trained(tmp_path / "live", Options(), {"teacher": teacher}, student)
    cached = trained(tmp_path / "cached", Options(), {"teacher": teacher, "targets": kept}, student)
    np.testing.assert_allclose(cached["curves"]["train_loss"], live["curves"]["train_loss"], rtol=2e-3)
    assert cached["curves"]["train_loss"] != live["curves"]["train_loss"]


def test_what_is_learned_beside_the_student_is_not_stored(teacher, tmp_path):
    options = check_dict({"losses": ["kd", "hint", "crd"]}, Options, "distill")
    facts = trained(tmp_path / "out", options, {"teacher": teacher}, STUDENT)
    bare = trained(tmp_path / "bare", Options(alpha=0), {"teacher": teacher}, STUDENT)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors"]
    stored, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "bare"))
    assert {name: value.shape for name, value in stored.items()} == {name: value.shape for name, value in plain.items()}
    assert (facts["parameters"], facts["macs"]) == (bare["parameters"], bare["macs"])
    assert facts["terms"].keys() == {"labels", "kd", "hint", "crd"}
    model = models.load(tmp_path / "out")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_training_with_adapters_goes_on_from_its_checkpoint_bit_for_bit(teacher, tmp_path, monkeypatch):
    options = check_dict({"losses": ["kd", "hint", "crd"]}, Options, "distill")
    trained(tmp_path / "whole", options, {"teacher": teacher}, STUDENT)
    out, calls = tmp_path / "cut", []
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", 1e9)
    out.mkdir()

    def progress(done: int, total: int, text: str) -> None:
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(options, given({"teacher": teacher}, STUDENT, progress=progress), out)
    assert (out / CHECKPOINT / checkpoint.FILE).is_file()
    distill(options, given({"teacher": teacher}, STUDENT), out)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


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

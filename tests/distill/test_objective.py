"""What a student minimises: weighted terms between it and its teachers, with what is learned beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgekd import tasks
from edgekd.data import Data, Split
from edgekd.distill import fusion
from edgekd.distill.distill import objective
from edgekd.distill.losses.feature import attention
from edgekd.distill.losses.relation import pkt
from edgekd.distill.losses.response import dkd, kd
from edgekd.distill.objective import Distillation, unique
from edgekd.distill.teachers import Source
from edgekd.document import check_dict
from edgekd.errors import StageError
from edgekd.models import convnet, mlp, resnet
from edgekd.options import Network
from edgekd.stages.distill import Options
from edgekd.training.engine import accelerate
from edgekd.training.objective import Batch, Mixing

TASK = tasks.load("classification")
SAMPLES, CLASSES, SIZE = 12, 10, 6
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(SAMPLES, 1, 8, 8, generator=GENERATOR)
TARGETS = torch.arange(SAMPLES) % CLASSES
SPLIT = Split(IMAGES.numpy(), TARGETS.numpy())
DATA = Data("noise", SPLIT, SPLIT, SPLIT, tuple("abcdefghij"))
FUSIONS = ["mean", "weighted", "entropy", "confidence", "gradient"]


def net(width: int = 4, blocks: Sequence[int] = (1, 1), seed: int = 1, build=convnet.build) -> nn.Module:
    """Return a network whose layers "2" and "5" are its two stages (convnet)."""
    torch.manual_seed(seed)
    return build(input_shape=[1, 8, 8], classes=CLASSES, width=width, blocks=blocks).eval()


def shown(**more: Any) -> Batch:
    batch = Batch(IMAGES[:SIZE], TARGETS[:SIZE], torch.arange(SIZE))
    return Batch(**{**vars(batch), **more})


def goal(
    student: nn.Module,
    teachers: Sequence[nn.Module],
    *losses: Any,
    names: Sequence[str] = (),
    smoothing: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Distillation:
    """Return the objective of a student with live teachers."""
    named = names or (["teacher"] if len(teachers) == 1 else [f"t{index}" for index in range(len(teachers))])
    asked = [Source(name, teacher, IMAGES[:2]) for name, teacher in zip(named, teachers, strict=True)]
    training = Network(model="convnet", label_smoothing=smoothing)
    checked = check_dict({"losses": list(losses), **options}, Options, "distill")
    engine = accelerate("cpu", "fp32")
    return objective(checked, student, asked, DATA, TASK, training, accelerator=engine, seed=seed)


def terms(student: nn.Module, made: Distillation, batch: Batch | None = None) -> dict[str, Tensor]:
    batch = batch or shown()
    return made(student(batch.inputs), batch)


def at(model: nn.Module, layer: int, inputs: Tensor = IMAGES[:SIZE]) -> Tensor:
    """Return what a layer of a convnet gives."""
    return model[: layer + 1](inputs)


# ---- terms


def test_each_term_is_its_weight_times_its_loss():
    student, teacher = net(), net(seed=2)
    made = goal(
        student, [teacher], {"kd": {"temperature": 3, "weight": 0.5}}, {"dkd": {"weight": 2, "beta": 3}}, "at", "pkt",
        labels=0.25, smoothing=0.1,
    )  # fmt: skip
    found = terms(student, made)
    outputs, answers = student(IMAGES[:SIZE]), teacher(IMAGES[:SIZE])
    expected = {
        "labels": 0.25 * cross_entropy(outputs, TARGETS[:SIZE], label_smoothing=0.1),
        "kd": 0.5 * kd(outputs, answers, temperature=3.0),
        "dkd": 2 * dkd(outputs, answers, targets=TARGETS[:SIZE], beta=3.0),
        "attention": 1000 * attention(at(student, 5), at(teacher, 5)),  # the last map
        "pkt": 30000 * pkt(at(student, 7), at(teacher, 7)),  # what the last linear layer is given
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_labels_weight_of_0_is_no_term_and_never_looks_at_them():
    student = net()
    made = goal(student, [net(seed=2)], "kd", labels=0)
    assert terms(student, made, shown(targets=torch.full((SIZE,), -1000))).keys() == {"kd"}


def test_without_losses_no_teacher_is_asked():
    student, teacher = net(), net(seed=2)
    teacher.register_forward_hook(lambda *_: pytest.fail("the teacher was asked"))
    assert terms(student, goal(student, [teacher])).keys() == {"labels"}


def test_weights_follow_the_progress_of_the_training():
    student = net()
    warm = {"kd": {"weight": 2, "schedule": "warmup", "over": 0.5}}
    made = goal(student, [net(seed=2)], warm, {"logit_mse": {"schedule": "cosine", "weight": 3}}, {"at": {"weight": 1}})
    whole = terms(student, goal(student, [net(seed=2)], {"kd": {"weight": 2}}, {"logit_mse": {"weight": 3}}, "at"))
    for progress, kd_part, mse_part in (
        (0.0, 0.0, 1.0),
        (0.25, 0.5, 0.5 + 0.5**1.5),
        (0.5, 1.0, 0.5),
        (0.75, 1.0, None),
    ):
        found = terms(student, made, shown(progress=progress))
        torch.testing.assert_close(found["kd"], kd_part * whole["kd"])
        if mse_part is not None:
            torch.testing.assert_close(found["logit_mse"], mse_part * whole["logit_mse"])
        torch.testing.assert_close(1000 * found["attention"], whole["attention"])


def test_the_losses_of_several_pairs_of_layers_are_summed():
    student, teacher = net(), net(seed=2)
    pairs = [{"student": str(layer), "teacher": str(layer)} for layer in (2, 5)]
    found = terms(student, goal(student, [teacher], {"at": {"layers": pairs, "weight": 1}}))
    expected = sum(attention(at(student, layer), at(teacher, layer)) for layer in (2, 5))
    torch.testing.assert_close(found["attention"], expected)


def test_a_loss_that_is_there_twice_is_two_terms():
    student, teacher = net(), net(seed=2)
    written = [{"at": {"layers": {"student": layer, "teacher": layer}, "weight": 1}} for layer in ("2", "5")]
    found = terms(student, goal(student, [teacher], *written, "kd"))
    torch.testing.assert_close(found["attention"], attention(at(student, 2), at(teacher, 2)))
    torch.testing.assert_close(found["attention-2"], attention(at(student, 5), at(teacher, 5)))
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]


def test_mixed_batches_mix_the_labels_losses():
    student = net()
    partner = torch.arange(SIZE).roll(1)
    found = terms(student, goal(student, [net(seed=2)], "kd"), shown(mixing=Mixing(partner, 0.7)))
    outputs, targets = student(IMAGES[:SIZE]), TARGETS[:SIZE]
    expected = 0.7 * cross_entropy(outputs, targets) + 0.3 * cross_entropy(outputs, targets[partner])
    torch.testing.assert_close(found["labels"], 0.1 * expected)


# ---- what is learned beside the student


def test_an_adapter_is_made_where_shapes_differ_and_only_there():
    def parameters(width: int, blocks: Sequence[int], *losses: Any) -> list[tuple[int, ...]]:
        student = net(width, blocks)
        made = goal(student, [net(seed=2)], *losses)
        return [tuple(parameter.shape) for parameter in made.parameters()]

    assert parameters(4, (1, 1), "hint", "mmd", "kd") == []
    assert parameters(2, (1, 1), "hint") == [(8, 4, 1, 1), (8,)]  # 4 channels become 8
    assert parameters(2, (1, 1), "attention", "nst", "sp") == []  # these compare any widths
    assert parameters(8, (1,), "hint") == [(8, 8, 1, 1), (8,)]  # as many channels, another size


def test_an_adapter_maps_the_student_and_learns():
    student, teacher = net(2), net(seed=2)
    made = goal(student, [teacher], {"hint": {"weight": 1}}, labels=0)
    found = terms(student, made)["hint"]
    bridge = made.features["hint"][0].parts[0]
    torch.testing.assert_close(found, mse_loss(bridge(at(student, 5)), at(teacher, 5)))
    found.backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in made.parameters())
    assert float(student[0].weight.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())


def test_adapters_start_from_the_seed_whatever_was_drawn_before():
    def start(seed: int, drawn: int) -> Tensor:
        student, teacher = net(2), net(seed=2)
        torch.manual_seed(drawn)
        return next(goal(student, [teacher], "hint", seed=seed).parameters()).detach()

    assert torch.equal(start(1, 5), start(1, 6))
    assert not torch.equal(start(1, 5), start(2, 5))


def test_the_gradient_of_answers_reaches_the_student_alone():
    student, teacher = net(), net(seed=2)
    made = goal(student, [teacher], "kd", "dist", "dkd")
    inputs = IMAGES[:SIZE].clone().requires_grad_(True)
    outputs = student(inputs.detach())
    sum(made(outputs, shown(inputs=inputs)).values()).backward()
    assert float(student[0].weight.grad.abs().sum()) > 0
    assert inputs.grad is None  # through the teacher


@pytest.mark.parametrize("name", ["vid", "infonce", "crd", "reviewkd"])
def test_what_a_loss_learns_of_its_own_is_part_of_the_objective_and_not_of_the_student(name):
    student, teacher = net(2), net(seed=2)
    before = set(student.state_dict())
    made = goal(student, [teacher], name, labels=0)
    found = terms(student, made.train())[name]
    found.backward()
    assert bool(torch.isfinite(found))
    learned = dict(made.named_parameters())
    assert learned
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in learned.values())
    assert float(student[0].weight.grad.abs().sum()) > 0
    assert set(student.state_dict()) == before


def test_several_pairs_go_to_reviewkd_at_once():
    student, teacher = net(2), net(seed=2)
    pairs = [{"student": str(layer), "teacher": str(layer)} for layer in (2, 5)]
    made = goal(student, [teacher], {"reviewkd": {"layers": pairs, "channels": 5}})
    (review,) = made.features["reviewkd"][0].parts
    assert len(review.fusions) == 2
    assert bool(torch.isfinite(terms(student, made)["reviewkd"]))


def test_crd_remembers_the_samples_it_saw_by_their_place_in_the_training_split():
    student = net()
    made = goal(student, [net(seed=2)], "crd")
    memory = made.features["crd"][0].parts[0]
    assert memory.student_memory.shape[0] == SAMPLES
    before = memory.student_memory.clone()
    seen = torch.tensor([3, 7])
    batch = Batch(IMAGES[seen], TARGETS[seen], seen)
    terms(student, made.eval(), batch)
    assert torch.equal(memory.student_memory, before)
    terms(student, made.train(), batch)
    changed = (memory.student_memory != before).any(1).nonzero().flatten()
    assert changed.tolist() == [3, 7]
    assert {"student_memory", "teacher_memory"} <= {name.rpartition(".")[2] for name in made.state_dict()}


def test_closed_the_student_is_as_it_was():
    student = net()
    made = goal(student, [net(seed=2)], "at", "hint")
    assert any(module._forward_hooks for module in student.modules())
    made.close()
    assert not any(module._forward_hooks for module in student.modules())


# ---- several teachers


@pytest.mark.parametrize("way", FUSIONS)
@pytest.mark.parametrize("count", [2, 3])
def test_equal_teachers_are_one_teacher(way, count):
    losses = [{"kd": {"temperature": 3}}, "dkd", "logit_mse", "hint", "at", "sp", "rkd_angle"]
    student = net()
    one = terms(student, goal(student, [net(seed=2)], *losses))
    shares = {"shares": {f"t{index}": index + 1 for index in range(count)}} if way == "weighted" else {}
    made = goal(student, [net(seed=2) for _ in range(count)], *losses, fusion=way, **shares)
    several = terms(student, made)
    assert list(several) == list(one)
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-4, atol=1e-5, msg=name)


def weights_of(way: str, answers: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    match way:
        case "mean":
            return fusion.mean(answers)
        case "weighted":
            return fusion.weighted(answers, [3.0, 1.0])
        case "entropy":
            return fusion.entropy(answers)
        case "confidence":
            wrong = torch.stack([cross_entropy(one, TARGETS[:SIZE], reduction="none") for one in answers])
            return fusion.confidence(answers, wrong)
        case _:
            return fusion.gradient(answers, outputs, temperature)


@pytest.mark.parametrize("way", FUSIONS)
def test_teachers_are_mixed_at_the_temperature_of_the_term_and_features_by_the_same_weights(way):
    student, teachers = net(), [net(seed=2), net(seed=3, width=6)]
    shares = {"shares": {"t1": 1, "t0": 3}} if way == "weighted" else {}
    made = goal(student, teachers, {"kd": {"temperature": 5, "weight": 1}}, {"at": {"weight": 1}}, fusion=way, **shares)
    found = terms(student, made)
    inputs = IMAGES[:SIZE]
    outputs, answers = student(inputs), torch.stack([teacher(inputs) for teacher in teachers]).detach()
    mixed = fusion.fused(answers, weights_of(way, answers, outputs, 5.0), 5.0)
    torch.testing.assert_close(found["kd"], kd(outputs, mixed, temperature=5.0))
    each = torch.stack([attention(at(student, 5), at(teacher, 5), reduction="none") for teacher in teachers])
    expected = (weights_of(way, answers, outputs, 1.0) * each).sum(0).mean()
    torch.testing.assert_close(found["attention"], expected)


def test_confidence_in_a_mixed_batch_is_about_both_labels():
    student, teachers = net(), [net(seed=2), net(seed=3)]
    partner = torch.arange(SIZE).roll(1)
    found = terms(
        student, goal(student, teachers, {"kd": {"weight": 1}}, fusion="confidence"), shown(mixing=Mixing(partner, 0.7))
    )
    answers = torch.stack([teacher(IMAGES[:SIZE]) for teacher in teachers]).detach()
    own, others = (
        torch.stack([cross_entropy(one, labels, reduction="none") for one in answers])
        for labels in (TARGETS[:SIZE], TARGETS[:SIZE][partner])
    )
    mixed = fusion.fused(answers, fusion.confidence(answers, 0.7 * own + 0.3 * others), 4.0)
    torch.testing.assert_close(found["kd"], kd(student(IMAGES[:SIZE]), mixed))


def test_teachers_of_other_kinds_each_have_their_usual_layer():
    student = net()
    teachers = [net(seed=2), net(seed=3, build=resnet.build), net(seed=4, blocks=(1, 1, 1))]
    made = goal(student, teachers, {"at": {"weight": 1}})
    each = [attention(at(student, 5), at(teachers[0], 5))]
    each += [attention(at(student, 5), teachers[1].stages(teachers[1].stem(IMAGES[:SIZE])))]
    each += [attention(at(student, 5), at(teachers[2], 8))]
    torch.testing.assert_close(terms(student, made)["attention"], sum(each) / 3)


# ---- what does not fit


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"at": {"layers": {"student": "4x", "teacher": "5"}}}, "the student has no layer '4x'"),
        ({"at": {"layers": {"student": "5", "teacher": "head"}}}, "the teacher has no layer 'head'"),
        (
            {"hint": {"layers": {"student": "8:input", "teacher": "5"}}},
            "hint on student 8:input, teacher 5: no adapter from the student's features (8,) to the teacher's (8, 4",
        ),
        ({"vid": {"layers": {"student": "8", "teacher": "5"}}}, "vid on student 8, teacher 5: vid needs two maps"),
    ],
)
def test_layers_that_are_not_there_or_do_not_fit(loss, told):
    with pytest.raises(StageError) as error:
        goal(net(), [net(seed=2)], loss)
    assert str(error.value).startswith("distill.losses: ")
    assert told in str(error.value)


def test_which_of_several_teachers_has_no_such_layer_is_told():
    loss = {"at": {"layers": {"student": "5", "teacher": "5"}}}
    with pytest.raises(StageError, match="the teacher res has no layer '5'"):
        goal(net(), [net(seed=2), net(seed=3, build=resnet.build)], loss, names=["conv", "res"])


def test_a_network_without_maps_has_none_to_attend_to():
    torch.manual_seed(0)
    student = mlp.build(input_shape=[1, 8, 8], classes=CLASSES, widths=[8]).eval()
    made = goal(student, [net(seed=2)], "attention")
    with pytest.raises(ValueError, match="attention needs"):
        terms(student, made)
    assert np.isfinite(terms(student, goal(student, [net(seed=2)], "pkt"))["pkt"].item())

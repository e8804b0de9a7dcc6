"""The distill stage's work, and the objective that later stages fine-tune with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import tasks
from edgekd.data import Data
from edgekd.distill.correcting import correct
from edgekd.distill.layers import Layer, layers, shapes
from edgekd.distill.objective import Distillation, Wanted, wanted_layers
from edgekd.distill.teachers import Source, opened, sources
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options
from edgekd.tasks import Task
from edgekd.terms import Pair
from edgekd.training import networks
from edgekd.training.blackbox import BlackBox
from edgekd.training.engine import accelerate, mixed, seed_everything
from edgekd.training.evaluation import evaluate
from edgekd.training.feeding import samples_of
from edgekd.training.loop import fit

ADAPTERS = 7
"""Tells the seed of what is learned beside the student from other seeds."""


def distill(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the student with its teachers."""
    student: Network = inputs.blocks["student"]
    data = datasets.of(inputs)
    description = networks.describe(student, data)
    model = networks.build(student, description, inputs.seed)
    networks.check_outputs(model, data, inputs.variant or "student")
    facts = learn(model, options, sources(inputs.artifacts), student, data, inputs, out)
    return networks.store(out, description, model, facts)


def learn(
    model: nn.Module,
    options: Options,
    teachers: Sequence[Source],
    training: Network,
    data: Data,
    inputs: Inputs,
    out: Path,
    *,
    last_bias: Tensor | None = None,
) -> dict[str, Any]:
    """Train a network in place with teachers, and return the facts of the training.

    Args:
        last_bias: that of the outputs, where the network is a graph that has no named layers.
    """
    task, accelerator = tasks.load(inputs.task), accelerate(inputs.compute, training.precision)
    goal = objective(options, model, teachers, data, task, training, accelerator=accelerator, seed=inputs.seed)
    facts = fit(
        model, goal, data, task, training,
        accelerator=accelerator, seed=inputs.seed, view_seed=inputs.data_seed, out=out, progress=inputs.progress,
        judged=inputs.judged,
    )  # fmt: skip
    goal.close()
    if inputs.data.omit:
        facts["bias_correction"] = correct(model, data, inputs.data.omit, task, last_bias)
        facts["validation"] = evaluate(model, data.validation, task, accelerate("cpu", "fp32"), divided=False)
    return facts


def objective(
    options: Options,
    model: nn.Module,
    teachers: Sequence[Source],
    data: Data,
    task: Task,
    training: Network,
    *,
    accelerator: Accelerator,
    seed: int,
) -> Distillation:
    """Return what a student minimises: labels and teachers, who see the student's view.

    Args:
        model: the student, on the CPU.
        teachers: not looked at where no loss asks them.

    Raises:
        StageError: a layer does not exist, features are asked of a black box, or no adapter bridges two shapes.
    """
    asked = list(teachers) if options.terms() else []
    looked = any(term.loss.on == "features" for term in options.terms())
    own = layers(model, samples_of(data.train.inputs, 2)) if looked else []
    others = [_looked_into(teacher) if looked else [] for teacher in asked]
    lessons = [wanted_layers(options, own, found, of.role) for of, found in zip(asked, others, strict=True)]
    sizes = [shapes(own, [pair.student for each in lessons for pair in _pairs(each)], "student")]
    asking = []
    for teacher, found, lesson in zip(asked, others, lessons, strict=True):
        sizes.append(shapes(found, [pair.teacher for pair in _pairs(lesson)], teacher.role))
        asking.append(opened(teacher, list(sizes[-1]), accelerator))
    seed_everything(mixed(seed, ADAPTERS), torch.device("cpu"))
    return Distillation(
        options, model, asking, lessons, sizes, task, samples=len(data.train), label_smoothing=training.label_smoothing
    )


def _pairs(lesson: Sequence[Wanted]) -> list[Pair]:
    return [pair for one in lesson for pair in one.pairs]


def _looked_into(teacher: Source) -> list[Layer]:
    """Return a teacher's layers.

    Raises:
        StageError: it is a black box.
    """
    if isinstance(teacher.model, BlackBox):
        raise StageError(
            f"distill.losses: the {teacher.role} is an ONNX file, of which only the answers are known: it has no "
            "features"
        )
    assert teacher.model is not None  # answers are kept only where no loss looks into the teacher
    return layers(teacher.model, teacher.example)

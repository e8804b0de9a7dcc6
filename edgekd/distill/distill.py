"""The distill stage's work, and the objective that later stages fine-tune with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.distill.losses.response import kd
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options
from edgekd.tasks import Task
from edgekd.training import networks
from edgekd.training.loop import Objective, accelerate, fit, to_layout


def distill(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the student with the teacher."""
    student: Network = inputs.blocks["student"]
    data, task = datasets.of(inputs), tasks.load(inputs.task)
    description = networks.describe(student, data)
    model = networks.build(student, description, inputs.seed)
    networks.check_outputs(model, data, "student")
    goal = objective(options, inputs, task, student)
    facts = fit(
        model, goal, data, task, student,
        seed=inputs.seed, compute=inputs.compute, out=out, progress=inputs.progress,
    )  # fmt: skip
    return networks.store(out, description, model, facts)


def objective(options: Options, inputs: Inputs, task: Task, training: Network) -> Objective:
    """Return (1 - alpha) * task loss + alpha * T^2 KL against the artifact "teacher", which sees the student's view."""

    def labels(outputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = task.loss(outputs, targets, label_smoothing=training.label_smoothing)
        return loss

    if options.alpha == 0:
        return lambda outputs, _, targets: labels(outputs, targets)
    alpha, temperature = options.alpha, options.temperature
    engine = accelerate(inputs.compute, training.precision)
    teacher = frozen(models.load(inputs.artifacts["teacher"].path)).to(engine.device)
    dimensions = 1 + len(models.describe(inputs.artifacts["teacher"].path).input_shape)
    to_layout(teacher, dimensions)

    def combined(outputs: Tensor, shown: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), engine.autocast():
            answers = teacher(shown)
        return (1 - alpha) * labels(outputs, targets) + alpha * kd(outputs, answers, temperature=temperature)

    return combined


def frozen(model: nn.Module) -> nn.Module:
    """Return a module in evaluation mode whose parameters take no gradient."""
    return model.eval().requires_grad_(False)

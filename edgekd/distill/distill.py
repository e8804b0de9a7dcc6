"""The distill stage's work, and the objective that later stages fine-tune with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.artifact import Artifact
from edgekd.distill.losses.response import kd
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options
from edgekd.tasks import Task
from edgekd.training import networks
from edgekd.training.engine import accelerate, lay_out, place
from edgekd.training.loop import Objective, fit


def distill(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the student with the teacher."""
    student: Network = inputs.blocks["student"]
    data, task = datasets.of(inputs), tasks.load(inputs.task)
    description = networks.describe(student, data)
    model = networks.build(student, description, inputs.seed)
    networks.check_outputs(model, data, "student")
    accelerator = accelerate(inputs.compute, student.precision)
    goal = objective(options, inputs.artifacts["teacher"], task, student, accelerator)
    facts = fit(
        model, goal, data, task, student,
        accelerator=accelerator, seed=inputs.seed, out=out, progress=inputs.progress,
    )  # fmt: skip
    return networks.store(out, description, model, facts)


def objective(
    options: Options, teacher: Artifact, task: Task, training: Network, accelerator: Accelerator
) -> Objective:
    """Return (1 - alpha) * task loss + alpha * T^2 KL against a stored teacher, which sees the student's view.

    The teacher is not loaded where alpha is 0, and the labels are not looked at where it is 1.
    """

    def labels(outputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = task.loss(outputs, targets, label_smoothing=training.label_smoothing)
        return loss

    alpha, temperature = options.alpha, options.temperature
    if alpha == 0:
        return lambda outputs, _, targets: labels(outputs, targets)
    answers = _answers(teacher, accelerator)

    def combined(outputs: Tensor, shown: Tensor, targets: Tensor) -> Tensor:
        imitation = kd(outputs, answers(shown), temperature=temperature)
        return imitation if alpha == 1 else (1 - alpha) * labels(outputs, targets) + alpha * imitation

    return combined


def frozen(model: nn.Module) -> nn.Module:
    """Return a module in evaluation mode whose parameters take no gradient."""
    return model.eval().requires_grad_(False)


def _answers(teacher: Artifact, accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    """Return the function from inputs (B, ...) to the answers of a stored network, which never changes."""
    model = frozen(models.load(teacher.path))
    layout = lay_out(model, models.example(models.describe(teacher.path).input_shape))
    model = place(model, accelerator.device, layout)

    def answer(shown: Tensor) -> Tensor:
        with torch.no_grad(), accelerator.autocast():
            answers: Tensor = model(shown.contiguous(memory_format=layout))
        return answers

    return answer

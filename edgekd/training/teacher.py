"""The teacher stage's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd import data as datasets
from edgekd import tasks
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.training import networks
from edgekd.training.loop import accelerate, evaluate, fit


def train(options: Network, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the teacher on the labels, or take the weights that are given."""
    data, task = datasets.of(inputs), tasks.load(inputs.task)
    description = networks.describe(options, data)
    model = networks.build(options, description, inputs.seed)
    networks.check_outputs(model, data, "teacher")

    def objective(outputs: Tensor, _: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = task.loss(outputs, targets, label_smoothing=options.label_smoothing)
        return loss

    if options.epochs:
        facts = fit(
            model, objective, data, task, options,
            seed=inputs.seed, compute=inputs.compute, out=out, progress=inputs.progress,
        )  # fmt: skip
    else:
        facts = {"validation": evaluate(model, data.validation, task, accelerate("cpu", "fp32"))}
    return networks.store(out, description, model, facts)

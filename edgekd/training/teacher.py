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
from edgekd.training.engine import accelerate
from edgekd.training.loop import fit


def train(options: Network, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the teacher on the labels, or take the weights that are given."""
    data, task = datasets.of(inputs), tasks.load(inputs.task)
    description = networks.describe(options, data)
    model = networks.build(options, description, inputs.seed)
    networks.check_outputs(model, data, "teacher")

    def objective(outputs: Tensor, _: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = task.loss(outputs, targets, label_smoothing=options.label_smoothing)
        return loss

    facts = fit(
        model, objective, data, task, options,
        accelerator=accelerate(inputs.compute, options.precision), seed=inputs.seed, out=out, progress=inputs.progress,
    )  # fmt: skip
    return networks.store(out, description, model, facts)

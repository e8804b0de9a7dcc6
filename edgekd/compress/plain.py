"""The plainly trained network of a shape: the student, cut before it has learned anything, on the labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import data as datasets
from edgekd.compress import channels, depth
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.baseline import Options
from edgekd.stages.prune import Options as Pruning
from edgekd.training import networks
from edgekd.training.teacher import on_labels


def train(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train a network of the shape that an explicit pruning has, on the labels alone.

    Its layers are initialised as those of a network of their own sizes are, not as parts of larger ones.
    """
    del options
    student: Network = inputs.blocks["student"]
    shape: Pruning = inputs.blocks["prune"]
    data = datasets.of(inputs)
    description = networks.describe(student, data)
    model = networks.build(student, description, inputs.seed)
    if shape.blocks:
        untouched = channels.excluded(model, shape.exclude)
        removed = depth.named(model, shape.blocks, description.input_shape, untouched)
        depth.remove(model, removed)
        description = description.edited({"edit": "depth", "removed": removed})
    history = channels.remove(model, shape, description.input_shape) if shape.widths else []
    if history:
        description = description.edited({"edit": "pruning", "history": history})
    networks.start_again(model, inputs.seed)
    return on_labels(model, description, student, data, inputs, out)

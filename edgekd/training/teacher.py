"""The teacher stage's work, and that of the student who has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from torch import nn

from edgekd import data as datasets
from edgekd import tasks
from edgekd.data import Data
from edgekd.graph.lint import inspect, read
from edgekd.models import Description
from edgekd.options import Network, Teacher
from edgekd.stage import Inputs
from edgekd.stages.baseline import Options as Baseline
from edgekd.training import networks, ranks
from edgekd.training.blackbox import FILE, BlackBox
from edgekd.training.engine import accelerate
from edgekd.training.evaluation import evaluate
from edgekd.training.loop import fit
from edgekd.training.objective import Labels


def train(options: Teacher, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the teacher on the labels, or take the weights or the ONNX file that are given."""
    data = datasets.of(inputs)
    if options.onnx is not None:
        return _adopt(options.onnx, data, inputs, out)
    return _on_labels(options, data, inputs, out)


def train_baseline(options: Baseline, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Train the student on the labels alone: what distillation is compared with."""
    del options
    return _on_labels(inputs.blocks["student"], datasets.of(inputs), inputs, out)


def _on_labels(network: Network, data: Data, inputs: Inputs, out: Path) -> dict[str, Any]:
    description = networks.describe(network, data)
    return on_labels(networks.build(network, description, inputs.seed), description, network, data, inputs, out)


def on_labels(
    model: nn.Module, description: Description, training: Network, data: Data, inputs: Inputs, out: Path
) -> dict[str, Any]:
    """Train a network on the labels alone, and store it."""
    task = tasks.load(inputs.task)
    networks.check_outputs(model, data, inputs.variant)
    facts = fit(
        model, Labels(task, label_smoothing=training.label_smoothing), data, task, training,
        accelerator=accelerate(inputs.compute, training.precision), seed=inputs.seed, view_seed=inputs.data_seed,
        out=out, progress=inputs.progress, judged=inputs.judged,
    )  # fmt: skip
    return networks.store(out, description, model, facts)


def _adopt(path: Path, data: Data, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Take an ONNX file as it is.

    Raises:
        StageError: it does not answer the data with one row of finite numbers per sample, one for each class.
    """
    model = BlackBox(path)
    networks.check_outputs(model, data, inputs.variant)
    graph = inspect(path)
    score = evaluate(model, data.validation, tasks.load(inputs.task), accelerate("cpu", "fp32"))
    if ranks.world()[0] == 0:
        onnx.save(read(path), str(out / FILE))  # with what lay in other files
    return {
        "input_shape": list(data.train.inputs.shape[1:]),
        "validation": score,
        "precision": "as exported",
        "parameters": graph.parameters,
        "macs": graph.macs,
        "source": path.name,
    }

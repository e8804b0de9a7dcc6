"""Structured pruning: whole channels, through the dependency graph of the network (DepGraph, arXiv:2301.12900)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch_pruning
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.distill.distill import objective
from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options
from edgekd.training import networks
from edgekd.training.loop import fit


def prune(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Remove channels by group magnitude, then fine-tune with the teacher.

    Raises:
        StageError: nothing could be removed, or a layer to exclude does not exist.
    """
    base: Network = inputs.blocks["student"] or inputs.blocks["teacher"]
    data, task = datasets.of(inputs), tasks.load(inputs.task)
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    model = models.load(source.path)
    before = networks.profile(model, description.input_shape)
    history = remove_channels(model, options, description.input_shape)
    after = networks.profile(model, description.input_shape)
    if after["parameters"] == before["parameters"]:
        raise StageError(
            f"prune: no channel was removed: with round_to {options.round_to}, ratio {options.ratio:g} is too small "
            "for layers this narrow; lower round_to, raise ratio, or switch pruning off (prune: false)"
        )
    training = base.model_copy(
        update={"epochs": options.epochs, "learning_rate": options.learning_rate or base.learning_rate / 3}
    )
    teaching = inputs.blocks["distill"] or Distillation()
    facts = fit(
        model, objective(teaching, inputs, task, training), data, task, training,
        seed=inputs.seed, compute=inputs.compute, out=out, progress=inputs.progress,
    )  # fmt: skip
    edit = {"edit": "pruning", "history": history}
    return networks.store(out, description.edited(edit), model, {**facts, "before": before})


def remove_channels(model: nn.Module, options: Options, input_shape: tuple[int, ...]) -> list[list[Any]]:
    """Remove channels of a model in place.

    Returns:
        The history that `restore` replays: [layer, whether outputs were removed, channel indices] in order.

    Raises:
        StageError: an excluded layer does not exist.
    """
    layers = dict(model.named_modules())
    unknown = [name for name in options.exclude if name not in layers]
    if unknown:
        raise StageError(f"prune: no layer {unknown[0]!r} to exclude{suggest(unknown[0], layers)}")
    outputs = [module for module in layers.values() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        models.example(input_shape),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=options.ratio,
        global_pruning=options.scope == "global",
        round_to=options.round_to,
        ignored_layers=[*outputs, *(layers[name] for name in options.exclude)],
    )
    pruner.step()
    return [[name, out, [int(i) for i in indices]] for name, out, indices in pruner.pruning_history()]


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, _state: dict[str, Tensor]) -> nn.Module:
    """Replay a pruning edit on the network as its factory makes it."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    graph.load_pruning_history([(name, out, indices) for name, out, indices in edit["history"]])
    return model

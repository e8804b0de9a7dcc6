"""Structured pruning: whole channels, through the dependency graph of the network (DepGraph, arXiv:2301.12900).

Torch-Pruning finds which channels hang together (a convolution's outputs, its normalisation, the inputs of whatever
reads them, both sides of a residual addition) and cuts them. How many go is decided here, because its own rounding
is downwards always: of 16 channels at a ratio of 0.25 and multiples of 8 it keeps 8.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import DependencyGraph
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from edgekd import data as datasets
from edgekd import models
from edgekd.distill.distill import learn
from edgekd.distill.teachers import sources
from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options
from edgekd.training import networks

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
"""What a network or the tracing of it may raise where it is not made for fewer channels."""


def prune(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Remove channels by group magnitude, then fine-tune with the teacher.

    Raises:
        StageError: nothing could be removed, a layer to exclude does not exist, or the network does not work without
            the channels.
    """
    base: Network = inputs.blocks["student"] or inputs.blocks["teacher"]
    data = datasets.of(inputs)
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    model = models.load(source.path)
    before = networks.profile(model, description.input_shape)
    history = remove_channels(model, options, description.input_shape)
    training = base.model_copy(
        update={"epochs": options.epochs, "learning_rate": options.learning_rate or base.learning_rate / 3}
    )
    teaching = inputs.blocks["distill"] or Distillation()
    facts = learn(model, teaching, sources(inputs.artifacts), training, data, inputs, out)
    edit = {"edit": "pruning", "history": history}
    return networks.store(out, description.edited(edit), model, {**facts, "before": before})


@dataclass(frozen=True)
class Group:
    """Channels that can only go together.

    Args:
        name: of the layer whose outputs they are.
        cut: Torch-Pruning's function that removes outputs of such a layer.
        sections: equal parts (of a grouped convolution) that must stay of equal size.
        importance: of each channel of a section, (channels / sections,), with a mean of 1.
    """

    name: str
    layer: nn.Module
    cut: Any
    sections: int
    importance: Tensor

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.sections * len(self.importance)


def remove_channels(model: nn.Module, options: Options, input_shape: tuple[int, ...]) -> list[list[Any]]:
    """Remove channels of a model in place.

    Returns:
        The history that `restore` replays: [layer, whether outputs were removed, channel indices] in order.

    Raises:
        StageError: an excluded layer does not exist, nothing is to be removed, or the network does not work without
            the channels.
    """
    example = models.example(input_shape)
    graph = _trace(model, example)
    found = list(_groups(graph, _excluded(model, options.exclude)))
    shares = _shares(found, options)
    kept = [_kept(group, share, options.round_to) for group, share in zip(found, shares, strict=True)]
    if all(keep == group.channels for group, keep in zip(found, kept, strict=True)):
        raise StageError(
            f"prune: no channel is to go: to the nearest multiple of {options.round_to} (round_to), a ratio of "
            f"{options.ratio:g} leaves every layer as it is; raise ratio, lower round_to, or switch pruning off "
            "(prune: false)"
        )
    outputs = model(example).shape
    for group, keep in zip(found, kept, strict=True):
        if keep < group.channels:
            _cut(graph, group, _least(group, group.channels - keep))
    _check_works(model, example, outputs)
    return [[name, out, [int(i) for i in indices]] for name, out, indices in graph.pruning_history()]


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, _state: dict[str, Tensor]) -> nn.Module:
    """Replay a pruning edit on the network as its factory makes it.

    Raises:
        StageError: the edit does not fit the network.
    """
    graph = _trace(model, example)
    try:
        graph.load_pruning_history([(name, out, indices) for name, out, indices in edit["history"]])
    except FAILURES as error:
        raise StageError(f"the channels to remove ({models.DESCRIPTION}) do not fit the network: {error}") from error
    return model


def _excluded(model: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    """Return the layers of these names with all that is in them."""
    layers = dict(model.named_modules())
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise StageError(f"prune: no layer {unknown[0]!r} to exclude{suggest(unknown[0], layers)}")
    return {module for name in names for module in layers[name].modules()}


def _trace(model: nn.Module, example: Tensor) -> Any:
    """Return the dependency graph of a model.

    Raises:
        StageError: it cannot be followed, or has parameters outside of its layers, whose channels would be guessed.
    """
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("error", category=UserWarning, module="torch_pruning")
            return DependencyGraph().build_dependency(model, example.clone().requires_grad_())
    except (*FAILURES, UserWarning) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StageError(
            f"prune: the structure of the network cannot be followed: {reason}; switch pruning off (prune: false)"
        ) from error


def _groups(graph: Any, excluded: set[nn.Module]) -> Iterator[Group]:
    """Yield the groups of channels that may be cut: not those that are the network's outputs, nor excluded ones."""
    for group in graph.get_all_groups(root_module_types=[*CONVOLUTIONS, nn.Linear]):
        giving = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        if any(node.module in excluded or not node.outputs for node in giving):
            continue
        root = group[0].dep
        name = graph._module2name[root.target.module]
        try:
            importance = GroupMagnitudeImportance(p=2)(group)
        except FAILURES as error:
            raise StageError(f"prune: the channels of {name} cannot be ranked: {error}; {_remedy(name)}") from error
        sections = max(_sections(dep.target.module) for dep, _ in group)
        yield Group(name, root.target.module, root.handler, sections, importance.view(sections, -1).mean(0))


def _sections(module: nn.Module) -> int:
    """Return into how many parts of equal size a layer divides its channels; a depthwise convolution has no parts."""
    if isinstance(module, CONVOLUTIONS):
        return 1 if module.groups == module.out_channels else int(module.groups)
    return int(module.num_groups) if isinstance(module, nn.GroupNorm) else 1


def _shares(groups: Sequence[Group], options: Options) -> list[float]:
    """Return the part of each group that should stay."""
    if options.scope == "uniform" or not groups:
        return [1 - options.ratio] * len(groups)
    ranked = torch.cat([group.importance.repeat(group.sections) for group in groups]).sort().values
    threshold = ranked[min(len(ranked) - 1, round(options.ratio * len(ranked)))]
    return [float((group.importance >= threshold).double().mean()) for group in groups]


def _kept(group: Group, share: float, round_to: int) -> int:
    """Return how many channels of a group stay.

    The number nearest to the share among the multiples of `round_to` and all of them; of two equally near ones the
    larger. A grouped convolution keeps a number that its groups divide.
    """
    multiple = math.lcm(round_to, group.sections)
    possible: list[int] = [*range(multiple, group.channels, multiple), group.channels]
    wanted = share * group.channels
    ranked = sorted((round(abs(count - wanted), 6), -count) for count in possible)
    return -ranked[0][1]


def _least(group: Group, count: int) -> list[int]:
    """Return the indices of the least important channels, the same ones of each section."""
    size = group.channels // group.sections
    least = group.importance.argsort(stable=True)[: count // group.sections].tolist()
    return sorted(section * size + index for section in range(group.sections) for index in least)


def _cut(graph: Any, group: Group, indices: list[int]) -> None:
    """Remove channels of a group.

    Raises:
        StageError: others would have to go with them, or a layer cannot do without some of its channels.
    """
    try:
        coupled = graph.get_pruning_group(group.layer, group.cut, indices)
        if len(coupled[0].idxs) != len(indices):
            raise StageError(
                f"prune: {len(indices)} channels of {group.name} are to go, and {len(coupled[0].idxs)} would, because "
                f"they are used in parts; {_remedy(group.name)}"
            )
        coupled.prune()
    except FAILURES as error:
        raise StageError(f"prune: {group.name} cannot be cut: {error}; {_remedy(group.name)}") from error


def _remedy(name: str) -> str:
    return f"exclude it, such as by --set 'prune.exclude=[\"{name}\"]'"


def _check_works(model: nn.Module, example: Tensor, outputs: torch.Size) -> None:
    """Run the pruned model.

    Raises:
        StageError: it fails, with the layer that does, or its outputs have another shape.
    """
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            shape = model(example).shape
    except FAILURES as error:
        raise StageError(
            f"prune: without the channels the network fails in layer {entered[-1]!r}: {error}; "
            "exclude the layers whose channels it counts on (prune.exclude)"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if shape != outputs:
        raise StageError(f"prune: the network's outputs became {tuple(shape)}, they were {tuple(outputs)}")

"""Whole channels of a network, through its dependency graph (DepGraph: Fang et al. 2023, arXiv:2301.12900).

Torch-Pruning finds which channels hang together (a convolution's outputs, its normalisation, the inputs of whatever
reads them, both sides of a residual addition) and cuts them. How many go is decided here, because its own rounding
is downwards always: of 16 channels at a ratio of 0.25 and multiples of 8 it keeps 8.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning import DependencyGraph
from torch_pruning.pruner import function

from edgekd import models
from edgekd.compress.importance import CONVOLUTIONS, FAILURES, Ranking, magnitude
from edgekd.compress.keeping import WHOLE, Cut, Group, keeping, remedy
from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.stages.prune import Options


def remove(
    model: nn.Module,
    options: Options,
    input_shape: tuple[int, ...],
    rank: Ranking = magnitude,
    cut: Cut = WHOLE,
) -> list[list[Any]]:
    """Remove channels of a model in place.

    Args:
        rank: gives the channels of a group their importance.

    Returns:
        The history that `replay` takes: [layer, whether outputs were removed, channel indices] in order; empty where
        the nearest multiples of `round_to` are what the layers have.

    Raises:
        StageError: an excluded layer does not exist, a layer would lose all of its channels, or the network does not
            work without those that go.
    """
    example = models.example(input_shape)
    graph, found = groups(model, options, input_shape, rank)
    outputs = model(example).shape
    for group, keep in zip(found, keeping(found, options, cut), strict=True):
        if keep < group.channels:
            _cut(graph, group, _least(group, group.channels - keep))
    _check_works(model, example, outputs)
    return [[name, out, [int(i) for i in indices]] for name, out, indices in graph.pruning_history()]


def nothing_goes(options: Options) -> StageError:
    """Return the error to raise where a ratio removes nothing."""
    return StageError(
        f"prune: no channel is to go: to the nearest multiple of {options.round_to} (round_to), a ratio of "
        f"{options.ratio:g} leaves every layer as it is; raise ratio, lower round_to, or switch pruning off "
        "(prune: false)"
    )


def replay(model: nn.Module, history: Sequence[Sequence[Any]], example: Tensor) -> nn.Module:
    """Remove the same channels of a network as its factory makes it.

    Raises:
        StageError: the history does not fit the network.
    """
    graph = trace(model, example)
    try:
        graph.load_pruning_history([(name, out, indices) for name, out, indices in history])
    except FAILURES as error:
        raise StageError(f"the channels to remove ({models.DESCRIPTION}) do not fit the network: {error}") from error
    return model


def excluded(model: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    """Return the layers of these names with all that is in them.

    Raises:
        StageError: there are no such layers; all of them are told.
    """
    layers = dict(model.named_modules())
    unknown = [name for name in names if name not in layers]
    if unknown:
        told = "\n  ".join(f"no layer {name!r} to exclude{suggest(name, layers)}" for name in unknown)
        raise StageError(f"prune: {told}")
    return {module for name in names for module in layers[name].modules()}


def trace(model: nn.Module, example: Tensor) -> Any:
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


def groups(
    model: nn.Module, options: Options, input_shape: tuple[int, ...], rank: Ranking = magnitude
) -> tuple[Any, list[Group]]:
    """Return the dependency graph, and the groups of channels that may be cut.

    Those that are the network's outputs may not, nor excluded ones.

    Raises:
        StageError: an excluded layer does not exist, the network cannot be followed, or channels cannot be ranked.
    """
    untouched = excluded(model, options.exclude)
    graph = trace(model, models.example(input_shape))
    return graph, list(_groups(graph, untouched, rank))


def _groups(graph: Any, untouched: set[nn.Module], rank: Ranking) -> Iterator[Group]:
    for group in graph.get_all_groups(root_module_types=[*CONVOLUTIONS, nn.Linear]):
        giving = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        if any(node.module in untouched or not node.outputs for node in giving):
            continue
        root = group[0].dep
        name = graph._module2name[root.target.module]
        try:
            _refuse_multiplied(graph, group)
            importance = rank(group)
        except FAILURES as error:
            raise StageError(f"prune: the channels of {name} cannot be ranked: {error}; {remedy(name)}") from error
        sections = max(_sections(dep.target.module) for dep, _ in group)
        yield Group(name, root.target.module, root.handler, sections, importance.view(sections, -1).mean(0))


def _refuse_multiplied(graph: Any, group: Any) -> None:
    """Refuse channels that a depthwise convolution makes several outputs of each: without one its parts are unequal.

    Raises:
        ValueError: with the layer.
    """
    for dep, _ in group:
        layer = dep.target.module
        if dep.handler == function.prune_conv_in_channels and 1 < layer.groups == layer.in_channels:
            raise ValueError(
                f"{graph._module2name[layer]} is a depthwise convolution that makes {layer.out_channels} channels of "
                f"{layer.in_channels}"
            )


def _sections(module: nn.Module) -> int:
    """Return into how many parts of equal size a layer divides its channels; a depthwise convolution has no parts."""
    if isinstance(module, CONVOLUTIONS):
        return 1 if module.groups == module.out_channels else int(module.groups)
    return int(module.num_groups) if isinstance(module, nn.GroupNorm) else 1


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
                f"they are used in parts; {remedy(group.name)}"
            )
        coupled.prune()
    except FAILURES as error:
        raise StageError(f"prune: {group.name} cannot be cut: {error}; {remedy(group.name)}") from error


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
        with models.hooked(hooks), torch.no_grad():
            shape = model(example).shape
    except FAILURES as error:
        raise StageError(
            f"prune: without the channels the network fails in layer {entered[-1]!r}: {error}; "
            "exclude the layers whose channels it counts on (prune.exclude)"
        ) from error
    if shape != outputs:
        raise StageError(f"prune: the network's outputs became {tuple(shape)}, they were {tuple(outputs)}")

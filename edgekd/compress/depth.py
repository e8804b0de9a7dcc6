"""Whole residual blocks: finding those that a network can do without, and removing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.document import suggest
from edgekd.errors import StageError

PASSING = frozenset({"Add", "Relu", "LeakyRelu", "Hardtanh", "Hardswish", "Silu", "Gelu", "Elu", "Clone", "Alias"})
"""What autograd calls the operations that a shortcut may lead through: additions, activations, and copies."""


def blocks(model: nn.Module, example: Tensor, untouched: set[nn.Module]) -> list[str]:
    """Return the names of the residual blocks that can be taken out of a network.

    Such a block is a module that is called once, gives a tensor of the shape that it takes, has weights, and adds to
    what they make of its input the input itself. Of blocks within blocks it is the innermost.

    Args:
        untouched: modules that stay.
    """
    named = {name: module for name, module in model.named_modules() if name}
    calls: dict[str, list[bool]] = {name: [] for name in named}
    hooks = [
        module.register_forward_hook(
            lambda _, given, result, name=name: calls[name].append(_keeps_shape(given, result))
        )
        for name, module in named.items()
    ]
    shown: dict[str, Tensor] = {}
    hooks += [
        module.register_forward_pre_hook(lambda _, given, name=name: shown.update({name: given[0]}) if given else None)
        for name, module in named.items()
    ]
    with models.hooked(hooks), torch.no_grad():
        model.eval()(example)
    found = [
        name
        for name, module in named.items()
        if calls[name] == [True] and not untouched.intersection(module.modules()) and _is_residual(module, shown[name])
    ]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def remove(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Put identities in the place of modules.

    Raises:
        StageError: there is no such module.
    """
    for name in names:
        try:
            model.get_submodule(name or "the network itself")
            _put(model, name, nn.Identity())
        except (AttributeError, KeyError, TypeError) as error:
            raise StageError(
                f"the blocks to remove ({models.DESCRIPTION}) do not fit the network: there is no {name!r}"
            ) from error
    return model.eval()


def restore(model: nn.Module, edit: Mapping[str, Any], _example: Tensor, _state: dict[str, Tensor]) -> nn.Module:
    """Replay an edit on the network as its factory makes it.

    Raises:
        StageError: the edit does not fit the network.
    """
    return remove(model, edit["removed"])


def choose(
    model: nn.Module, candidates: Sequence[str], count: int, loss: Callable[[], float]
) -> list[tuple[str, dict[str, float]]]:
    """Take blocks out of a model in place, one after the other the one without which its loss is the smallest.

    Args:
        candidates: the names of blocks that may go.
        loss: of the model as it is.

    Returns:
        Of each block that went its name, and the losses that decided, by the name of the block that was left out.
    """
    chosen = []
    left = list(candidates)
    for _ in range(count):
        losses = {name: _without(model, name, loss) for name in left}
        name = min(left, key=lambda block: losses[block])
        remove(model, [name])
        left.remove(name)
        chosen.append((name, losses))
    return chosen


def enough(candidates: Sequence[str], count: int) -> None:
    """Refuse to remove more blocks than there are.

    Raises:
        StageError: with those that there are.
    """
    if count > len(candidates):
        raise StageError(
            f"prune: depth: {count} residual blocks are to go, and the network has {len(candidates)} that can"
            + (
                f" ({', '.join(candidates)})"
                if candidates
                else ": none gives the shape that it takes and adds its input"
            )
            + "; lower depth, or switch it off (depth: 0)"
        )


def named(model: nn.Module, names: Sequence[str], input_shape: tuple[int, ...], untouched: set[nn.Module]) -> list[str]:
    """Return the names of blocks to remove.

    Raises:
        StageError: some are no residual blocks that can go; all of them are told.
    """
    candidates = blocks(model, models.example(input_shape), untouched)
    problems = [
        f"no residual block {name!r} that can go{suggest(name, candidates)} "
        f"(there are: {', '.join(candidates) or 'none'})"
        for name in names
        if name not in candidates
    ]
    if problems:
        raise StageError("\n  ".join(["prune.blocks:", *problems]))
    return list(dict.fromkeys(names))


def _without(model: nn.Module, name: str, loss: Callable[[], float]) -> float:
    block = model.get_submodule(name)
    _put(model, name, nn.Identity())
    try:
        return loss()
    finally:
        _put(model, name, block)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _keeps_shape(given: tuple[Any, ...], result: Any) -> bool:
    one = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(result, Tensor)
    return one and result.shape == given[0].shape and result.ndim > 1


def _is_residual(module: nn.Module, given: Tensor) -> bool:
    """Return whether a module has weights, and its input reaches its output through additions and activations alone."""
    weights = list(module.parameters())
    if not any(weight.ndim > 1 for weight in weights):
        return False
    with torch.enable_grad():
        source = given.detach().clone().requires_grad_()
        output = module(source)
    return _reaches(output.grad_fn, source)


def _reaches(start: Any, source: Tensor) -> bool:
    """Return whether a leaf of the graph is found from a node through an addition, by what may be passed alone."""
    waiting = [(start, False)]
    seen = set()
    while waiting:
        node, added = waiting.pop()
        if node is None or (node, added) in seen:
            continue
        seen.add((node, added))
        if getattr(node, "variable", None) is source:
            if added:
                return True
            continue
        operation = node.name().partition("Backward")[0]
        if operation in PASSING:
            waiting += [(before, added or operation == "Add") for before, _ in node.next_functions]
    return False

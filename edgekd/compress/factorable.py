"""Which layers of a network low rank can take the place of, why not of the others, and what each of them does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.compress.rank_choice import Work
from edgekd.document import suggest
from edgekd.errors import StageError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
"""What a network may raise where it looks into a layer that has become two."""


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers and convolutions in a network, under each of their names."""
    for name, module in model.named_modules(remove_duplicate=False):
        if name and isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)):
            yield name, module


def unfit(model: nn.Module, exclude: Sequence[str], example: Tensor) -> dict[str, str]:
    """Return the layers that cannot be factorized, or shall not be, each with the reason.

    Args:
        exclude: names of layers that stay as they are, with all that is in them.
        example: one sample, (1, ...).

    Raises:
        StageError: a layer to exclude does not exist.
    """
    excluded, names = _excluded(model, exclude), _names(model)
    found = {}
    for name, layer in layers(model):
        if layer in excluded:
            found[name] = "excluded"
        elif reason := _unfit_kind(layer) or _shared(name, layer, names) or _looked_into(model, name, layer, example):
            found[name] = reason
    return found


def work(model: nn.Module, fit: Mapping[str, Any], example: Tensor) -> dict[str, Work]:
    """Return what layers do for one sample; those that do not run are left out.

    Args:
        fit: layers by their names.
        example: one sample, (1, ...).
    """
    points: dict[str, tuple[int, int]] = {}

    def count(name: str, layer: Any, given: Tensor, result: Tensor) -> None:
        # The channels are the last axis of a linear layer, and stand before the kernel's axes in a convolution.
        axis = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.ndim
        before = points.get(name, (0, 0))
        points[name] = (
            before[0] + given.numel() // given.shape[axis],
            before[1] + result.numel() // result.shape[axis],
        )

    hooks = [
        layer.register_forward_hook(lambda own, given, result, name=name: count(name, own, given[0], result))
        for name, layer in fit.items()
    ]
    with models.hooked(hooks), torch.no_grad():
        model.eval()(example)
    return {name: Work(fit[name].weight.detach(), *points[name]) for name in fit if name in points}


def _excluded(model: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    known = dict(model.named_modules())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StageError(f"factorize: no layer {unknown[0]!r} to exclude{suggest(unknown[0], known)}")
    return {module for name in names for module in known[name].modules()}


def _names(model: nn.Module) -> dict[nn.Module | Tensor, list[str]]:
    """Return every name of every module and parameter."""
    found: dict[nn.Module | Tensor, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return found


def _unfit_kind(layer: Any) -> str | None:
    """Return why no layer of this kind can be factorized, or None."""
    if isinstance(layer, TRANSPOSED):
        return "a transposed convolution, which this stage does not do"
    if type(layer) not in (nn.Linear, *CONVOLUTIONS):
        return f"a {type(layer).__name__}: what it does besides its product would be lost"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks, which would be lost"
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        kind = "depthwise" if layer.groups == layer.in_channels else "grouped"
        return f"a {kind} convolution ({layer.groups} groups)"
    return None


def _shared(name: str, layer: Any, names: Mapping[nn.Module | Tensor, list[str]]) -> str | None:
    """Return who else has this layer or its weights, or None: the other one would keep the old ones."""
    others = [own.removesuffix(".weight") for own in [*names[layer], *names[layer.weight]]]
    others = [other for other in others if other != name]
    return f"it shares its weights with {others[0]}" if others else None


def _looked_into(model: nn.Module, name: str, layer: nn.Module, example: Tensor) -> str | None:
    """Return why a network needs the layer itself and not only what it gives, or None.

    Found by a stand-in that gives the same and has none of the layer's attributes.
    """
    model.set_submodule(name, nn.Sequential(layer))
    try:
        with torch.no_grad():
            model.eval()(example)
    except FAILURES as error:
        return f"the network needs more of it than what it gives: {(str(error) or repr(error)).splitlines()[0]}"
    finally:
        model.set_submodule(name, layer)
    return None

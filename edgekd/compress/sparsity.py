"""Single weights that are zero: which ones, and that they stay so while the network is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import models
from edgekd.compress.importance import CONVOLUTIONS
from edgekd.errors import StageError
from edgekd.stages.prune import Options, Sparsity

Masks = dict[str, Tensor]
"""By a weight's name, true where it stays; of its shape."""


def masks(model: nn.Module, options: Options, untouched: set[nn.Module], part: float = 1.0) -> Masks:
    """Return which weights of convolutions and linear layers stay: the largest by absolute value.

    A pattern of n of every m applies to layers whose inputs m divides; the others stay dense.

    Args:
        untouched: modules that stay dense.
        part: of the ratio that holds; a pattern comes with the whole of it.

    Raises:
        StageError: no layer takes the pattern, or one would lose all of its weights.
    """
    asked = options.sparsity
    layers = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and module not in untouched
    }
    if asked is None or (asked.ratio is None and part < 1):
        return {}
    if asked.ratio is None:
        return _patterned(layers, asked)
    weights = {name: layer.weight.detach().abs() for name, layer in layers.items()}
    found = _largest(weights, asked.ratio * part, options.scope)
    empty = [name.removesuffix(".weight") for name, mask in found.items() if not bool(mask.any())]
    if empty:
        raise StageError(
            f"prune: sparsity of {asked.ratio:g} (scope: {options.scope}) would leave {empty[0]} without a weight; "
            "lower it, exclude the layer, or take scope: uniform"
        )
    return found


def _largest(weights: Mapping[str, Tensor], ratio: float, scope: str) -> Masks:
    if scope == "uniform":
        return {name: _top(weight.flatten(), ratio).view(weight.shape) for name, weight in weights.items()}
    every = _top(torch.cat([weight.flatten() for weight in weights.values()]), ratio)
    parts = torch.split(every, [weight.numel() for weight in weights.values()])
    return {name: mask.view(weight.shape) for (name, weight), mask in zip(weights.items(), parts, strict=True)}


def _top(values: Tensor, ratio: float) -> Tensor:
    """Return a mask of (N,) without the smallest round(ratio * N); of equal ones the first go."""
    mask = torch.ones(len(values), dtype=torch.bool)
    mask[values.argsort(stable=True)[: round(ratio * len(values))]] = False
    return mask


def _patterned(layers: Mapping[str, Any], asked: Sparsity) -> Masks:
    n, m = asked.n or 0, asked.m or 0
    found = {}
    for name, layer in layers.items():
        # Of a transposed convolution the inputs are the first axis.
        axis = 0 if getattr(layer, "transposed", False) else 1
        weight = layer.weight.detach().abs().movedim(axis, -1)
        if weight.shape[-1] % m == 0:
            runs = weight.reshape(-1, m)
            mask = torch.zeros_like(runs, dtype=torch.bool)
            mask.scatter_(1, runs.argsort(dim=1, descending=True, stable=True)[:, :n], value=True)
            found[name] = mask.view(weight.shape).movedim(-1, axis)
    if not found:
        raise StageError(
            f"prune: sparsity of {n} of every {m} weights: no layer has inputs that {m} divides; take a ratio instead"
        )
    return found


@contextmanager
def held(model: nn.Module, kept: Masks) -> Iterator[None]:
    """Set weights to zero, and their gradients while the block lasts, so that no optimizer moves them.

    Raises:
        StageError: one was moved all the same.
    """
    hooks = []
    for name, mask in kept.items():
        weight = model.get_parameter(name)
        with torch.no_grad():
            weight.mul_(mask)
        if weight.requires_grad:
            hooks.append(weight.register_hook(partial(_masked, mask)))  # type: ignore[no-untyped-call] # torch lacks it
    with models.hooked(hooks):
        yield
    moved = [name for name, mask in kept.items() if bool(model.get_parameter(name)[~mask].any())]
    if moved:
        raise StageError(f"prune: the training did not keep the zeros of {moved[0]}; train in one process, undivided")


def _masked(mask: Tensor, gradient: Tensor) -> Tensor:
    return gradient * mask.to(gradient.device)


def summary(model: nn.Module, kept: Masks) -> dict[str, Any]:
    """Return {"weights", "zeros", "dense"}: of convolutions and linear layers, and which layers stayed dense."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (*CONVOLUTIONS, nn.Linear))}
    return {
        "weights": sum(layer.weight.numel() for layer in layers.values()),
        "zeros": sum(int((layer.weight == 0).sum()) for layer in layers.values()),
        "dense": [name for name in layers if f"{name}.weight" not in kept],
    }

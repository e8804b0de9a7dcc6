"""How much the channels of a group count. A ranking takes Torch-Pruning's group of all channels that hang together,
and gives one number for each channel (channels,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning.pruner import function
from torch_pruning.pruner.importance import BNScaleImportance, GroupMagnitudeImportance

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
"""What a network or the tracing of it may raise where it is not made for fewer channels."""

Ranking = Callable[[Any], Tensor]


def magnitude(group: Any) -> Tensor:
    """Return the mean over the layers of the squared weights of each channel, divided by their mean over the channels.

    Group magnitude of DepGraph (Fang et al. 2023, arXiv:2301.12900, equation 4).
    """
    found: Tensor = GroupMagnitudeImportance(p=2)(group)
    return found


def bn_scale(group: Any) -> Tensor:
    """Return the mean over the BatchNorm layers of the absolute scale of each channel.

    Network slimming (Liu et al. 2017, arXiv:1708.06519); layers compete by the scales themselves.

    Raises:
        ValueError: no BatchNorm with scales belongs to the channels.
    """
    found: Tensor | None = BNScaleImportance(normalizer=None)(group)
    if found is None:
        raise ValueError("no BatchNorm with scales belongs to them, which importance: bn_scale looks at")
    return found


def taylor(products: Mapping[nn.Parameter, Tensor]) -> Ranking:
    """Return a ranking by the sum of |weight * gradient| over all weights that go with a channel.

    What the loss would change without them, to first order (Molchanov et al. 2019, arXiv:1906.10771, equation 8, with
    absolute values in place of squares). It is in the unit of the loss, so that layers compete by it as it is. Weights
    that lead from a channel to itself, in a residual block, count as those of its outputs and of its inputs.

    Args:
        products: |weight * gradient| of each parameter, of its shape.
    """
    return partial(_taylor, products)


def _taylor(products: Mapping[nn.Parameter, Tensor], group: Any) -> Tensor:
    root = group[0].dep.target.module
    total = torch.zeros(root.out_features if isinstance(root, nn.Linear) else root.out_channels)
    for item in group:
        layer, handler = item.dep.target.module, item.dep.handler
        own = dict(layer.named_parameters(recurse=False)) if isinstance(layer, nn.Module) else {}
        if "weight" in own and None not in item.root_idxs:
            weight = products[own["weight"]]
            if handler in (function.prune_conv_in_channels, function.prune_linear_in_channels):
                values = _by_input(layer, weight)
            else:
                values = _by_output(layer, weight)
                values = values + products[own["bias"]] if "bias" in own else values
            total.scatter_add_(0, torch.tensor(item.root_idxs), values[torch.tensor(item.idxs)])
    return total


def _by_output(layer: Any, weight: Tensor) -> Tensor:
    """Return the sum over the weights of each output, also where they are one number (normalisation)."""
    if getattr(layer, "transposed", False):  # (inputs, outputs of a section, ...)
        sections = layer.groups
        return weight.flatten(2).sum(2).view(sections, -1, weight.shape[1]).sum(1).flatten()
    return weight.flatten(1).sum(1) if weight.ndim > 1 else weight


def _by_input(layer: Any, weight: Tensor) -> Tensor:
    """Return the sum over the weights that each input is multiplied by."""
    if isinstance(layer, nn.Linear):
        return weight.sum(0)
    if layer.transposed:
        return weight.flatten(1).sum(1)
    # (outputs, inputs of a section, ...): the outputs of a section see its inputs only
    return weight.flatten(2).sum(2).view(layer.groups, -1, weight.shape[1]).sum(1).flatten()

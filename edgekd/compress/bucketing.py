"""Quantized distillation with bucketing (Polino, Pascanu, Alistarh 2018, arXiv:1802.05668).

Weights alone are quantized, uniformly and each bucket of consecutive values on its own (section 2.1): with beta the
smallest value of a bucket, alpha its largest minus beta, and s = 2^bits - 1,

    Q(v) = alpha * round(s * (v - beta) / alpha) / s + beta        a half is rounded down, as in the paper

Training (Algorithm 1, quantized distillation) computes the loss and its gradient at Q(v) and moves v, which stays in
full precision. No runtime has such weights: the network stays a float one whose weights lie on the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.compress.pt2e import DerivedObserverOrFakeQuantize, ObserverBase
from edgekd.compress.quantization import weight_observers

FLOAT_BITS = 32


def bucketed(weight: Tensor, bits: int, size: int) -> Tensor:
    """Return Q of a weight, in its own shape.

    Args:
        size: of a bucket; the last one may be smaller.
    """
    flat = weight.flatten()
    missing = -len(flat) % size
    rows = torch.cat([flat, flat[-1:].expand(missing)]).view(-1, size)
    low, high = rows.aminmax(dim=1, keepdim=True)
    spread, levels = high - low, 2**bits - 1
    share = (rows - low) / torch.where(spread > 0, spread, 1)
    rounded = torch.ceil(share * levels - 0.5) / levels * spread + low
    found: Tensor = rounded.flatten()[: len(flat)].view_as(weight)
    return found


def compressed_bytes(prepared: GraphModule, bits: int, size: int) -> int:
    """Return what the parameters would take: so many bits of each weight, two floats of each bucket, and biases."""
    weights = {name for name, _ in weight_observers(prepared)}
    total = 0
    for name, parameter in prepared.named_parameters():
        count = parameter.numel()
        buckets = math.ceil(count / size)
        total += count * bits + 2 * FLOAT_BITS * buckets if name in weights else count * FLOAT_BITS
    return math.ceil(total / 8)


class BucketedWeight(nn.Module):
    """Gives Q of a weight on; its gradient becomes the weight's own (straight-through)."""

    kind = ""

    def __init__(self, bits: int, size: int) -> None:
        super().__init__()
        self._bits, self._size = bits, size

    def forward(self, weight: Tensor) -> Tensor:
        """Return Q(weight)."""
        return weight + (bucketed(weight.detach(), self._bits, self._size) - weight).detach()


class Untouched(nn.Module):
    """Gives on what it is given: activations stay float."""

    kind = ""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


def put_on_grid(prepared: GraphModule, bits: int, size: int) -> None:
    """Replace the weights of a graph by Q of them, in place."""
    with torch.no_grad():
        for name, _ in weight_observers(prepared):
            weight = prepared.get_parameter(name)
            weight.copy_(bucketed(weight, bits, size))


def without_observers(prepared: GraphModule) -> GraphModule:
    """Take the observers out of a graph, in place: a float network, its BatchNorm folded."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in list(prepared.graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ObserverBase | DerivedObserverOrFakeQuantize):
            node.replace_all_uses_with(node.args[0])
            prepared.graph.erase_node(node)
    prepared.delete_all_unused_submodules()
    prepared.recompile()
    return prepared

"""The budget stage's work: how much each channel of the student counts, and which blocks it can do without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models
from edgekd.compress import channels, depth
from edgekd.compress.importance import taylor
from edgekd.compress.judging import judged
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.budget import Ordering
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.prune import Options as Pruning


def order(options: Ordering, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Return for the student, and for it without one residual block after the other, what its channels count.

    A channel counts by how much the distillation's loss would change without it, to first order
    (`compress.importance.taylor`). Of the blocks that one goes without which the loss is the smallest.

    Returns:
        {"levels": [{"removed": names of blocks, "harm": -log of the part of the importance that was left, "groups":
        [{"name", "sections", "importance": of each channel}]}]}.
    """
    del out
    source = inputs.artifacts["model"]
    model, shape = models.load(source.path), models.describe(source.path).input_shape
    training: Network = inputs.blocks["student"]
    teaching = inputs.blocks["distill"] or Distillation()
    data = datasets.of(inputs)
    untouched = channels.excluded(model, options.exclude)
    left = depth.blocks(model, models.example(shape), untouched)
    count = min(options.depth, len(left))
    levels: list[dict[str, Any]] = []
    removed: list[str] = []
    harm = 0.0
    for level in range(count + 1):
        inputs.progress(level, count + 1, "what the channels count")
        with judged(model, inputs, data, teaching, training, options.batches) as judge:
            products = judge.products()
        levels.append({"removed": list(removed), "harm": harm, "groups": _groups(model, products, options, shape)})
        if level < count:
            shares = {name: _share(model.get_submodule(name), products) for name in left}
            with judged(model, inputs, data, teaching, training, options.batches) as judge:
                ((name, _),) = depth.choose(model, left, 1, judge.loss)
            left.remove(name)
            removed.append(name)
            harm -= math.log(max(1 - shares[name], 1e-300))
    return {"levels": levels}


def _groups(
    model: nn.Module, products: Mapping[nn.Parameter, Tensor], options: Ordering, shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    _, found = channels.groups(model, Pruning(exclude=options.exclude), shape, taylor(products))
    return [
        {
            "name": group.name,
            "sections": group.sections,
            "importance": [float(value) for value in group.importance.repeat(group.sections)],
        }
        for group in found
    ]


def _share(block: nn.Module, products: Mapping[nn.Parameter, Tensor]) -> float:
    """Return the part of the importance of all weights that a block's have."""
    total = math.fsum(float(one.sum()) for one in products.values())
    return math.fsum(float(products[weight].sum()) for weight in block.parameters()) / total if total else 0.0

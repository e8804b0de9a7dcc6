"""The factorize stage's work: layers become products of smaller ones, where that pays; and how it is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models
from edgekd.compress import factorable, lowrank, rank_choice
from edgekd.compress.factorable import CONVOLUTIONS, FAILURES
from edgekd.compress.rank_choice import Candidate, Choices
from edgekd.distill.distill import learn
from edgekd.distill.teachers import sources
from edgekd.errors import StageError
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.factorize import Options
from edgekd.training import networks

SHOWN = 12
"""So many layers are named in a message; all of them are in the facts."""


class FactorizedLinear(nn.Sequential):
    """Two linear layers in place of one.

    A name of its own tells the losses on features that what enters it is the embedding, not what enters its second
    half.
    """


@dataclass(frozen=True)
class Plan:
    """What becomes of each layer.

    Args:
        chosen: new ranks, by the layer's name.
        whole: what the layer costs as it is.
        refused: why a layer stays as it is.
    """

    chosen: Mapping[str, Candidate]
    whole: Mapping[str, Candidate]
    refused: Mapping[str, str]


def factorize(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Factorize the newest student, then fine-tune it with the teacher.

    Raises:
        StageError: no layer gains, the budget cannot be reached, or a layer to exclude does not exist.
    """
    base: Network = inputs.blocks["student"] or inputs.blocks["teacher"]
    data = datasets.of(inputs)
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    model = models.load(source.path)
    before = networks.profile(model, description.input_shape)
    plan = plan_ranks(model, options, description.input_shape)
    kept = replace_layers(model, {name: found.ranks for name, found in plan.chosen.items()})
    training = base.model_copy(
        update={"epochs": options.epochs, "learning_rate": options.learning_rate or base.learning_rate / 3}
    )
    teaching = inputs.blocks["distill"] or Distillation()
    facts = learn(model, teaching, sources(inputs.artifacts), training, data, inputs, out)
    layers = [{"name": name, "ranks": list(found.ranks)} for name, found in plan.chosen.items()]
    edited = description.edited({"edit": "factorization", "layers": layers})
    return networks.store(out, edited, model, {**facts, "before": before, **_told(plan, kept)})


def plan_ranks(model: nn.Module, options: Options, input_shape: tuple[int, ...]) -> Plan:
    """Choose the ranks of a model's layers; the model stays as it is.

    Raises:
        StageError: no layer gains, the budget cannot be reached, or a layer to exclude does not exist.
    """
    found, refused = _found(model, options, models.example(input_shape, 1))
    paying = {name: layer for name, layer in found.items() if name not in refused}
    chosen: dict[str, Candidate] = {}
    if options.energy is not None:
        for name, layer in paying.items():
            answer = rank_choice.by_energy(layer, options.energy, options.cost)
            if isinstance(answer, Candidate):
                chosen[name] = answer
            else:
                refused[name] = answer
    elif paying:
        chosen = _within_budget(model, paying, options, input_shape)
        refused |= {name: "the budget holds without it" for name in paying if name not in chosen}
    refused = {name: refused[name] for name, _ in factorable.layers(model) if name in refused}
    if not chosen:
        raise StageError(_nothing_gained(options, refused))
    return Plan(
        {name: chosen[name] for name in found if name in chosen},
        {name: layer.whole for name, layer in found.items()},
        refused,
    )


def _found(model: nn.Module, options: Options, example: Tensor) -> tuple[dict[str, Choices], dict[str, str]]:
    """Return what each layer could have, and why some layers cannot gain whatever is asked for."""
    refused = factorable.unfit(model, options.exclude, example)
    fit = {name: layer for name, layer in factorable.layers(model) if name not in refused}
    works = factorable.work(model, fit, example)
    found = {name: rank_choice.choices(work, options.round_to) for name, work in works.items()}
    refused |= {name: "it does not run" for name in fit if name not in works}
    for name, layer in found.items():
        if reason := rank_choice.why_never(layer, options.round_to, options.cost):
            refused[name] = reason
    return found, refused


def replace_layers(model: nn.Module, ranks: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Replace layers of a model in place by their factors.

    Args:
        ranks: of each layer, as `lowrank.factors` takes them.

    Returns:
        Which part of each weight's squared entries is kept.
    """
    kept = {}
    for name, own in ranks.items():
        layer: Any = model.get_submodule(name)
        weight: Tensor = layer.weight.detach()
        parts: Any = _structure(layer, own)
        factors = lowrank.factors(weight, own)
        with torch.no_grad():
            for part, factor in zip(parts, factors, strict=True):
                part.weight.copy_(factor.reshape(part.weight.shape))
            if layer.bias is not None:
                parts[-1].bias.copy_(layer.bias)
        model.set_submodule(name, parts)
        kept[name] = lowrank.kept(weight, factors)
    return kept


def restore(model: nn.Module, edit: Mapping[str, Any], _example: Tensor, _state: dict[str, Tensor]) -> nn.Module:
    """Replay a factorization on the network as its factory, and the edits before, make it. Weights are loaded later.

    Raises:
        StageError: the edit does not fit the network.
    """
    try:
        for layer in edit["layers"]:
            model.set_submodule(layer["name"], _structure(model.get_submodule(layer["name"]), layer["ranks"]))
    except FAILURES as error:
        raise StageError(f"the layers to factorize ({models.DESCRIPTION}) do not fit the network: {error}") from error
    return model


# ---- the choice, told


def _within_budget(
    model: nn.Module, paying: Mapping[str, Choices], options: Options, input_shape: tuple[int, ...]
) -> dict[str, Candidate]:
    """Return the ranks that meet the budget.

    Raises:
        StageError: the smallest ranks do not meet it.
    """
    assert options.budget is not None
    total = networks.profile(model, input_shape)[options.cost]
    saving, possible = total - int(options.budget * total), rank_choice.most(paying, options.cost)
    if possible < saving:
        what = "multiply-accumulates" if options.cost == "macs" else "parameters"
        raise StageError(
            f"factorize: a budget of {options.budget:.4g} of {total:,} {what} cannot be met: with every layer that "
            f"pays ({_some(list(paying))}) at its smallest rank, {total - possible:,} stay, "
            f"{1 - possible / total:.3f} of them; raise budget, lower round_to, or exclude fewer layers"
        )
    return rank_choice.by_budget(paying, saving, options.cost)


def _nothing_gained(options: Options, refused: Mapping[str, str]) -> str:
    rule = f"energy {options.energy:.4g}" if options.energy is not None else f"budget {options.budget:.4g}"
    tried = [f"  {name}: {reason}" for name, reason in list(refused.items())[:SHOWN]]
    more = [f"  and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
    found = [*tried, *more] or ["  it has no linear layer and no convolution in it"]
    return "\n".join(
        [
            f"factorize: no layer of the network gains by low rank ({rule}, multiples of {options.round_to}):",
            *found,
            "lower energy or round_to, or switch the stage off (factorize: false)",
        ]
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _told(plan: Plan, kept: Mapping[str, float]) -> dict[str, Any]:
    """Return the facts of the layers."""
    return {
        "factorized": [
            {
                "layer": name,
                "ranks": list(found.ranks),
                "kept": kept[name],
                "macs": [plan.whole[name].macs, found.macs],
                "weights": [plan.whole[name].parameters, found.parameters],
            }
            for name, found in plan.chosen.items()
        ],
        "refused": dict(plan.refused),
    }


# ---- the layers that take a layer's place


def _structure(layer: Any, ranks: Sequence[int]) -> nn.Sequential:
    """Return the layers that take a layer's place, with weights still to come."""
    if type(layer) is nn.Linear:
        (rank,) = ranks
        parts: nn.Sequential = FactorizedLinear(
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=layer.bias is not None),
        )
    elif type(layer) in CONVOLUTIONS:
        parts = nn.Sequential(*_convolutions(layer, ranks))
    else:
        raise TypeError(f"a {type(layer).__name__} has no factors")
    parts.to(layer.weight.device, layer.weight.dtype).train(layer.training)
    return parts.requires_grad_(layer.weight.requires_grad)


def _convolutions(layer: Any, ranks: Sequence[int]) -> Iterator[nn.Module]:
    """Yield the convolutions of Tucker-2; of a kernel of one point two, the first of which takes the stride."""
    kind, inputs, outputs, bias = type(layer), layer.in_channels, layer.out_channels, layer.bias is not None
    shape = {
        "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation,
        "padding_mode": layer.padding_mode,
    }  # fmt: skip
    if lowrank.is_matrix(layer.weight):
        (rank,) = ranks
        yield kind(inputs, rank, layer.kernel_size, bias=False, **shape)
        yield kind(rank, outputs, 1, bias=bias)
        return
    first, second = ranks
    if first < inputs:
        yield kind(inputs, first, 1, bias=False)
    yield kind(first, second, layer.kernel_size, bias=bias and second == outputs, **shape)
    if second < outputs:
        yield kind(second, outputs, 1, bias=bias)

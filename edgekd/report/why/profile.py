"""The layers that a runtime executed, with their share of the time, by the nodes of the file that they came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgekd.graph.anatomy import Anatomy

_ADDED = re.compile(r"(_token_\d+|_nchwc|_quant|/duplicated|_original|/WithoutBiases|_reshape\w*)+$")
"""What runtimes add to the name of a node that they rewrite."""


@dataclass(frozen=True)
class Ran:
    """One layer as the runtime executed it."""

    name: str
    type: str
    precision: str
    computes: bool
    """It multiplies and accumulates."""
    input: str | None
    """The type of its first input, where the runtime tells."""
    nodes: tuple[str, ...]
    """The nodes of the file that it came from, as far as the names tell."""
    median_ns: float | None
    share: float | None
    """Of the time of all layers; None where the runtime gave no times."""

    @property
    def integer(self) -> bool:
        """Whether it computes in 8-bit integers."""
        return "int8" in self.precision


def profile(facts: Mapping[str, Any], graph: Anatomy | None = None) -> tuple[Ran, ...]:
    """Return the layers of a measured variant.

    Args:
        facts: what the agent says of it.
        graph: its file; without it, nodes are what the runtime calls them.
    """
    layers = facts.get("layers") or ()
    medians = [median(layer["times_ns"]) if layer.get("times_ns") else None for layer in layers]
    total = sum(time for time in medians if time is not None)
    return tuple(
        Ran(
            name=str(layer.get("name")),
            type=str(layer.get("type")),
            precision=str(layer.get("precision")),
            computes=bool(layer.get("computes")),
            input=layer.get("input"),
            nodes=_nodes(layer, graph),
            median_ns=time,
            # A layer without a time did no work of its own, if others have one.
            share=(time or 0.0) / total if total else None,
        )
        for layer, time in zip(layers, medians, strict=True)
    )


def share(ran: Iterable[Ran]) -> float | None:
    """Return the share of the time that some layers took together; None where there are no times."""
    shares = [one.share for one in ran]
    known = [one for one in shares if one is not None]
    return sum(known) if known and len(known) == len(shares) else None


def by_precision(ran: Sequence[Ran]) -> dict[str, dict[str, Any]]:
    """Return, by precision, how many layers compute in it and which share of the whole time they take."""
    computing = [one for one in ran if one.computes]
    return {
        precision: {
            "layers": sum(one.precision == precision for one in computing),
            "time_share": share(one for one in computing if one.precision == precision),
        }
        for precision in sorted({one.precision for one in computing})
    }


def _nodes(layer: Mapping[str, Any], graph: Anatomy | None) -> tuple[str, ...]:
    """Return the nodes that a layer came from: those that the runtime tells, else the one whose name it has."""
    told = [*(layer.get("origins") or ()), str(layer.get("name"))]
    names = list(dict.fromkeys(_ADDED.sub("", name) for name in told))
    if graph is None:
        return tuple(names)
    known = [name for name in names if name in graph.names]
    owners = [graph.layer_of(name) for name in known] if layer.get("computes") else []
    return tuple(dict.fromkeys([*known, *(owner for owner in owners if owner is not None)]))

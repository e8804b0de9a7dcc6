"""Which ranks: what each layer could have, what that costs and loses, and how one rule or one budget chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.compress import lowrank

Cost = Literal["macs", "parameters"]
ROUNDING = 1e-12
"""Of a sum of squares in double precision, so that an exactly low rank counts as exact."""


@dataclass(frozen=True)
class Work:
    """What a layer does for one sample.

    Args:
        weight: (outputs, inputs, *kernel).
        given: how many points it reads, over all its calls; `gives` how many it writes. A point has all channels.
    """

    weight: Tensor
    given: int
    gives: int


@dataclass(frozen=True)
class Candidate:
    """Ranks that a layer could have.

    Args:
        ranks: as `lowrank.factors` takes them.
        macs: multiply-accumulates for one sample; `parameters` of the weights.
        lost: part of the weight's squared entries that is lost.
    """

    ranks: tuple[int, ...]
    macs: int
    parameters: int
    lost: float


@dataclass(frozen=True)
class Choices:
    """All that a layer could have, one entry each, and what it has.

    Args:
        ranks: (n, 1) of a matrix, (n, 2) of a kernel.
        macs: (n,), `parameters` (n,) and `lost` (n,) as of a `Candidate`.
        whole: the layer as it is.
    """

    ranks: NDArray[np.int64]
    macs: NDArray[np.int64]
    parameters: NDArray[np.int64]
    lost: NDArray[np.float64]
    whole: Candidate

    def at(self, index: Any) -> Candidate:
        """Return one of them."""
        return Candidate(
            tuple(int(rank) for rank in self.ranks[index]),
            int(self.macs[index]),
            int(self.parameters[index]),
            float(self.lost[index]),
        )

    def pays(self) -> NDArray[np.bool_]:
        """Return which of them have fewer multiply-accumulates and fewer parameters than the layer."""
        return (self.macs < self.whole.macs) & (self.parameters < self.whole.parameters)

    def harms(self) -> NDArray[np.float64]:
        """Return what each does to the network: -log of the part that is kept.

        Layers stand one behind the other, so the parts that they keep multiply. For small losses it is the loss; that
        next to nothing of a layer stays is never cheap.
        """
        return -np.log(np.maximum(1 - self.lost, np.finfo(np.float64).tiny))

    def saves(self, cost: Cost) -> NDArray[np.int64]:
        """Return how much each saves; below zero what costs more."""
        return self.whole.macs - self.macs if cost == "macs" else self.whole.parameters - self.parameters


def choices(work: Work, round_to: int) -> Choices:
    """Return all ranks of a layer that are multiples of `round_to`; a side of a kernel may also stay whole."""
    outputs, inputs = work.weight.shape[:2]
    size = work.weight.shape[2:].numel()
    whole = Candidate((), work.gives * outputs * inputs * size, outputs * inputs * size, 0.0)
    lost = lowrank.losses(work.weight).numpy()
    if lowrank.is_matrix(work.weight):
        ranks = np.arange(round_to, min(outputs, inputs), round_to, dtype=np.int64)
        parameters = ranks * (inputs + outputs)
        return Choices(ranks[:, None], work.gives * parameters, parameters, lost[ranks], whole)
    sides = [np.array([*range(round_to, length, round_to), length], np.int64) for length in (inputs, outputs)]
    ranks = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)[:-1]  # the last is the layer itself
    first, second = ranks.T
    down, core, up = (
        np.where(first < inputs, inputs * first, 0),
        first * second * size,
        np.where(second < outputs, second * outputs, 0),
    )
    macs = work.given * down + work.gives * (core + up)
    return Choices(ranks, macs, down + core + up, lost[first, second], whole)


def by_energy(found: Choices, energy: float, cost: Cost) -> Candidate | str:
    """Return the cheapest ranks of a layer that pay and lose at most 1 - energy, or why there are none."""
    enough = found.lost <= 1 - energy + ROUNDING
    if not enough.any():
        return f"keeping {energy:.4g} of it takes its full rank"
    paying = enough & found.pays()
    best = _cheapest(found, paying if paying.any() else enough, cost)
    if paying.any():
        return best
    return f"keeping {energy:.4g} of it, {_compared(best, found.whole)}"


def why_never(found: Choices, round_to: int, cost: Cost) -> str | None:
    """Return why no ranks of a layer pay, or None where some do."""
    if not len(found.ranks):
        return f"too small: no multiple of {round_to} (round_to) is below its full rank"
    if found.pays().any():
        return None
    return f"even {_compared(_cheapest(found, np.ones(len(found.ranks), bool), cost), found.whole)}"


def by_budget(layers: Mapping[str, Choices], saving: int, cost: Cost) -> dict[str, Candidate]:
    """Return the ranks that together save so much, with little harm; layers that need not save are left out.

    Greedy by harm per unit saved (multiple-choice knapsack: Kellerer, Pferschy, Pisinger 2004, chapter 11). Of each
    layer only the lower convex hull of harm over saving is looked at, on which a further unit never harms less than the
    one before: so nothing harms less than this at the same saving, but for the last step, which saves more than it
    must. That one is taken back to the ranks that harm least and still do.

    Args:
        layers: those of which some ranks pay.
        saving: how much is to be saved, at most what `most` says.
    """
    steps = sorted(step for name, found in layers.items() for step in _steps(name, found, cost))
    taken: dict[str, int] = {}
    total, last = 0, ""
    for _, name, index in steps:
        if total >= saving:
            break
        found, last = layers[name].saves(cost), name
        total += int(found[index]) - (int(found[taken[name]]) if name in taken else 0)
        taken[name] = index
    if taken:
        own = layers[last]
        others = total - int(own.saves(cost)[taken[last]])
        enough = own.pays() & (own.saves(cost) >= saving - others)
        taken[last] = _least(own, enough)
    return {name: layers[name].at(index) for name, index in taken.items()}


def most(layers: Mapping[str, Choices], cost: Cost) -> int:
    """Return how much all layers together can save."""
    return sum(int(found.saves(cost)[found.pays()].max()) for found in layers.values())


def _steps(name: str, found: Choices, cost: Cost) -> Iterator[tuple[float, str, int]]:
    """Yield (harm per unit saved, layer, index) along the hull of a layer, from the layer as it is on."""
    saved, harm, paying = found.saves(cost), found.harms(), found.pays()
    order = [int(index) for index in np.lexsort((harm, saved)) if paying[index]]
    hull: list[int] = []

    def slope(index: int, before: int | None) -> float:
        origin = (0, 0.0) if before is None else (int(saved[before]), float(harm[before]))
        return (float(harm[index]) - origin[1]) / max(int(saved[index]) - origin[0], 1)

    for index in order:
        if hull and saved[index] == saved[hull[-1]]:  # it harms more and saves the same
            continue
        while hull and slope(index, hull[-1]) <= slope(hull[-1], hull[-2] if len(hull) > 1 else None):
            hull.pop()
        hull.append(index)
    for position, index in enumerate(hull):
        yield slope(index, hull[position - 1] if position else None), name, index


def _cheapest(found: Choices, allowed: NDArray[np.bool_], cost: Cost) -> Candidate:
    """Return the one that saves most, of equal ones the one that loses least."""
    indices = np.flatnonzero(allowed)
    return found.at(indices[np.lexsort((found.lost[indices], -found.saves(cost)[indices]))[0]])


def _least(found: Choices, allowed: NDArray[np.bool_]) -> int:
    indices = np.flatnonzero(allowed)
    return int(indices[np.argmin(found.lost[indices])])


def _compared(candidate: Candidate, whole: Candidate) -> str:
    ranks = " and ".join(map(str, candidate.ranks))
    return (
        f"rank {ranks} takes {candidate.macs:,} MACs and {candidate.parameters:,} weights, "
        f"the layer {whole.macs:,} and {whole.parameters:,}"
    )

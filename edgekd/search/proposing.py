"""Which networks could hold a point's limits: one descent for each structure and for each use of integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgekd.search import descent
from edgekd.search.descent import Costs, Group, Widths

FLOAT, INT8 = "float", "int8"
EITHER = "either"
"""On each device whichever of its variants is the fastest there."""
UNLIMITED = float("inf")
_SMALLEST = 1e-9

Corrections = Mapping[tuple[str, int, str], Sequence[tuple[Widths, float]]]
"""Of each device, structure and precision, the networks that were measured: measured over predicted time."""


class Clock(Protocol):
    """How fast networks are on a device, beside the reference in the same rounds.

    A structure is the student without some of its blocks, by its index; a precision is FLOAT or INT8.
    """

    @property
    def precisions(self) -> Sequence[str]:
        """Those that the device has variants for."""

    def predict(self, structure: int, precision: str, networks: Sequence[Widths]) -> Sequence[float]:
        """Return the predicted time of each network, as a part of the reference's."""

    def size_bytes(self, structure: int, precision: str, networks: Sequence[Widths]) -> Sequence[float]:
        """Return the size of each network's file."""


@dataclass(frozen=True)
class Structure:
    """The student without some of its residual blocks.

    Args:
        harm: what their absence does, in the unit of `descent.harm`.
    """

    removed: tuple[str, ...]
    harm: float
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Allowed:
    """What a point allows on one device.

    Args:
        time: part of the reference's latency.
        size_bytes: of the file.
    """

    time: float = UNLIMITED
    size_bytes: float = UNLIMITED


@dataclass(frozen=True)
class Candidate:
    """A network that is predicted to hold the limits.

    Args:
        precision: FLOAT, or EITHER.
        how: "descent", or "uniform" where all groups keep the same part.
        harm: of the blocks and the channels that are gone.
    """

    structure: int
    precision: str
    how: str
    widths: Widths
    harm: float

    @property
    def search(self) -> tuple[int, str, str]:
        """What it was looked for in, and how."""
        return self.structure, self.precision, self.how

    @property
    def shape(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """What makes two candidates the same network."""
        return self.structure, tuple(sorted(self.widths.items()))


def structures(facts: Mapping[str, Any], round_to: int) -> list[Structure]:
    """Return the structures that the budget stage's result describes."""
    return [
        Structure(
            tuple(level["removed"]),
            level["harm"],
            tuple(descent.group(one["name"], one["importance"], one["sections"], round_to) for one in level["groups"]),
        )
        for level in facts["levels"]
    ]


@dataclass(frozen=True)
class Proposer:
    """Proposes networks.

    Args:
        clocks: by device.
        allowed: by device, of those that the point is for.
        corrections: what predictions are corrected by, so that what was measured is predicted so.
    """

    structures: Sequence[Structure]
    clocks: Mapping[str, Clock]
    allowed: Mapping[str, Allowed]
    corrections: Corrections

    def candidates(self) -> list[Candidate]:
        """Return the candidates, the least harmful one first; the same network once."""
        found = []
        for index, structure in enumerate(self.structures):
            for precision in self._uses():
                costs = self.costs(index, precision)
                for how, search in (("descent", descent.search), ("uniform", descent.uniform)):
                    widths = search(structure.groups, costs)
                    if widths is not None:
                        harm = structure.harm + descent.harm(structure.groups, widths)
                        found.append(Candidate(index, precision, how, widths, harm))
        found.sort(key=lambda one: (one.harm, one.how, one.precision != FLOAT))
        once = {one.shape: one for one in reversed(found)}
        return [one for one in found if once[one.shape] is one]

    def cheapest(self) -> Candidate:
        """Return the smallest network of the structure and precision where that costs least."""
        found = []
        for index, structure in enumerate(self.structures):
            widths = descent.smallest(structure.groups)
            for precision in self._uses():
                (cost,) = self.costs(index, precision)([widths])
                harm = structure.harm + descent.harm(structure.groups, widths)
                found.append((cost, Candidate(index, precision, "smallest", widths, harm)))
        return min(found, key=lambda one: one[0])[1]

    def costs(self, structure: int, precision: str) -> Costs:
        """Return what networks cost: the largest part of a limit, on the worst of the devices."""

        def of(networks: Sequence[Widths]) -> list[float]:
            found = [0.0] * len(networks)
            for device, allowed in self.allowed.items():
                times, sizes = self._of_device(device, structure, precision, networks)
                for index, (time, size) in enumerate(zip(times, sizes, strict=True)):
                    found[index] = max(found[index], time / allowed.time, size / allowed.size_bytes)
            return found

        return of

    def times(self, device: str, candidate: Candidate) -> dict[str, float]:
        """Return the predicted time of a candidate's variants on a device, as parts of the reference's."""
        return {
            precision: self._time(device, candidate.structure, precision, [candidate.widths])[0]
            for precision in self._used(device, candidate.precision)
        }

    def _of_device(
        self, device: str, structure: int, precision: str, networks: Sequence[Widths]
    ) -> tuple[list[float], list[float]]:
        """Return the time and the size of the variant of each network that the device would use."""
        used = self._used(device, precision)
        times = [self._time(device, structure, one, networks) for one in used]
        sized = self.allowed[device].size_bytes != UNLIMITED
        nothing = [0.0] * len(networks)
        sizes = [self.clocks[device].size_bytes(structure, one, networks) if sized else nothing for one in used]
        fastest = [
            min(zip(of_network, its_sizes, strict=True))
            for of_network, its_sizes in zip(zip(*times, strict=True), zip(*sizes, strict=True), strict=True)
        ]
        return [time for time, _ in fastest], [size for _, size in fastest]

    def _time(self, device: str, structure: int, precision: str, networks: Sequence[Widths]) -> list[float]:
        known = self.corrections.get((device, structure, precision), ())
        times = self.clocks[device].predict(structure, precision, networks)
        return [max(time, _SMALLEST) * correction(known, of) for time, of in zip(times, networks, strict=True)]

    def _used(self, device: str, precision: str) -> Sequence[str]:
        return [FLOAT] if precision == FLOAT else self.clocks[device].precisions

    def _uses(self) -> list[str]:
        several = any(len(self.clocks[device].precisions) > 1 for device in self.allowed)
        return [FLOAT, EITHER] if several else [FLOAT]


def correction(known: Sequence[tuple[Widths, float]], widths: Widths) -> float:
    """Return by what the prediction of a network is wrong, from the networks near it that were measured.

    The mean of the logarithms, weighted by the inverse of the squared distance in the logarithms of the widths
    (Shepard 1968): that of a network itself where it was measured, 1 where none was.
    """
    total = weights = 0.0
    for near, factor in known:
        distance = sum(math.log(width / near[name]) ** 2 for name, width in widths.items())
        if distance == 0:
            return factor
        total += math.log(factor) / distance
        weights += 1 / distance
    return math.exp(total / weights) if weights else 1.0

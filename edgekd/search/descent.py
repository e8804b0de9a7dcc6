"""Which widths: the network that keeps most of what counts and costs no more than a limit, by a model of the cost.

A greedy descent as of NetAdapt (Yang et al. 2018, arXiv:1804.03230), on predictions in place of measurements: from
the full network on, each time the narrowing that harms least per cost saved. What the last step saved too much is then
given back, and channels that cost nothing, because the device works in steps, are taken too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

Widths = Mapping[str, int]
"""Channels of each group."""
Costs = Callable[[Sequence[Widths]], Sequence[float]]
"""The cost of each of several networks; they are asked for together, because predictions of many are cheap."""

LIMIT = 1.0
"""Costs are parts of what is allowed."""
_NEARLY = 1e-12


@dataclass(frozen=True)
class Group:
    """Channels that can only go together.

    Args:
        harms: by how many of its most important channels are kept, rising to all of them, what that does to the
            network.
    """

    name: str
    harms: Mapping[int, float]

    @property
    def choices(self) -> tuple[int, ...]:
        """How many channels it may have, rising."""
        return tuple(self.harms)


def group(name: str, importance: Sequence[float], sections: int, round_to: int) -> Group:
    """Return a group whose widths are multiples of `round_to` that its sections divide, or all of it.

    Args:
        importance: of each channel, in any order.
    """
    multiple, count = math.lcm(round_to, sections), len(importance)
    kept = list(accumulate(sorted(importance, reverse=True)))
    choices = (*range(multiple, count, multiple), count)
    return Group(name, {width: _harm(kept[width - 1], kept[-1], width / count) for width in choices})


def harm(groups: Sequence[Group], widths: Widths) -> float:
    """Return what widths do to a network: -log of the part of the importance that is kept, summed over the groups.

    Layers stand one behind the other, so the parts that they keep multiply (as in `compress.rank_choice`).
    """
    return sum(one.harms[widths[one.name]] for one in groups)


def full(groups: Sequence[Group]) -> dict[str, int]:
    """Return the widths of the full network."""
    return {one.name: one.choices[-1] for one in groups}


def smallest(groups: Sequence[Group]) -> dict[str, int]:
    """Return the widths of the smallest network."""
    return {one.name: one.choices[0] for one in groups}


def search(groups: Sequence[Group], costs: Costs) -> dict[str, int] | None:
    """Return the widths that harm least, as far as greed finds them, and cost no more than `LIMIT`.

    No group alone can be widened within the limit, and no two can be exchanged for less harm.

    Returns:
        None where the descent ends above the limit.
    """
    found = descend(groups, costs)
    return None if found is None else improve(groups, found, costs)


def descend(groups: Sequence[Group], costs: Costs) -> dict[str, int] | None:
    """Return the first network of the descent that costs no more than `LIMIT`, or None."""
    widths = full(groups)
    (cost,) = costs([widths])
    while cost > LIMIT:
        options = [(one, width) for one in groups for width in one.choices if width < widths[one.name]]
        if not options:
            return None
        found = costs([{**widths, one.name: width} for one, width in options])
        rated = [
            (_rate(one.harms[width] - one.harms[widths[one.name]], cost - after), one.name, width, after)
            for (one, width), after in zip(options, found, strict=True)
        ]
        _, name, width, cost = min(rated)
        widths[name] = width
    return widths


def improve(groups: Sequence[Group], widths: Widths, costs: Costs) -> dict[str, int]:
    """Return a network within the limit that harms less: widened where that fits, then by exchanges."""
    found = dict(widths)
    while True:
        better = _best(groups, found, costs, _widened(groups, found))
        if better is None:
            better = _best(groups, found, costs, _exchanged(groups, found))
        if better is None:
            return found
        found = better


def uniform(groups: Sequence[Group], costs: Costs) -> dict[str, int] | None:
    """Return the widest network within the limit whose groups all keep the same part of their channels, or None."""
    parts = sorted({width / one.choices[-1] for one in groups for width in one.choices}, reverse=True)
    networks = [
        {one.name: max([w for w in one.choices if w <= part * one.choices[-1] + _NEARLY], default=one.choices[0])
         for one in groups}
        for part in parts
    ]  # fmt: skip
    return next((found for found, cost in zip(networks, costs(networks), strict=True) if cost <= LIMIT), None)


def _harm(kept: float, total: float, share: float) -> float:
    """Return -log of the kept part; of a group that does not count at all, of its channels."""
    return -math.log(max(kept / total, 1e-300)) if total > 0 else -math.log(share)


def _rate(harm: float, saved: float) -> tuple[int, float]:
    """Return how bad a narrowing is: what saves nothing is worse than all that saves, and then counts by its harm."""
    return (0, harm / saved) if saved > _NEARLY else (1, harm)


def _best(
    groups: Sequence[Group], widths: Widths, costs: Costs, options: Iterator[dict[str, int]]
) -> dict[str, int] | None:
    """Return the network within the limit that harms least, if it harms less than the given one."""
    now = harm(groups, widths)
    better = [(after, changed) for changed in options if (after := harm(groups, changed)) < now - _NEARLY]
    better.sort(key=lambda one: one[0])
    for begin in range(0, len(better), 64):  # the least harmful ones are looked at first, a few at a time
        some = [changed for _, changed in better[begin : begin + 64]]
        for changed, cost in zip(some, costs(some), strict=True):
            if cost <= LIMIT:
                return changed
    return None


def _widened(groups: Sequence[Group], widths: Widths) -> Iterator[dict[str, int]]:
    for one in groups:
        for width in one.choices:
            if width > widths[one.name]:
                yield {**widths, one.name: width}


def _exchanged(groups: Sequence[Group], widths: Widths) -> Iterator[dict[str, int]]:
    """Yield every network with one group wider and another one narrower."""
    for wider in _widened(groups, widths):
        for one in groups:
            if wider[one.name] == widths[one.name]:
                for width in one.choices:
                    if width < widths[one.name]:
                        yield {**wider, one.name: width}

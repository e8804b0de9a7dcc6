"""How many channels of each group stay: by a ratio, or exactly as many as a recipe says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.document import suggest
from edgekd.errors import StageError
from edgekd.stages.prune import Options


@dataclass(frozen=True)
class Group:
    """Channels that can only go together.

    Args:
        name: of the layer whose outputs they are.
        cut: Torch-Pruning's function that removes outputs of such a layer.
        sections: equal parts (of a grouped convolution) that must stay of equal size.
        importance: of each channel of a section, (channels / sections,).
    """

    name: str
    layer: nn.Module
    cut: Any
    sections: int
    importance: Tensor

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.sections * len(self.importance)


@dataclass(frozen=True)
class Cut:
    """How much is to go.

    Args:
        part: of what the options ask for, in all; less than one in the first of several steps.
        widths: channels that each group had at first, by its name; None: they are what they were.
    """

    part: float = 1.0
    widths: Mapping[str, int] | None = None


WHOLE = Cut()
"""All that the options ask for."""


def keeping(found: Sequence[Group], options: Options, cut: Cut) -> list[int]:
    """Return how many channels of each group stay.

    Raises:
        StageError: a layer would lose all of its channels, or widths do not fit the groups; all of them are told.
    """
    if options.widths is not None:
        problems = list(_misfits(found, options.widths))
        if problems:
            raise StageError("\n  ".join(["prune.widths:", *problems]))
        return [options.widths.get(group.name, group.channels) for group in found]
    if not options.ratio:
        return [group.channels for group in found]
    return [kept(group, share, options) for group, share in zip(found, _shares(found, options, cut), strict=True)]


def _misfits(found: Sequence[Group], widths: Mapping[str, int]) -> Iterator[str]:
    known = {group.name: group for group in found}
    for name, width in widths.items():
        if name not in known:
            yield f"no group of channels {name!r}{suggest(name, known)} (there are: {', '.join(known)})"
            continue
        group = known[name]
        if width > group.channels:
            yield f"{name}: {width} channels are to stay, and it has {group.channels}"
        elif width % group.sections:
            yield f"{name}: {width} channels are to stay in {group.sections} equal parts; choose a multiple of that"


def _shares(found: Sequence[Group], options: Options, cut: Cut) -> list[float]:
    """Return the part of each group's channels that should stay."""
    at_first = [(cut.widths or {}).get(group.name, group.channels) for group in found]
    ratio = (options.ratio or 0.0) * cut.part
    if options.scope == "uniform" or not found:
        return [(1 - ratio) * first / group.channels for group, first in zip(found, at_first, strict=True)]
    ranked = torch.cat([group.importance.repeat(group.sections) for group in found]).sort().values
    gone = sum(at_first) - len(ranked)
    threshold = ranked[min(len(ranked) - 1, max(0, round(ratio * sum(at_first)) - gone))]
    return [float((group.importance >= threshold).double().mean()) for group in found]


def kept(group: Group, share: float, options: Options) -> int:
    """Return how many channels of a group stay.

    The number nearest to the share among the multiples of `round_to` and all of them; of two equally near ones the
    larger. A grouped convolution keeps a number that its groups divide.

    Raises:
        StageError: the share is less than half a channel.
    """
    wanted = share * group.channels
    if wanted < 0.5:
        raise StageError(
            f"prune: a ratio of {options.ratio:g} (scope: {options.scope}) would leave {wanted:.2g} of the "
            f"{group.channels} channels of {group.name}; lower ratio, or {remedy(group.name)}"
        )
    multiple = math.lcm(options.round_to, group.sections)
    possible: list[int] = [*range(multiple, group.channels, multiple), group.channels]
    ranked = sorted((round(abs(count - wanted), 6), -count) for count in possible)
    return -ranked[0][1]


def remedy(name: str) -> str:
    """Return what to do about a layer that cannot be pruned."""
    return f"exclude it, such as by --set 'prune.exclude=[\"{name}\"]'"

"""The power chips on a Jetson's module and carrier board, read through sysfs: no privilege, and time stamps of our own.

All chips are one meter, because which rails make up the total depends on all of them; `rails` has the table.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.ina import Rail, chips
from edgekd.agent.meters import Channel, Reading
from edgekd.agent.polling import Ticks
from edgekd.agent.rails import Total, total_of

_SHORTEST_PERIOD_S = 0.1  # a reading of three rails takes milliseconds on the bus that the chips hang on


class Ina:
    """All rails of the board."""

    floor_j: Optional[float] = None

    def __init__(self, rails: Tuple[Rail, ...], total: Total, period_s: float, floor_w: Optional[float]) -> None:
        self._rails = rails
        self._ticks = Ticks(period_s)
        self.channels = tuple(Channel(rail.name, "power") for rail in rails)
        self.total, self.scope, self.scope_kind = total.rails, total.scope, total.scope_kind
        self.period_s, self.floor_w = period_s, floor_w

    def read(self) -> Reading:
        """Return the watts of all rails; one that is switched off may be unreadable, and is NaN."""
        time_ns = self._ticks.wait()
        return Reading(time_ns, tuple(map(_watts, self._rails)))

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open(root: Path) -> Ina:
    """Return the meter of all rails.

    Raises:
        AgentError: There is no such chip, its files may not be read, or it is not known which rails are the total.
    """
    try:
        found = chips(root)
        rails = tuple(rail for chip in found for rail in chip.rails)
        if not rails:
            raise AgentError("no INA3221 or INA238 with a connected rail in /sys here")
        total = total_of(rail.name for rail in rails)
        floor_w = _floor_w([rail for rail in rails if rail.name in total.rails])
    except PermissionError as error:
        raise AgentError("%s may not be read by this user; run the agent as root" % error.filename) from error
    except (OSError, ValueError) as error:
        raise AgentError("a rail cannot be read: %s" % error) from error
    periods = [chip.period_s for chip in found if chip.period_s is not None]
    return Ina(rails, total, max([_SHORTEST_PERIOD_S, *periods]), floor_w)


def _floor_w(rails: Sequence[Rail]) -> Optional[float]:
    """Return the smallest step of a sum of rails; each is read once, so that one that cannot be read is told now."""
    steps: Dict[str, Optional[float]] = {}
    for rail in rails:
        rail.read_w()
        steps[rail.name] = rail.floor_w()
    known = [step for step in steps.values() if step is not None]
    return sum(known) if len(known) == len(steps) else None


def _watts(rail: Rail) -> float:
    try:
        return rail.read_w()
    except (OSError, ValueError):
        return math.nan

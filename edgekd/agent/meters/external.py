"""A meter in the supply cable of the device: the host brings its samples, and the device only makes the windows."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.meters import Channel, Reading


class External:
    """A meter without readings of its own."""

    scope = "supply of the device (external meter)"
    scope_kind = "wall"
    channels: Tuple[Channel, ...] = ()
    total: Tuple[str, ...] = ()
    period_s = 1.0  # that of most meters in a wall socket; a job may say better
    floor_w: Optional[float] = None
    floor_j: Optional[float] = None

    def read(self) -> Reading:
        """Raise AgentError: there is nothing to read here."""
        raise AgentError("an external meter is read by the host")

    def close(self) -> None:
        """Do nothing: nothing is open."""


def open(root: Path) -> External:
    """Return the meter; it needs nothing of the device."""
    del root
    return External()

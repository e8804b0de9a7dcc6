"""Where the device's file system starts: "/", or another folder when the agent is shown a made-up device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

ROOT = Path(os.environ.get("EDGEKD_AGENT_ROOT", "/"))
"""Power sensors and the device's state are read below it."""


def simulated() -> Optional[str]:
    """Return why what is read here is no measurement, or None on a real device."""
    return None if Path("/") == ROOT else "power and device state are read below %s instead of /" % ROOT

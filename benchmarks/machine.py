"""When and on what a benchmark ran: without it a figure is worth nothing."""

from __future__ import annotations

import platform
from datetime import UTC, datetime

from edgekd.agent import environment


def here() -> str:
    """Return the time, the processor, the system, and how busy they are."""
    state = environment.snapshot()
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {state['cpu']}, {platform.platform()}, load {state['load_average']}"
    )

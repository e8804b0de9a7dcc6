"""How often a profiled model runs."""

from __future__ import annotations

import time
from typing import Callable

_RUNS = 20
_SECONDS = 1.0


def repeat(run: Callable[[], object], most: int = _RUNS) -> int:
    """Run a profiled model several times, as often as a second allows, at least twice; return how often."""
    deadline, count = time.monotonic() + _SECONDS, 0
    while count < 2 or (count < most and time.monotonic() < deadline):
        run()
        count += 1
    return count

"""When to read a sensor that does not say by itself that it has a new value."""

from __future__ import annotations

import time
from typing import Callable, Optional


class Ticks:
    """Moments that lie a period apart. A reader that comes too late starts again from now: there are no quick ticks
    afterwards that would read a value twice."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._next = time.monotonic()

    def wait(self) -> int:
        """Sleep until the next moment and return CLOCK_MONOTONIC in nanoseconds."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self._period_s
        return time.monotonic_ns()


def smallest_step(read: Callable[[], int], seconds: float, steps: int = 20) -> Optional[int]:
    """Return the smallest step of a counter that is polled until it made some, at most for so long; None if it made
    none. A counter that fell has started again and counts for nothing."""
    deadline = time.monotonic() + seconds
    smallest: Optional[int] = None
    last = read()
    while steps and time.monotonic() < deadline:
        now = read()
        if now > last:
            smallest = now - last if smallest is None else min(smallest, now - last)
            steps -= 1
        last = now
    return smallest

"""The log of a run, read while it grows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ENDS = ("finished", "failed", "interrupted")
QUIET = {"measuring": True, "measured": False, "start": False}
"""Whether from an event on nothing else should be at work on this machine. A search trains between its measurements."""


def batches(path: Path, alive: Callable[[], bool], *, pause_s: float = 0.2) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of a log that are new, until one is the last or nobody is left to write it.

    While a device is measured, nothing is yielded: the lines wait.
    """
    waiting: list[dict[str, Any]] = []
    rest, quiet = "", False
    with path.open(encoding="utf-8") as stream:
        while True:
            gone = not alive()  # asked first: what was written before is still read
            *lines, rest = (rest + stream.read()).split("\n")
            waiting += map(json.loads, lines)
            for line in waiting:
                quiet = QUIET.get(line["event"], quiet)
            over = gone or any(line["event"] in ENDS for line in waiting)
            if over or (waiting and not quiet):
                yield waiting
                waiting = []
            if over:
                return
            time.sleep(pause_s)

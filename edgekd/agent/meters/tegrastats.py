"""NVIDIA's `tegrastats`, for a Jetson whose sensors cannot be read directly.

Its fields change with every release, so a line is read by its tokens, never by position. `VDD_IN 5299mW/5210mW` is a
rail now, and its mean since tegrastats was started (a third number is its peak): only the first one is used. Older
releases leave out "mW".
"""

from __future__ import annotations

import math
import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.meters import Channel, Reading
from edgekd.agent.rails import total_of

_PERIOD_S = 0.1
_SILENT_PERIODS = 5
_START_SECONDS = 5.0
_LONGEST_LINE = 1 << 16

# The whole token must be there, up to the white space behind it: what is cut may be another number.
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?[0-9]{1,9})(?:mW)?(?:/-?[0-9]{1,9}(?:mW)?){1,2}(?=\s)")
_MEMORY = ("RAM", "SWAP", "IRAM")  # in use and there is; their unit may have been cut off


def parse(line: str) -> Dict[str, float]:
    """Return the present power of each rail in a line, in watts; {} where there is none.

    Args:
        line: A line with its newline: without one its last token may have been cut, and is left out.
    """
    return {name: int(value) / 1e3 for name, value in _RAIL.findall(line) if name not in _MEMORY}


class Tegrastats:
    """The rails of the first line that has some."""

    floor_w: Optional[float] = None  # its numbers are in mW, but the chips' steps are coarser
    floor_j: Optional[float] = None

    def __init__(self, command: Sequence[str], period_s: float = _PERIOD_S) -> None:
        """Start the program and wait for its first reading.

        Raises:
            AgentError: It cannot be started, or prints no power, or rails whose total is not known.
        """
        self.period_s = period_s
        self._pending = b""
        self._said = ""
        try:
            self._child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentError("%s cannot be started: %s" % (command[0], error)) from error
        try:
            first = self._next(_START_SECONDS)
            if first is None:
                raise AgentError("%s printed no power in %g s%s" % (command[0], _START_SECONDS, self._last_words()))
            total = total_of(first)
        except AgentError:
            self.close()
            raise
        self.channels = tuple(Channel(name, "power") for name in first)
        self.total, self.scope, self.scope_kind = total.rails, total.scope, total.scope_kind

    def read(self) -> Reading:
        """Return the next line; after five periods of silence, or for a rail that it lacks, NaN.

        Raises:
            AgentError: The program has ended.
        """
        rails = self._next(_SILENT_PERIODS * self.period_s) or {}
        return Reading(time.monotonic_ns(), tuple(rails.get(channel.name, math.nan) for channel in self.channels))

    def close(self) -> None:
        """End the program and what it started."""
        if self._child.stdout is None or self._child.stdout.closed:
            return
        with suppress(ProcessLookupError):  # all of them may have ended by themselves
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child.stdout.close()

    def _next(self, seconds: float) -> Optional[Dict[str, float]]:
        """Return the rails of the newest line that has some; None if none comes in time."""
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            data = os.read(descriptor, 1 << 20)  # more than a pipe holds
            if not data:
                raise AgentError("tegrastats ended (exit code %s)%s" % (self._child.wait(), self._last_words()))
            *lines, rest = (self._pending + data).split(b"\n")
            self._pending = rest[:_LONGEST_LINE]
            texts = [line.decode("utf-8", "replace") + "\n" for line in lines]
            # Lines that waited in the pipe are old: their time is not now.
            found: List[Dict[str, float]] = [rails for rails in map(parse, texts) if rails]
            self._said = texts[-1].strip() if texts else self._said
            if found:
                return found[-1]

    def _last_words(self) -> str:
        return "; it printed last: %s" % self._said if self._said else ", and printed nothing"


def open(root: Path) -> Tegrastats:
    """Start `tegrastats`; under another root only the one in its usr/bin.

    Raises:
        AgentError: There is no tegrastats here, or it prints no total.
    """
    places: Tuple[Optional[str], ...] = (str(root / "usr/bin/tegrastats"),)
    if root == Path("/"):
        places = (shutil.which("tegrastats"), *places)
    program = next((place for place in places if place and os.access(place, os.X_OK)), None)
    if program is None:
        raise AgentError("no such program here")
    return Tegrastats([program, "--interval", str(int(_PERIOD_S * 1e3))])

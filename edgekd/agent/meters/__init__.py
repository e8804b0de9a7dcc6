"""Power sources: one module each, found by its file name.

A meter module has `open(root) -> Meter`, which raises AgentError with the reason in plain words when the source is not
there or may not be read. A meter here is a counter of energy; it is read before and after a window.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import List, Optional, Protocol, Tuple, cast

from edgekd.agent.errors import AgentError


class Meter(Protocol):
    """A counter of energy."""

    @property
    def scope(self) -> str:
        """What is counted, for example "package-0"."""

    def read(self) -> Tuple[int, ...]:
        """Return the raw counters now."""

    def joules(self, start: Tuple[int, ...], end: Tuple[int, ...]) -> float:
        """Return the energy in joules between two readings."""

    def floor_j(self) -> float:
        """Return the largest step of the counter that was seen, in joules: no edge of a window is finer."""


class MeterModule(Protocol):
    """What every module of this package offers."""

    def open(self, root: Path) -> Meter:
        """Return the meter, or raise AgentError with the reason why there is none."""


def available() -> List[str]:
    """Return the names of the meters there are, whether their source is present or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str, root: Path = Path("/")) -> Tuple[Optional[str], Optional[Meter], Optional[str]]:
    """Return (name, meter, None), or (None, None, the reason in plain words).

    Args:
        name: A meter's file name, "auto" for the first one that can be read, or "none".
        root: Where the device's file system starts; another folder in tests.

    Raises:
        AgentError: There is no meter of this name.
    """
    if name == "none":
        return None, None, "energy measurement is switched off (power meter: none)"
    if name != "auto" and name not in available():
        raise AgentError("there is no power meter %r; there are auto, none, %s" % (name, ", ".join(available())))
    reasons = []
    for candidate in available() if name == "auto" else [name]:
        module = cast("MeterModule", importlib.import_module("%s.%s" % (__name__, candidate)))
        try:
            return candidate, module.open(root), None
        except AgentError as error:
            reasons.append("%s: %s" % (candidate, error))
    return None, None, "; ".join(reasons)

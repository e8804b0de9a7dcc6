"""RAPL: the energy counters of x86 processors (Intel, and AMD since Zen), one per package.

Source: the Linux kernel's powercap documentation. Only packages are summed: their subdomains (core, uncore, dram) are
parts of them, `psys` contains them, and `intel-rapl-mmio` counts a package a second time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Tuple

from edgekd.agent.errors import AgentError

_STEPS = 20
_LONGEST_POLL_NS = 200_000_000  # a counter is updated about every millisecond


@dataclass(frozen=True)
class Domain:
    """One package: its name, its counter's file (microjoules) and the value after which it starts again at 0."""

    name: str
    counter: Path
    range_uj: int


class Rapl:
    """The sum over all packages."""

    def __init__(self, domains: Tuple[Domain, ...], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._domains = domains
        self._clock = clock
        self.scope = " + ".join(domain.name for domain in domains)

    def read(self) -> Tuple[int, ...]:
        """Return the counters in microjoules, one per package."""
        return tuple(_integer(domain.counter) for domain in self._domains)

    def joules(self, start: Tuple[int, ...], end: Tuple[int, ...]) -> float:
        """Return the joules between two readings; a counter may have wrapped once in between."""
        total = 0
        for domain, before, after in zip(self._domains, start, end):
            # The largest value is itself counted, so the period is one longer.
            total += after - before if after >= before else after - before + domain.range_uj + 1
        return total / 1e6

    def floor_j(self) -> float:
        """Poll until some updates were seen, at most 0.2 s, and return the largest step; 0 J if there was none."""
        largest, steps, last = 0.0, 0, self.read()
        deadline = self._clock() + _LONGEST_POLL_NS
        while steps < _STEPS and self._clock() < deadline:
            now = self.read()
            if now != last:
                largest, steps, last = max(largest, self.joules(last, now)), steps + 1, now
        return largest


def open(root: Path) -> Rapl:
    """Return the meter of all packages.

    Raises:
        AgentError: There are no RAPL packages here, or their counters may not be read.
    """
    powercap = root / "sys/class/powercap"
    # "intel-rapl:0" is a package; "intel-rapl:0:1" is a part of it. AMD's counters have the same names.
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    domains = []
    try:
        for zone in zones:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if name.startswith("package-"):
                domains.append(Domain(name, zone / "energy_uj", _integer(zone / "max_energy_range_uj")))
                _integer(zone / "energy_uj")
    except PermissionError as error:
        raise AgentError(
            "%s may be read by root only (so it is since Linux 5.10); run the agent as root, or for this boot: "
            "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" % error.filename
        ) from error
    except (OSError, ValueError) as error:
        raise AgentError("the energy counters cannot be read: %s" % error) from error
    if not zones:
        raise AgentError(
            "no /sys/class/powercap/intel-rapl* on this machine (a virtual machine, or not an x86 processor)"
        )
    if not domains:
        raise AgentError("no package among /sys/class/powercap/intel-rapl* on this machine")
    return Rapl(tuple(sorted(domains, key=lambda domain: domain.name)))


def _integer(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

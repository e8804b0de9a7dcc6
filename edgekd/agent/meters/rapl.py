"""RAPL: the energy counters of x86 processors (Intel, and AMD since Zen), one per package.

Source: the Linux kernel's powercap documentation. Packages and their DRAM are summed: the DRAM is a domain beside its
package although its folder lies inside. The other subdomains (core, uncore) are parts of the package, `psys` contains
packages, and `intel-rapl-mmio` counts a package a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List, Optional, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.meters import Channel, Reading
from edgekd.agent.polling import Ticks, smallest_step

_PERIOD_S = 0.05  # the counters change every millisecond
_STEP_SECONDS = 0.1


@dataclass(frozen=True)
class Domain:
    """One counter: its name, its file (microjoules) and the value after which it starts again at 0."""

    name: str
    counter: Path
    range_uj: int


class Rapl:
    """All packages and their DRAM, as counters that never start again."""

    scope_kind = "package"
    period_s = _PERIOD_S
    floor_w: Optional[float] = None

    def __init__(self, domains: Tuple[Domain, ...]) -> None:
        self._domains = domains
        self._last = [_integer(domain.counter) for domain in domains]
        self._spent_uj = [0] * len(domains)
        self._ticks = Ticks(_PERIOD_S)
        self.channels = tuple(Channel(domain.name, "energy") for domain in domains)
        self.total = tuple(domain.name for domain in domains)
        packages = [name for name in self.total if not name.endswith("/dram")]
        dram = " and their DRAM" if len(packages) < len(domains) else ""
        self.scope = "CPU packages (%s)%s" % (", ".join(packages), dram)
        self.floor_j = _floor_j(domains)

    def read(self) -> Reading:
        """Return the joules since the meter was opened. A counter may start again once between two readings.

        Raises:
            AgentError: A counter can be read no more.
        """
        time_ns = self._ticks.wait()
        for index, domain in enumerate(self._domains):
            try:
                now = _integer(domain.counter)
            except (OSError, ValueError) as error:
                raise AgentError(
                    "the energy counter of %s cannot be read any more: %s" % (domain.name, error)
                ) from error
            # The largest value is itself counted, so the period is one longer.
            self._spent_uj[index] += (now - self._last[index]) % (domain.range_uj + 1)
            self._last[index] = now
        return Reading(time_ns, tuple(spent / 1e6 for spent in self._spent_uj))

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open(root: Path) -> Rapl:
    """Return the meter of all packages.

    Raises:
        AgentError: There are no RAPL packages here, or their counters may not be read.
    """
    # "intel-rapl:0" is a package; "intel-rapl:0:1" is a part of it. AMD's counters have the same names.
    zones = sorted(zone for zone in (root / "sys/class/powercap").glob("intel-rapl:*") if zone.name.count(":") == 1)
    if not zones:
        raise AgentError("no /sys/class/powercap/intel-rapl* here")
    try:
        domains = [domain for zone in zones for domain in _domains(zone)]
        if not domains:
            raise AgentError("no package among /sys/class/powercap/intel-rapl* on this machine")
        return Rapl(tuple(domains))
    except PermissionError as error:
        raise AgentError(
            "%s may be read by root only (so it is since Linux 5.10); run the agent as root, or for this boot: "
            "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" % error.filename
        ) from error
    except (OSError, ValueError) as error:
        raise AgentError("the energy counters cannot be read: %s" % error) from error


def _domains(zone: Path) -> List[Domain]:
    """Return a package and its DRAM; nothing where the zone is not a package."""
    name = _name(zone)
    if not name.startswith("package-"):
        return []
    # Since Linux 3.13 a zone's parts are folders in it, and links beside it.
    parts = {part.name: part for folder in (zone, zone.parent) for part in folder.glob(zone.name + ":*")}
    dram = [part for _, part in sorted(parts.items()) if _name(part) == "dram"]
    return [_domain(name, zone), *(_domain(name + "/dram", part) for part in dram)]


def _domain(name: str, zone: Path) -> Domain:
    return Domain(name, zone / "energy_uj", _integer(zone / "max_energy_range_uj"))


def _floor_j(domains: Tuple[Domain, ...]) -> Optional[float]:
    """Return the smallest step of the sum, as seen for a moment: no edge of a window is finer."""
    steps = [smallest_step(partial(_integer, domain.counter), _STEP_SECONDS) for domain in domains]
    return None if None in steps else sum(step for step in steps if step is not None) / 1e6


def _name(zone: Path) -> str:
    return (zone / "name").read_text(encoding="ascii").strip()


def _integer(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

"""What edgekd can do on a probed device, and what it cannot: why, and how to mend it."""

from __future__ import annotations

import re
import sys
from typing import Any, Dict, List, Mapping

from edgekd.agent import meters

Sections = Mapping[str, Mapping[str, Mapping[str, Any]]]

ENERGY, CLOCKS, ROOM = "energy", "clocks", "room"
"""Topics beside the names of the backends."""
LOCKING = "lock the clocks"

_LEAST_BYTES = 10**9
_NOT_RUNTIMES = ("python", "numpy", "cuda")


def abilities(sections: Sections) -> Dict[str, Any]:
    """Return {"can": sentences, "cannot": [{"topic", "what", "why", "mend"}]} from a probe's sections."""
    can: List[str] = []
    cannot: List[Dict[str, str]] = []
    jetson = "value" in sections["board"]["l4t"]
    for name, fact in sections["software"].items():
        if name in _NOT_RUNTIMES:
            continue
        what = "measure accuracy, latency and memory with %s" % name
        if "value" in fact:
            stand_in = fact["value"].get("simulated")
            marked = " (SIMULATED: %s)" % stand_in if stand_in else ""
            can.append("%s %s%s" % (what, fact["value"]["version"], marked))
        else:
            cannot.append(_lack(name, what, _first_sentence(fact["unavailable"]), _install(name, jetson)))
    _energy(sections["power"], can, cannot)
    if jetson:
        _clocks(sections, can, cannot)
    _room(sections["room"], cannot)
    return {"can": can, "cannot": cannot}


def _energy(power: Mapping[str, Mapping[str, Any]], can: List[str], cannot: List[Dict[str, str]]) -> None:
    for name, fact in power.items():
        if "value" in fact:
            told = "measure energy: %s, read by %s" % (fact["value"]["scope"], name)
            can.append(
                told if name in meters.ORDER else "%s if that is asked for (`power: {meter: %s}`)" % (told, name)
            )
            return
    allowed = any("as root" in fact["unavailable"] for fact in power.values())
    mend = "an external meter (`power: {meter: external}` in the device profile)"
    why = "none of the meters gives a reading: %s" % ", ".join(power)
    cannot.append(_lack(ENERGY, "measure energy", why, mend + (", or the permission to read" if allowed else "")))


def _clocks(sections: Sections, can: List[str], cannot: List[Dict[str, str]]) -> None:
    program, sudo = (sections["room"][name] for name in ("jetson_clocks", "sudo_without_password"))
    if "value" in program and "value" in sudo:
        can.append("lock the clocks during a measurement, if asked to")
    elif "value" in program:
        mend = 'a line "USER ALL=(root) NOPASSWD: %s" in a file below /etc/sudoers.d' % program["value"]
        cannot.append(_lack(CLOCKS, LOCKING, sudo["unavailable"], mend))
    else:
        mend = "in a container it is missing; run on the board itself"
        cannot.append(_lack(CLOCKS, LOCKING, program["unavailable"], mend))
    if "asked for" in str(sections["state"]["frequency_source"].get("value")):
        why = "cpuinfo_cur_freq is for root only; scaling_cur_freq is only what the governor asked for"
        cannot.append(_lack(CLOCKS, "see the true clocks of the CPU", why, "run the agent as root, if clocks matter"))


def _room(room: Mapping[str, Mapping[str, Any]], cannot: List[Dict[str, str]]) -> None:
    for place, free in (room["disk_free_bytes"].get("value") or {}).items():
        if free < _LEAST_BYTES:
            why = "%d MB are free in %s" % (free // 10**6, place)
            cannot.append(_lack(ROOM, "hold a large job", why, "free some, or set TMPDIR to a larger place"))
    available = room["memory_available_bytes"].get("value")
    if available is not None and available < _LEAST_BYTES:
        why = "%d MB of memory are available" % (available // 10**6)
        mend = "end what is not needed (a desktop takes about 1 GB); swap does not help a GPU"
        cannot.append(_lack(ROOM, "load large models or build engines for them", why, mend))


def _install(name: str, jetson: bool) -> str:
    if name != "tensorrt":
        return "%s -m pip install %s" % (sys.executable, name)
    if jetson:
        return "sudo apt install python3-libnvinfer, and run the agent with /usr/bin/python3"
    return "on a PC with an NVIDIA GPU: %s -m pip install tensorrt" % sys.executable


def _first_sentence(reason: str) -> str:
    """Return how a reason starts; the whole of it is beside the runtime."""
    return re.split(r"\.\s|\n", reason, maxsplit=1)[0]


def _lack(topic: str, what: str, why: str, mend: str) -> Dict[str, str]:
    return {"topic": topic, "what": what, "why": why, "mend": mend}

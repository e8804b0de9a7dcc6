"""`probe`: one command that changes nothing and tells what this device is, what edgekd can do here, and what not.

Every fact is {"value": ...} or {"unavailable": why}. Names end in the unit where there is one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

import numpy as np

from edgekd.agent import PROTOCOL, __version__, backends, environment, meters
from edgekd.agent.abilities import abilities
from edgekd.agent.children import run_child
from edgekd.agent.errors import AgentError
from edgekd.agent.probe_text import text
from edgekd.agent.root import ROOT, simulated

Fact = Dict[str, Any]
Facts = Dict[str, Fact]

_BOARD = ("machine", "l4t", "jetpack", "cpu", "architecture", "online_cores", "kernel", "uptime_seconds")
_STATE = ["power_mode", "governor", "frequency_mhz", "frequency_source", "frequency_limits_mhz", "temperature_c"]
_STATE += ["throttle_counts", "cooling", "fan", "load_average"]
_IMPORT_SECONDS = 120.0
_SUDO_SECONDS = 5.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add what `probe` takes."""
    parser.add_argument("--json", action="store_true", help="for machines")


def command(chosen: Namespace) -> int:
    """Probe and print."""
    told = probe()
    print(json.dumps(told, indent=1) if chosen.json else text(told))
    return 0


def probe(root: Path = ROOT, runtimes: Optional[Callable[[], Facts]] = None) -> Dict[str, Any]:
    """Return what is known of this device.

    Args:
        root: Where the device's file system starts; another folder in tests.
        runtimes: Gives the facts of the runtimes by name; by default each is imported in a process of its own.

    Returns:
        "protocol", "agent", "simulated", "isa", "environment" (a snapshot), "sections": facts by section, "can":
        sentences, "cannot": {"topic", "what", "why", "mend"}; and short forms for programs: "backends" {name: runtime
        or {"error"}} and "meters" {name: {"scope", "reason"}}.
    """
    state = environment.snapshot(root)
    found = (runtimes or imported)()
    power = {name: _meter(name, root) for name in _meter_names()}
    sections = {
        "board": {name: _known(state, name) for name in _BOARD},
        "software": {
            "python": {"value": "%s (%s)" % (platform.python_version(), sys.executable)},
            "numpy": {"value": np.__version__},
            "cuda": _cuda(root),
            **found,
        },
        "power": power,
        "state": {name: _known(state, name) for name in _STATE},
        "room": {**_room(state), "sudo_without_password": _sudo(), "jetson_clocks": _program("jetson_clocks")},
    }
    return {
        "protocol": PROTOCOL,
        "agent": __version__,
        "simulated": simulated(),
        "isa": environment.isa(root),
        "environment": state,
        "sections": sections,
        **abilities(sections),
        "backends": {name: fact.get("value") or {"error": fact["unavailable"]} for name, fact in found.items()},
        "meters": {
            name: {"scope": (fact.get("value") or {}).get("scope"), "reason": fact.get("unavailable")}
            for name, fact in power.items()
        },
    }


def imported() -> Facts:
    """Import each runtime in a process of its own: an import can do worse than raise an error."""
    facts: Facts = {}
    with tempfile.TemporaryDirectory(prefix="edgekd-probe-") as work:
        for name in backends.available():
            task = {"kind": "import", "label": "import of %s" % name, "cores": None, "backend": name}
            try:
                result = run_child(task, Path(work) / name, lambda detail: None, _IMPORT_SECONDS)
                facts[name] = {"value": result["runtime"]}
            except AgentError as error:
                facts[name] = {"unavailable": str(error)}
    return facts


def _known(state: Mapping[str, Any], name: str) -> Fact:
    value = state[name]
    return {"value": value} if value is not None else {"unavailable": state["reasons"].get(name, "unknown")}


def _meter_names() -> List[str]:
    """Return the meters that read something here: in the order in which "auto" tries them, then those it does not."""
    others = [name for name in meters.available() if name not in (*meters.ORDER, "external")]
    return [*meters.ORDER, *others]


def _meter(name: str, root: Path) -> Fact:
    _, meter, reason = meters.find(name, root)
    if meter is None:
        return {"unavailable": str(reason).replace("%s: " % name, "", 1)}
    told = {"scope": meter.scope, "channels": [channel.name for channel in meter.channels], "period_s": meter.period_s}
    meter.close()
    return {"value": told}


def _cuda(root: Path) -> Fact:
    """Return the release of CUDA's toolkit, from the file that it brings."""
    for name, pattern in (
        ("version.json", r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([^"]+)"'),
        ("version.txt", r"(\d+[.\d]*)"),
    ):
        try:
            content = (root / "usr/local/cuda" / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        version = re.search(pattern, content)
        if version:
            return {"value": version.group(1)}
    return {"unavailable": "no toolkit in /usr/local/cuda"}


def _room(state: Mapping[str, Any]) -> Facts:
    memory = state["memory_bytes"] or {}
    place = tempfile.gettempdir()
    return {
        "memory_total_bytes": _number(memory, "total"),
        "memory_available_bytes": _number(memory, "available"),
        "disk_free_bytes": {"value": {place: shutil.disk_usage(place).free}},
        "cpu_quota": _known(state, "cpu_quota"),
        "affinity": _known(state, "affinity"),
    }


def _number(values: Mapping[str, int], name: str) -> Fact:
    return {"value": values[name]} if name in values else {"unavailable": "/proc/meminfo does not say"}


def _sudo() -> Fact:
    if os.geteuid() == 0:
        return {"value": "not needed, this is root"}
    sudo, clocks = shutil.which("sudo"), shutil.which("jetson_clocks")
    if sudo is None:
        return {"unavailable": "there is no sudo"}
    # It may be allowed for that one program only; to show the clocks changes nothing.
    asked = ["true"] if clocks is None else [clocks, "--show"]
    try:
        done = subprocess.run(
            [sudo, "-n", *asked],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SUDO_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"unavailable": str(error)}
    return {"value": "yes"} if done.returncode == 0 else {"unavailable": "sudo asks for a password"}


def _program(name: str) -> Fact:
    path = shutil.which(name)
    return {"value": path} if path else {"unavailable": "there is no %s on this machine" % name}

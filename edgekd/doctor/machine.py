"""What this machine can measure: its processor, runtimes, power sources, room, and the devices that it can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd import profiles
from edgekd.agent.abilities import ENERGY, ROOM
from edgekd.agent.probe_text import shown
from edgekd.device import Device, Quantization, scheme
from edgekd.dispatch import local, placing
from edgekd.doctor.finding import Finding
from edgekd.errors import StageError, UsageError
from edgekd.recipe import manual

PROCESSOR, RUNTIMES, POWER, ROOMS, DEVICES = "processor", "runtimes", "power", "room", "devices"


def findings() -> Iterator[Finding]:
    """Ask this machine's agent, as `edgekd device probe` does, and yield what follows."""
    try:
        probe = local.probe()
    except StageError as error:
        mend = "see what python -m edgekd.agent probe says"
        yield Finding(RUNTIMES, "agent", "broken", str(error), "any measurement on this machine", mend)
        return
    yield from of_probe(probe)
    yield from _devices(probe)


def of_probe(probe: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a probe (`edgekd.agent.probe`) says of processor, runtimes, power and room."""
    yield from _processor(probe)
    for name, found in probe["backends"].items():
        yield _runtime(name, found, probe)
    yield _power(probe)
    yield from _room(probe)


def _processor(probe: Mapping[str, Any]) -> Iterator[Finding]:
    state, isa = probe["environment"], probe["isa"]
    flags = ", ".join(state["flags"]) or "none of the instructions that matter here"
    yield Finding(PROCESSOR, "model", "ok", f"{state['cpu'] or 'unnamed'} ({state['architecture']}): {flags}")
    label = scheme(Quantization(), isa).label
    wanted = {"VNNI": isa["vnni"]} if isa["arch"] in ("x86_64", "amd64") else {"dot product": isa["dotprod"]}
    for name, there in wanted.items():
        told = f"{name}; scheme {label}"
        if there:
            yield Finding(PROCESSOR, "int8", "ok", told)
            continue
        gives = (
            "8-bit products that are summed in one instruction; without it int8 wins less than elsewhere, or nothing"
        )
        if name == "VNNI":
            gives += ", and its weights have 7 bits, so that sums do not saturate"
        mend = "nothing can be installed: measure on the processor that the model is for"
        yield Finding(PROCESSOR, "int8", "missing", f"no {told}", gives, mend)


def _runtime(name: str, found: Mapping[str, Any], probe: Mapping[str, Any]) -> Finding:
    if "error" not in found:
        more = [f"{key} {', '.join(found[key])}" for key in ("providers", "devices") if found.get(key)]
        more += [f"SIMULATED: {found['simulated']}"] if found.get("simulated") else []
        return Finding(RUNTIMES, name, "ok", "; ".join([found["version"], *more]))
    lack = next((one for one in probe["cannot"] if one["topic"] == name), None)
    gives, mend = (lack["what"], lack["mend"]) if lack else (None, None)
    there = find_spec(name) is not None  # a runtime is imported by the name of its backend
    return Finding(RUNTIMES, name, "broken" if there else "missing", found["error"], gives, mend)


def _power(probe: Mapping[str, Any]) -> Finding:
    reasons = [f"{name}: {one['reason']}" for name, one in probe["meters"].items() if one["reason"]]
    scopes = [f"{one['scope']}, read by {name}" for name, one in probe["meters"].items() if not one["reason"]]
    lack = next((one for one in probe["cannot"] if one["topic"] == ENERGY), None)
    if lack is None:
        return Finding(POWER, "meters", "ok", "; ".join(scopes))
    return Finding(POWER, "meters", "missing", "; ".join(reasons), "energy per inference", lack["mend"])


def _room(probe: Mapping[str, Any]) -> Iterator[Finding]:
    lacks = [one for one in probe["cannot"] if one["topic"] == ROOM]
    for lack in lacks:
        yield Finding(ROOMS, "small", "note", lack["why"], lack["what"], lack["mend"])
    if not lacks:
        room = probe["sections"]["room"]
        names = {"memory_available_bytes": "memory", "disk_free_bytes": "free for temporary files in"}
        told = [f"{text} {shown(name, room[name])}" for name, text in names.items()]
        yield Finding(ROOMS, "machine", "ok", ", ".join(told))


def _devices(probe: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield which device profiles can be measured here, as a run would find it."""
    elsewhere = []
    for name, path in (profiles.shipped_devices() | profiles.user_devices()).items():
        try:
            device = profiles.load_device(name)
        except UsageError as error:
            yield Finding(DEVICES, name, "broken", str(error), "the device in runs", f"mend {path}")
            continue
        if device.address:
            told, mend = f"over ssh, at {device.address}", f"edgekd device probe {name} asks it"
            yield Finding(DEVICES, name, "note", told, device.description, mend)
            continue
        problem = _problem(name, device, probe)
        if problem is None:
            elsewhere.append(name)
        elif problem:
            yield Finding(DEVICES, name, "missing", problem, device.description, needs(path))
        else:
            yield Finding(DEVICES, name, "ok", device.description)
    if elsewhere:
        mend = "--at NAME=user@host measures one over ssh, --bundle leaves a file to be run there"
        yield Finding(DEVICES, "boards", "note", f"other machines than this: {', '.join(elsewhere)}", None, mend)


def _problem(name: str, device: Device, probe: Mapping[str, Any]) -> str | None:
    """Return why a device cannot be measured here, "" if it can, None if it is another machine."""
    if device.expects and placing.elsewhere(device):
        return None
    runtime = probe["backends"].get(device.backend, {})
    if "error" in runtime and not device.python:
        return re.split(r"\.\s|\n", str(runtime["error"]), maxsplit=1)[0]
    _, problems = placing.place({name: device})
    return "; ".join(problem.removeprefix(f"device {name}: ") for problem in problems)


def needs(profile: Path) -> str | None:
    """Return what a profile's manual says that it needs."""
    found = re.search(r"^Needs: *(.*?)(?=^\S|\Z)", manual(profile), re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else None

"""Where each device is measured: here, over ssh, or wherever somebody takes its bundle; checked before any work."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.address import parse
from edgekd.agent import backends, locking, meters
from edgekd.agent.abilities import CLOCKS, LOCKING
from edgekd.agent.environment import choose_cores, isa, snapshot
from edgekd.agent.errors import AgentError
from edgekd.device import Device, resolved
from edgekd.dispatch import local, ssh
from edgekd.dispatch.remote import RemoteError
from edgekd.dispatch.variants import variant_names
from edgekd.document import suggest
from edgekd.errors import DeviceError, UsageError

Where = Literal["here", "ssh", "bundle"]


@dataclass(frozen=True)
class Place:
    """A device and where it is measured.

    Args:
        device: its profile; the quantization is decided.
        problem: why it could not be measured now, where that is not known to be for good: a board that is switched off.
        why: of a bundle, why there is no other way.
    """

    device: Device
    where: Where
    problem: str | None = None
    why: str = ""

    @property
    def pending(self) -> bool:
        """Whether the run can only prepare its measurement."""
        return self.where == "bundle"

    def told(self, name: str) -> str:
        """Return in words how the device will be measured, for a plan."""
        if self.where == "bundle":
            return f"{self.why}: the run ends with {bundle_name(name)}, to be taken there (exit code 4 until then)"
        if self.problem:
            return f"cannot be measured now, and will be tried again (else exit code 4): {self.problem}"
        return f"over ssh at {self.device.address}" if self.where == "ssh" else "always measured anew"


def bundle_name(device: str) -> str:
    """Return the file name of a device's bundle."""
    return f"bundle-{device}.zip"


def place(
    devices: Mapping[str, Device],
    *,
    bundle: bool = False,
    lock_clocks: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Place], list[str]]:
    """Return where each device is measured, and all that is wrong with the profiles.

    Args:
        devices: profiles by name.
        bundle: measure none now, leave bundles.
        lock_clocks: their clocks are to be locked.
        say: told of what will be pending, and of what cannot be reached.

    Raises:
        DeviceError: a device that cannot be reached leaves open which integers its processor computes well with.
    """
    problems = [problem for name, device in devices.items() for problem in _profile_problems(name, device)]
    if problems:
        return {}, problems
    remote = [name for name, device in devices.items() if device.address and not bundle]
    probes = _probes({name: devices[name] for name in remote})
    places: dict[str, Place] = {}
    for name, device in devices.items():
        if name in probes:
            places[name], found = _over_ssh(name, device, probes[name])
        elif bundle or elsewhere(device):
            found = []
            why = "a bundle was asked for" if bundle else f"this machine is no {name} and no address was given"
            if device.quantization.open:
                why += ", its integers are chosen for the processor of this machine"
            places[name] = Place(resolved(device, isa()), "bundle", why=why)
        else:
            places[name], found = _here(name, device)
        problems += found
        if not places[name].pending:
            problems += _meter_problems(name, device)
        if lock_clocks:
            problems += _clock_problems(name, places[name], probes.get(name))
        if places[name].problem or places[name].pending:
            say(f"{name}: {places[name].told(name)}")
    return places, problems


def probe(name: str, device: Device) -> Mapping[str, Any]:
    """Return what a device's agent says of it (`edgekd.agent.probe`).

    Raises:
        DeviceError: it cannot be reached, or nothing can be run there.
        UsageError: it is another machine than this one, and has no address.
    """
    if device.address:
        found = _probe(device)
        if isinstance(found, str):
            raise DeviceError(f"device {name}: {found}")
        return found
    machine = snapshot()["machine"]
    if not _is(device, machine):
        raise UsageError(
            f"device {name}: this machine is {f'called {machine!r}' if machine else 'a machine without a board name'}, "
            f"not {' or '.join(device.expects)}; "
            f"say where the device is: --at {name}=user@host"
        )
    return local.probe(device.python)


def _profile_problems(name: str, device: Device) -> Iterator[str]:
    """Yield what is wrong with a profile wherever it is measured."""
    known = backends.available()
    if device.backend not in known:
        hint = suggest(device.backend, known)
        yield f"device {name}: no backend {device.backend!r}{hint} (there are: {', '.join(known)})"
    meter, there = device.power.meter, ("auto", "none", *meters.available())
    if meter not in there:
        yield f"device {name}: there is no power meter {meter!r}{suggest(meter, there)}; there are {', '.join(there)}"
    try:
        variant_names(device, {"teacher": False})
    except UsageError as error:
        yield f"device {name}: {error}"


def elsewhere(device: Device) -> bool:
    """Return whether a device without an address is another machine than this one."""
    return not _is(device, snapshot()["machine"])


def _is(device: Device, name: str | None) -> bool:
    """Return whether a machine of this name is the device; one that expects nothing is any machine."""
    return not device.expects or any(word.lower() in (name or "").lower() for word in device.expects)


def _probes(devices: Mapping[str, Device]) -> dict[str, Mapping[str, Any] | str]:
    """Return what the agents of devices over ssh say of them, or why they cannot be asked; all are asked at once."""
    cancel = threading.Event()
    with ThreadPoolExecutor(max(1, len(devices))) as pool:
        try:
            return dict(zip(devices, pool.map(lambda device: _probe(device, cancel), devices.values()), strict=True))
        except BaseException:  # an interrupt too: it does not wait for slow boards
            cancel.set()
            raise


def _probe(device: Device, cancel: threading.Event | None = None) -> Mapping[str, Any] | str:
    """Return what a device's agent says of it, or why it cannot be asked."""
    assert device.address is not None
    try:
        return ssh.probe(parse(device.address), device.python or "python3", cancel)
    except RemoteError as error:
        return str(error)


def _over_ssh(name: str, device: Device, probe: Mapping[str, Any] | str) -> tuple[Place, list[str]]:
    if isinstance(probe, str):
        if device.quantization.open:
            raise DeviceError(
                f"device {name}: {probe}\nIts profile leaves to its processor which integers to use, so nothing can be "
                "made for it: mend that, or set quantization in a profile of your own"
            )
        return Place(device, "ssh", probe), []
    machine = probe["environment"].get("machine")
    if not _is(device, machine):
        return Place(device, "ssh"), [
            f"device {name}: the machine at {device.address} is called {machine!r}; a {name} is expected to be called "
            f"{' or '.join(device.expects)}: choose another device, or set `expects` in a profile of your own"
        ]
    missing = _missing(probe, device)
    return Place(resolved(device, probe["isa"]), "ssh", missing), []


def _missing(probe: Mapping[str, Any], device: Device) -> str | None:
    """Return why a device's backend does not work where the probe was made, or None."""
    found = probe["backends"].get(device.backend)
    return f"the agent there has no backend {device.backend!r}" if found is None else found.get("error")


def _here(name: str, device: Device) -> tuple[Place, list[str]]:
    place = Place(resolved(device, isa()), "here")
    try:
        if device.python:
            missing = _missing(local.probe(device.python), device)
            if missing:
                return place, [f"device {name}: {missing}"]
        else:
            for precision in device.precisions or (None,):
                chosen = {} if precision is None else {"precision": precision}
                backends.load(device.backend).check({**device.options, **chosen})
    except (AgentError, local.MeasurementError) as error:
        return place, [f"device {name}: {error}"]
    return place, list(_core_problems(name, device))


def _clock_problems(name: str, place: Place, probe: Mapping[str, Any] | str | None) -> Iterator[str]:
    """Yield why the clocks cannot be locked where a device is measured, as far as that is known now."""
    if place.where == "here":
        try:
            locking.program()
        except AgentError as error:
            yield f"device {name}: {error}"
    elif isinstance(probe, Mapping):
        for lack in probe["cannot"]:
            if lack["topic"] == CLOCKS and lack["what"] == LOCKING:
                yield f"device {name}: the clocks cannot be locked: {lack['why']}; {lack['mend']}"


def _meter_problems(name: str, device: Device) -> Iterator[str]:
    """Yield why the program of a power meter, which runs on this machine, cannot."""
    command = device.power.command
    if command is not None and shutil.which(command[0]) is None:
        yield f"device {name}: power.command: there is no program {command[0]!r} on this machine"


def _core_problems(name: str, device: Device) -> Iterator[str]:
    threads = device.options.get("threads", 1)
    cores = choose_cores(device.cores, threads)
    if cores is None:
        return
    allowed = sorted(os.sched_getaffinity(0))
    if not set(cores) <= set(allowed):
        yield f"device {name}: cores {cores} are not all among those that this process may use, {allowed}"
    elif len(cores) < threads:
        yield f"device {name}: {threads} threads do not fit on cores {cores}; ask for fewer threads or more cores"

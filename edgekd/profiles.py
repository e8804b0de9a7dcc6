"""Finding device profiles: shipped ones, a user's own ones, files; with the keys of those that they extend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from edgekd.address import parse
from edgekd.device import Device
from edgekd.document import load, suggest
from edgekd.errors import UsageError
from edgekd.shipped import shipped

SUFFIXES = (".yaml", ".yml")

_stem = attrgetter("stem")  # "jetson" comes before "jetson-thor"; its file name does not


@dataclass(frozen=True)
class Handling:
    """What a user allows or wants of devices besides measuring them.

    Args:
        at: NAME=user@host[:port] of devices that are reached over ssh.
        bundle: measure nowhere; leave for each device a zip file that can be measured there.
        keep: leave what was copied to devices over ssh there.
        lock_clocks: let the agents fix the clocks meanwhile (`jetson_clocks`), and set them back.
    """

    at: Sequence[str] = ()
    bundle: bool = False
    keep: bool = False
    lock_clocks: bool = False


def shipped_devices() -> dict[str, Path]:
    """Return the shipped profiles by name."""
    return {path.stem: path for path in sorted(shipped("devices").glob("*.yaml"), key=_stem)}


def user_devices() -> dict[str, Path]:
    """Return the user's own profiles by name, those in ~/.config/edgekd/devices (or where XDG_CONFIG_HOME points)."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = home / "edgekd" / "devices"
    return {path.stem: path for path in sorted(folder.glob("*.y*ml"), key=_stem) if path.suffix in SUFFIXES}


def find(name: str) -> Path:
    """Return the file of a profile: a path, or the name of one of the user's own, or of a shipped one.

    Raises:
        UsageError: there is no such profile.
    """
    path, own, known = Path(name), user_devices(), shipped_devices()
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UsageError(f"no device profile {name}: there is no such file (shipped: {', '.join(known)})")
        return path
    if name not in own | known:
        yours = f"; yours: {', '.join(own)}" if own else ""
        raise UsageError(
            f"no device {name!r}{suggest(name, own | known)} (shipped: {', '.join(known)}{yours}; or the path of a "
            ".yaml file)"
        )
    return (known | own)[name]


def load_device(name: str) -> Device:
    """Return a profile by its name or the path of a YAML file.

    Raises:
        UsageError: there is no such profile, or it is wrong (all problems at once), or extends itself.
    """
    return _load(find(name), ())


def _load(path: Path, extending: tuple[Path, ...]) -> Device:
    if path in extending:
        raise UsageError(f"{extending[0]}: `extends` goes in a circle: {', '.join(map(str, (*extending, path)))}")
    device = load(path, Device)
    if device.extends is None:
        return device
    # A profile of a shipped one's name extends the shipped one.
    base = shipped_devices().get(device.extends) if device.extends == path.stem else find(device.extends)
    if base is None:
        raise UsageError(f"{path}: it extends itself, and no shipped profile is called {device.extends!r}")
    inherited = _load(base, (*extending, path)).model_dump(exclude_unset=True, exclude={"extends"})
    return load(path, Device, defaults=inherited)


def load_devices(names: Sequence[str] | str, at: Sequence[str] = ()) -> dict[str, Device]:
    """Return several profiles by the names that they have in reports; one may be given as text.

    Args:
        at: NAME=user@host[:port] of those that are reached over ssh; it wins over the profile's own address.

    Raises:
        UsageError: none is named, one does not exist or is wrong, two have the same name, or an address is wrong.
    """
    if not names:
        raise UsageError(f"no device was named (shipped: {', '.join(shipped_devices())})")
    found: dict[str, Device] = {}
    for name in [names] if isinstance(names, str) else names:
        own = device_name(name)
        if own in found:
            raise UsageError(f"two devices are called {own!r}; each is measured once, under a name of its own")
        found[own] = load_device(name)
    for name, address in addresses(at).items():
        if name not in found:
            raise UsageError(f"--at {name}={address}: no device {name!r} is measured (there are: {', '.join(found)})")
        found[name] = found[name].model_copy(update={"address": address})
    return found


def addresses(at: Sequence[str]) -> Mapping[str, str]:
    """Return the addresses of NAME=user@host[:port] texts by name.

    Raises:
        UsageError: one has no name, is no address, or names a device a second time.
    """
    found: dict[str, str] = {}
    for text in at:
        name, equals, address = text.partition("=")
        if not (equals and name and address):
            raise UsageError(f"--at {text}: must be NAME=user@host[:port], such as jetson=nvidia@192.168.55.1")
        if name in found:
            raise UsageError(f"--at: {name!r} has two addresses, {found[name]} and {address}")
        try:
            parse(address)
        except ValueError as error:
            raise UsageError(f"--at {text}: {error}") from error
        found[name] = address
    return found


def device_name(name: str) -> str:
    """Return the name that a device has in reports: a path's stem."""
    path = Path(name)
    return path.stem if path.suffix in SUFFIXES else name

"""Device profiles: which runtime measures, and which integers it computes well with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgekd.agent import backends, meters
from edgekd.agent.environment import choose_cores, isa
from edgekd.agent.errors import AgentError
from edgekd.document import Frozen, load, suggest
from edgekd.errors import UsageError
from edgekd.options import NonNegativeInt
from edgekd.shipped import shipped


class Scheme(Frozen):
    """How weights and activations become 8-bit integers."""

    activations: Literal["u8", "s8"]
    symmetric: bool = False
    """Zero point 0 for activations."""
    reduce_range: bool = False
    """Weights of 7 bits: 8-bit products overflow 16-bit sums on x86 processors without VNNI."""
    weights: Literal["per-channel", "per-tensor"] = "per-channel"
    quantize_add: bool = True
    """Residual additions and means compute in integers too."""

    @property
    def label(self) -> str:
        """A short name, for file names and tables."""
        words = [
            self.activations,
            *(["symmetric"] if self.symmetric else []),
            *(["reduced"] if self.reduce_range else []),
            *(["tensor"] if self.weights == "per-tensor" else []),
            *([] if self.quantize_add else ["floatadd"]),
        ]
        return "-".join(words)


class Quantization(Frozen):
    """The scheme of a device; "auto" asks the processor."""

    activations: Literal["auto", "u8", "s8"] = "auto"
    symmetric: bool = False
    reduce_range: Literal["auto"] | bool = "auto"
    weights: Literal["per-channel", "per-tensor"] = "per-channel"
    quantize_add: bool = True


class Power(Frozen):
    """Where power is read."""

    meter: str = "auto"
    """A file name of `edgekd/agent/meters`, "auto" (the first that can be read), or "none"."""


class Device(Frozen):
    """A device profile, one YAML file."""

    version: Literal[1]
    description: str = ""
    backend: str
    """A file name of `edgekd/agent/backends`."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the backend, such as `threads`."""
    quantization: Quantization = Quantization()
    max_opset: Annotated[int, Field(ge=13)] = 20
    """The newest ONNX opset that its runtime reads; 13 is the first that quantizes per channel."""
    power: Power = Power()
    cores: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """Cores that the measured process is pinned to. Default: the last one."""


def scheme(quantization: Quantization, processor: Mapping[str, Any] | None = None) -> Scheme:
    """Return the scheme for a processor, by default this one.

    x86: unsigned activations, with 7-bit weights where there is no VNNI. ARM: signed activations.

    Args:
        processor: {"arch": str, "vnni": bool} as `edgekd.agent.environment.isa` gives it.
    """
    has = processor if processor is not None else isa()
    x86 = has["arch"] in ("x86_64", "amd64", "i686")
    activations = quantization.activations
    if activations == "auto":
        activations = "u8" if x86 else "s8"
    reduce_range = quantization.reduce_range
    if reduce_range == "auto":
        reduce_range = x86 and activations == "u8" and not has["vnni"]
    return Scheme(
        activations=activations,
        symmetric=quantization.symmetric,
        reduce_range=reduce_range,
        weights=quantization.weights,
        quantize_add=quantization.quantize_add,
    )


def shipped_devices() -> dict[str, Path]:
    """Return the shipped profiles by name."""
    return {path.stem: path for path in sorted(shipped("devices").glob("*.yaml"))}


def load_device(name: str) -> Device:
    """Return a profile by its shipped name or the path of a YAML file.

    Raises:
        UsageError: there is no such profile, or it is wrong (all problems at once).
    """
    return load(find(name), Device)


def load_devices(names: Sequence[str] | str) -> dict[str, Device]:
    """Return several profiles by the names that they have in reports; one may be given as text.

    Raises:
        UsageError: none is named, one does not exist or is wrong, or two have the same name.
    """
    if not names:
        raise UsageError(f"no device was named (shipped: {', '.join(shipped_devices())})")
    found: dict[str, Device] = {}
    for name in [names] if isinstance(names, str) else names:
        own = device_name(name)
        if own in found:
            raise UsageError(f"two devices are called {own!r}; each is measured once, under a name of its own")
        found[own] = load_device(name)
    return found


def find(name: str) -> Path:
    """Return the file of a profile.

    Raises:
        UsageError: there is no such profile.
    """
    path, known = Path(name), shipped_devices()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"no device profile {name}: there is no such file (shipped: {', '.join(known)})")
        return path
    if name not in known:
        raise UsageError(
            f"no device {name!r}{suggest(name, known)} (shipped: {', '.join(known)}; or the path of a .yaml file)"
        )
    return known[name]


def device_name(name: str) -> str:
    """Return the name that a device has in reports: a path's stem."""
    path = Path(name)
    return path.stem if path.suffix in (".yaml", ".yml") else name


def problems(devices: Mapping[str, Device]) -> Iterator[str]:
    """Yield why a device cannot be measured here: its runtime, the runtime's options, its meter, its cores."""
    known = backends.available()
    for name, device in devices.items():
        if device.backend not in known:
            hint = suggest(device.backend, known)
            yield f"device {name}: no backend {device.backend!r}{hint} (there are: {', '.join(known)})"
            continue
        try:
            backends.load(device.backend).check(device.options)
            meters.find(device.power.meter)
        except AgentError as error:
            yield f"device {name}: {error}"
            continue
        yield from _core_problems(name, device)


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

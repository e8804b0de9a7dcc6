"""Device profiles: which runtime measures, and which integers it computes well with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from edgekd.agent.environment import isa
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
    max_opset: PositiveInt = 20
    """The newest ONNX opset that its runtime reads."""
    power: Power = Power()
    cores: tuple[NonNegativeInt, ...] | None = None
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
    known = shipped_devices()
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"no device profile {name}: there is no such file")
        return load(path, Device)
    if name not in known:
        raise UsageError(
            f"no device {name!r}{suggest(name, known)} (shipped: {', '.join(known)}; or the path of a .yaml file)"
        )
    return load(known[name], Device)


def device_name(name: str) -> str:
    """Return the name that a device has in reports: a path's stem."""
    path = Path(name)
    return path.stem if path.suffix in (".yaml", ".yml") else name

"""Device profiles: which runtime measures, where, and which integers it computes well with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgekd.address import interpreter, parse
from edgekd.agent import backends
from edgekd.agent.environment import isa
from edgekd.document import Frozen
from edgekd.options import NonNegativeInt, Positive


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _address(value: str) -> str:
    parse(value)
    return value


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
    dynamic: bool = False
    """Its runtime quantizes activations at run time, and gains by it (`quantize: {mode: dynamic}`)."""

    @property
    def open(self) -> bool:
        """Whether it depends on the processor."""
        return "auto" in (self.activations, self.reduce_range)


class Power(Frozen):
    """Where power is read, and how the models run meanwhile."""

    meter: str = "auto"
    """A file name of `edgekd/agent/meters`, "auto" (the first of its `ORDER` that can be read), or "none"."""
    pace_hz: Positive | None = None
    """Inferences per second while energy is measured, with idle time between them. Default: back to back."""
    period_s: Positive | None = None
    """How often an external meter gives a value. Default: every second."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Program and arguments that print `time watts` lines on this machine (meter: external)."""

    @model_validator(mode="after")
    def _external(self) -> Power:
        if self.meter != "external" and (self.command or self.period_s):
            raise ValueError("`command` and `period_s` belong to `meter: external`")
        return self


class Device(Frozen):
    """A device profile, one YAML file."""

    version: Literal[1]
    description: str = ""
    extends: str | None = None
    """Another profile, whose keys hold where this one says nothing."""
    expects: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    """Words of which the board's name holds one. A machine of another name is not this device."""
    address: Annotated[str, AfterValidator(_address)] | None = None
    """user@host[:port], or a Host of ~/.ssh/config: measured there over ssh. Default: on this machine."""
    python: Annotated[str, AfterValidator(interpreter)] | None = None
    """The interpreter that runs the agent. Default: `python3` there, this very one here."""
    backend: str = ""
    """A file name of `edgekd/agent/backends`."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the backend, such as `threads`."""
    precisions: tuple[Literal["fp32", "fp16", "bf16", "int8"], ...] = ()
    """The precisions that every float network is measured in: TensorRT builds it in each, OpenVINO is told so when it
    loads the file. Default: the file's."""
    quantization: Quantization = Quantization()
    max_opset: Annotated[int, Field(ge=13)] = 20
    """The newest ONNX opset that its runtime reads; 13 is the first that quantizes per channel."""
    power: Power = Power()
    cores: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """Cores that the measured process is pinned to. Default: the last one."""

    @model_validator(mode="after")
    def _has_a_backend(self) -> Device:
        if not (self.backend or self.extends):
            raise ValueError(f"`backend` is missing (there are: {', '.join(backends.available())})")
        return self


def scheme(quantization: Quantization, processor: Mapping[str, Any] | None = None) -> Scheme:
    """Return the scheme for a processor, by default this one.

    x86: unsigned activations, with 7-bit weights where there is no VNNI. That goes for signed activations too: ONNX
    Runtime and OpenVINO compute with them as unsigned ones. ARM: signed activations; its sums never saturate, with or
    without the dot product instructions.

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
        reduce_range = x86 and not has["vnni"]
    return Scheme(
        activations=activations,
        symmetric=quantization.symmetric,
        reduce_range=reduce_range,
        weights=quantization.weights,
        quantize_add=quantization.quantize_add,
    )


def resolved(device: Device, processor: Mapping[str, Any]) -> Device:
    """Return a device whose quantization leaves nothing to its processor, which is now known."""
    decided = scheme(device.quantization, processor).model_dump()
    return device.model_copy(update={"quantization": device.quantization.model_copy(update=decided)})

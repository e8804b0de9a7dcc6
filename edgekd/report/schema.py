"""What measurement.json and samples/energy.json must look like.

A measurement may come from a stranger's device. Every field that the report uses has its type and bounds here, so that
a truncated or hostile file is one clear error and never a traceback. What the report does not use is left alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from edgekd.document import Frozen
from edgekd.document.explaining import explain
from edgekd.document.reading import Document
from edgekd.errors import EdgekdError

CONTROL = "#control"  # suffix of the column that is a second session of the same model

_MOST_WINDOWS = 2000  # all are in the report
_LARGEST = 2**62  # as nanoseconds: a century and a half

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Instant = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9._#@+-]+(/[A-Za-z0-9._#@+-]+)*$", max_length=255)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class Part(Frozen):
    """A part of what a device sent; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")


class Open(Frozen):
    """A part whose other keys are shown as they are."""

    model_config = ConfigDict(extra="allow")


class Runtime(Open):
    """What ran the models. `simulated`: why it is only a stand-in for it."""

    name: str
    version: str
    simulated: str | None = None


class Layer(Part):
    """One layer as the runtime executed it."""

    name: str | None = None
    type: str | None = None
    precision: str | None = None
    computes: bool = False
    input: str | None = None
    origins: tuple[str, ...] = ()
    times_ns: tuple[Count, ...] = ()


class Facts(Open):
    """What a runtime says of a variant. `gpu_ns` and `host_ns`: the same calls on the GPU's clock and the host's."""

    precision: dict[str, Count] | None = None
    layers: tuple[Layer, ...] | None = None
    gpu_ns: tuple[Count, ...] | None = None
    host_ns: tuple[Count, ...] | None = None


class Throughput(Part):
    """A saturated run."""

    inferences: Count
    seconds: Positive
    threads: Count


class Variant(Part):
    """One variant on one device."""

    error: str | None
    outputs: dict[str, RelativePath]
    load_ns: Count | None
    cold_start_ns: Count | None
    cold_start_reason: str | None = None
    peak_memory_bytes: Count | None
    memory_reason: str | None = None
    throughput: Throughput | None
    throughput_reason: str | None = None
    prepare: dict[str, Any] = Field(default_factory=dict)
    facts: Facts


class Spinning(Part):
    """Whether idle sessions kept a core busy."""

    cpu_share_idle: Number
    spins: bool = False


class Latency(Part):
    """Which files hold the latencies: one per fresh process, with a column per variant."""

    columns: Annotated[tuple[Name, ...], Field(min_length=1)]
    processes: Annotated[tuple[RelativePath, ...], Field(min_length=1)]
    spinning: Spinning | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key in ("columns", "processes"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key} lists something twice")
        return self


class Method(Open):
    """How much was measured."""

    processes: Count
    quick: bool = False


class Environment(Part):
    """The state of the device before and after, and what changed that matters."""

    before: dict[str, Any]
    after: dict[str, Any]
    changes: tuple[str, ...]


class Energy(Part):
    """How energy was measured, or why not."""

    meter: str | None
    reason: str | None
    scope: str | None
    scope_kind: str | None
    floor_w: Number | None = None
    floor_j: Number | None = None
    period_s: Positive | None = None
    simulated: bool
    windows: RelativePath | None
    samples: RelativePath | None


class Substituted(Part):
    """A backend that stood in for the one asked for."""

    asked: str
    used: str


class Measurement(Part):
    """measurement.json."""

    protocol: int
    agent: str
    started_at: str
    finished_at: str
    device: str
    backend: str
    runtime: Runtime
    simulated: tuple[str, ...]
    substituted: Substituted | None = None
    locked_clocks: str | None = None
    cores: tuple[Count, ...] | None
    environment: Environment
    reference: str | None
    batch_size: Count
    method: Method
    variants: dict[Name, Variant]
    latency: Latency | None
    latency_reason: str | None
    energy: Energy
    files: dict[RelativePath, Digest]

    @model_validator(mode="after")
    def _timed_variants_exist(self) -> Self:
        timed = self.latency.columns if self.latency else ()
        unknown = [name for name in timed if name.removesuffix(CONTROL) not in self.variants]
        if unknown:
            raise ValueError(f"latency.columns names {', '.join(unknown)}, which variants does not")
        return self


class Channel(Part):
    """One quantity of a meter."""

    name: Name
    kind: Literal["power", "energy"]


class WarmUp(Part):
    """How long the device was warmed up, and whether it became steady; if not, why it was left at that."""

    seconds: Number
    steady: bool
    reason: str | None = None


class EnergyWindow(Part):
    """A time in which the device idled, or ran one variant; the fields are those of `integration.Window`."""

    kind: Literal["idle", "active"]
    variant: Name | None
    start_ns: Instant
    end_ns: Instant
    seconds: Number
    inferences: Count = 0
    late: Count = 0
    mean_power_w: Number | None
    rejected: str | None

    @model_validator(mode="after")
    def _idle_or_of_a_variant(self) -> Self:
        if (self.kind == "active") != (self.variant is not None):
            raise ValueError("an active window names its variant, an idle one has none")
        return self


class EnergyWindows(Part):
    """samples/energy.json."""

    channels: tuple[Channel, ...]
    total: tuple[Name, ...]
    period_s: Positive
    pace_hz: Positive | None = None
    bursts: tuple[tuple[Instant, Instant], ...] = ()
    warmup: WarmUp | None = None
    windows: Annotated[tuple[EnergyWindow, ...], Field(max_length=_MOST_WINDOWS)]

    @model_validator(mode="after")
    def _total_is_of_one_kind(self) -> Self:
        kinds = {channel.name: channel.kind for channel in self.channels}
        if len(kinds) < len(self.channels):
            raise ValueError("two channels have the same name")
        unknown = [name for name in self.total if name not in kinds]
        if unknown:
            raise ValueError(f"total names {', '.join(unknown)}; channels are {', '.join(kinds) or 'none'}")
        if len(set(self.total)) < len(self.total):
            raise ValueError("total names a channel twice")
        if len({kinds[name] for name in self.total}) > 1:
            raise ValueError("the channels of total must all be power, or all energy")
        if bool(self.channels) != bool(self.total):
            raise ValueError("a meter with channels needs a total, and one without has none")
        return self


M = TypeVar("M", bound=Frozen)


def checked(content: dict[str, Any], model: type[M], source: str, wanted: str = "complete measurement") -> M:
    """Check the content of a file against a model.

    Args:
        wanted: what the file should be.

    Raises:
        EdgekdError: It does not fit; the message names the file and each field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [f"{found.key}: {found.message}" if found.key else found.message
                    for found in explain(error, model, Document(source, data=content))]  # fmt: skip
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise EdgekdError(f"{source} is not a {wanted}:\n  {shown}{more}\nMeasure again.") from error

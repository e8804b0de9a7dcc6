"""The parts of a job: which model in which precision, how much is measured, how energy is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Optional

from edgekd.agent.errors import AgentError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
OPTIONAL_SECONDS = ("energy_window_seconds", "idle_seconds")


@dataclass(frozen=True)
class Model:
    """One ONNX file to measure, as one variant.

    Attributes:
        name: The variant.
        file: Its path inside the job directory.
        sha256: Of the file.
        precision: "fp32", "fp16", "bf16" or "int8", for backends that take one; None: as the file says.
        half_file: The same network with float16 inside, for runtimes that cannot lower the precision by themselves.
        half_sha256: Of that file.
    """

    name: str
    file: str
    sha256: str
    precision: Optional[str] = None
    half_file: Optional[str] = None
    half_sha256: Optional[str] = None

    def __post_init__(self) -> None:
        if self.precision not in (None, *PRECISIONS):
            raise AgentError("%s: precision is %r; it may be %s" % (self.name, self.precision, ", ".join(PRECISIONS)))
        if (self.half_file is None) != (self.half_sha256 is None):
            raise AgentError("%s: half_file and half_sha256 belong together" % self.name)

    def files(self) -> Dict[str, str]:
        """Return the SHA-256 of each file by its path."""
        half = {} if self.half_file is None else {self.half_file: str(self.half_sha256)}
        return {self.file: self.sha256, **half}


@dataclass(frozen=True)
class Method:
    """How much is measured. The defaults are the full measurement; a quick one says so in `quick`.

    Attributes:
        processes: Fresh processes in which latency is measured.
        seconds: Least time per variant, over all processes, that is spent in measured calls.
        inferences: Least number of measured calls per variant, over all processes.
        warmup_seconds: Longest warm-up of one process, shared by its variants.
        settling_calls: Calls at the start of each turn that are kept apart from the measured ones.
        calls: Least number of measured calls in a turn.
        throughput_seconds: Length of the saturated run of each variant; 0 leaves it out.
        energy_windows: Windows in which each variant runs while power is read.
        energy_window_seconds: Length of such a window. None: 5 s for a meter that is read every 10 ms or oftener, 30 s
            up to every 0.2 s, else 60 s. It is never shorter than 25 readings.
        idle_seconds: Length of the idle windows before and after. None: as long as a window, and at least 30 s in a
            measurement that is not quick.
        quick: Whether the amounts are below the defaults on purpose; only carried along, for the report.
        alone: Whether each variant first runs in a process of its own, where its memory, cold start, outputs and layers
            are found. Without it there is nothing of these, which saves seconds for each variant.
    """

    processes: int = 5
    seconds: float = 10.0
    inferences: int = 1000
    warmup_seconds: float = 3.0
    settling_calls: int = 3
    calls: int = 10
    throughput_seconds: float = 2.0
    energy_windows: int = 5
    energy_window_seconds: Optional[float] = None
    idle_seconds: Optional[float] = None
    quick: bool = False
    alone: bool = True

    def __post_init__(self) -> None:
        for name in ("processes", "inferences", "calls", "energy_windows"):
            if getattr(self, name) < 1:
                raise AgentError("method.%s is %s; it must be at least 1" % (name, getattr(self, name)))
        for name in ("seconds", "warmup_seconds", "settling_calls", "throughput_seconds", *OPTIONAL_SECONDS):
            if (getattr(self, name) or 0) < 0:
                raise AgentError("method.%s is %s; it must not be negative" % (name, getattr(self, name)))


FULL = Method()
QUICK = replace(
    FULL,
    processes=3,
    seconds=1.0,
    inferences=300,
    warmup_seconds=0.5,
    throughput_seconds=0.3,
    energy_windows=3,
    energy_window_seconds=1.0,
    idle_seconds=1.0,
    quick=True,
)


@dataclass(frozen=True)
class Power:
    """How energy is measured.

    Attributes:
        meter: "auto", "none", or a file name in `edgekd.agent.meters`.
        pace_hz: Inferences per second in a window, with idle time between them; None: back to back.
        period_s: How often an external meter gives a value; None: every second.
    """

    meter: str = "auto"
    pace_hz: Optional[float] = None
    period_s: Optional[float] = None

    def __post_init__(self) -> None:
        for name in ("pace_hz", "period_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise AgentError("power.%s is %s; it must be above 0" % (name, value))

"""What a host asks an agent to measure: the job directory and its `job.json`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Mapping, Optional, Tuple

from edgekd.agent import PROTOCOL
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, sha256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBER = (int, float)
_REQUIRED = object()


@dataclass(frozen=True)
class Model:
    """One ONNX file to measure: the variant's name, its path inside the job directory, its SHA-256."""

    name: str
    file: str
    sha256: str


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
        energy_windows: Windows in which each variant runs back to back while energy is counted.
        energy_window_seconds: Length of such a window, and of each idle window.
        quick: Whether the amounts are below the defaults on purpose; only carried along, for the report.
    """

    processes: int = 5
    seconds: float = 10.0
    inferences: int = 1000
    warmup_seconds: float = 5.0
    settling_calls: int = 3
    calls: int = 10
    throughput_seconds: float = 2.0
    energy_windows: int = 5
    energy_window_seconds: float = 30.0
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ("processes", "inferences", "calls", "energy_windows"):
            if getattr(self, name) < 1:
                raise AgentError("method.%s is %s; it must be at least 1" % (name, getattr(self, name)))
        for name in ("seconds", "warmup_seconds", "settling_calls", "throughput_seconds", "energy_window_seconds"):
            if getattr(self, name) < 0:
                raise AgentError("method.%s is %s; it must not be negative" % (name, getattr(self, name)))


@dataclass(frozen=True)
class Job:
    """A whole job. Paths are relative to the job directory.

    Attributes:
        device: Name of the device profile, for the record.
        backend: File name of the runtime in `edgekd.agent.backends`.
        options: The backend's own options.
        models: The variants, in the order in which they are reported.
        reference: The variant that the A/A control repeats; None: the first one.
        inputs: Split name to .npz, one array per model input, first axis = samples. Empty: no evaluation.
        latency_inputs: .npz with exactly the batch that is timed; None: nothing is timed.
        batch_size: Samples in one timed call.
        method: How much is measured.
        cores: CPU cores to which the timed process is pinned; None: the agent takes the last ones it may use.
        meter: "auto", "none", or a file name in `edgekd.agent.meters`.
        seed: Seed of every random order.
    """

    device: str
    backend: str
    models: Tuple[Model, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: Optional[str] = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    latency_inputs: Optional[str] = None
    batch_size: int = 1
    method: Method = field(default_factory=Method)
    cores: Optional[Tuple[int, ...]] = None
    meter: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise AgentError("the job has no models")
        for name in [*names, *self.inputs]:
            if not _NAME.fullmatch(name):
                raise AgentError("%r cannot name a variant or split: use letters, digits, '.', '_' and '-'" % name)
        if len(set(names)) != len(names):
            raise AgentError("two variants have the same name: %s" % ", ".join(names))
        if self.reference is not None and self.reference not in names:
            raise AgentError("the reference %r is none of the variants: %s" % (self.reference, ", ".join(names)))
        if self.batch_size < 1:
            raise AgentError("batch_size is %d; it must be at least 1" % self.batch_size)
        if self.cores is not None and (not self.cores or min(self.cores) < 0):
            raise AgentError("cores is %s; name at least one core, or null" % (list(self.cores),))

    def to_json(self) -> Dict[str, Any]:
        """Return the content of `job.json`."""
        return {
            "protocol": PROTOCOL,
            "device": self.device,
            "backend": self.backend,
            "options": dict(self.options),
            "models": [asdict(model) for model in self.models],
            "reference": self.reference,
            "inputs": dict(self.inputs),
            "latency_inputs": self.latency_inputs,
            "batch_size": self.batch_size,
            "method": asdict(self.method),
            "cores": None if self.cores is None else list(self.cores),
            "power": {"meter": self.meter},
            "seed": self.seed,
        }


def parse(document: Any) -> Job:
    """Check the content of `job.json` and return it as a Job.

    Raises:
        AgentError: Another protocol, an unknown or missing field, or a value of the wrong kind.
    """
    if isinstance(document, dict) and document.get("protocol") != PROTOCOL:
        raise AgentError(
            "the job has protocol %r, this agent understands %d: use the same version of edgekd on host and device"
            % (document.get("protocol"), PROTOCOL)
        )
    nothing = type(None)
    top = _take(
        document,
        "job",
        protocol=(int, _REQUIRED),
        device=(str, _REQUIRED),
        backend=(str, _REQUIRED),
        options=(dict, {}),
        models=(list, _REQUIRED),
        reference=((str, nothing), None),
        inputs=(dict, {}),
        latency_inputs=((str, nothing), None),
        batch_size=(int, 1),
        method=(dict, {}),
        cores=((list, nothing), None),
        power=(dict, {}),
        seed=(int, 0),
    )
    cores = top["cores"]
    if cores is not None and not all(_is(core, int) for core in cores):
        raise AgentError("job.cores is %r; it must be a list of core numbers, or null" % (cores,))
    for split, path in top["inputs"].items():
        if not isinstance(path, str):
            raise AgentError("job.inputs.%s is %r; it must be the path of an .npz" % (split, path))
    return Job(
        device=top["device"],
        backend=top["backend"],
        options=top["options"],
        models=tuple(_model(entry, "job.models[%d]" % index) for index, entry in enumerate(top["models"])),
        reference=top["reference"],
        inputs=top["inputs"],
        latency_inputs=top["latency_inputs"],
        batch_size=top["batch_size"],
        method=_method(top["method"]),
        cores=None if cores is None else tuple(cores),
        meter=_take(top["power"], "job.power", meter=(str, "auto"))["meter"],
        seed=top["seed"],
    )


def load(directory: Path) -> Job:
    """Read a job directory and check that every file is there and every model is the one that was sent.

    Raises:
        AgentError: `job.json` is wrong, a file is missing or lies outside the directory, or a SHA-256 differs.
    """
    job = parse(read_json(directory / "job.json"))
    timed = [] if job.latency_inputs is None else [job.latency_inputs]
    for name in [model.file for model in job.models] + list(job.inputs.values()) + timed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise AgentError("%r leads out of the job directory; paths in job.json are relative to it" % name)
        if not (directory / name).is_file():
            raise AgentError("job.json names %r, which is not in %s" % (name, directory))
    for model in job.models:
        found = sha256(directory / model.file)
        if found != model.sha256:
            raise AgentError(
                "%s was damaged or exchanged on its way: SHA-256 is %s, job.json says %s; send the job again"
                % (model.file, found, model.sha256)
            )
    return job


def _model(entry: Any, where: str) -> Model:
    return Model(**_take(entry, where, name=(str, _REQUIRED), file=(str, _REQUIRED), sha256=(str, _REQUIRED)))


def _method(entry: Any) -> Method:
    default = Method()
    whole = ("processes", "inferences", "settling_calls", "calls", "energy_windows")
    real = ("seconds", "warmup_seconds", "throughput_seconds", "energy_window_seconds")
    kinds: Dict[str, Any] = {name: (int, getattr(default, name)) for name in whole}
    kinds.update((name, (_NUMBER, getattr(default, name))) for name in real)
    return Method(**_take(entry, "job.method", quick=(bool, False), **kinds))


def _take(document: Any, where: str, **kinds: Any) -> Dict[str, Any]:
    """Return the fields of a JSON object, each of its kind, with defaults filled in."""
    if not isinstance(document, dict):
        raise AgentError("%s must be an object, not %r" % (where, document))
    unknown = sorted(set(document) - set(kinds))
    if unknown:
        raise AgentError("%s has unknown fields %s; it may have %s" % (where, ", ".join(unknown), ", ".join(kinds)))
    fields = {}
    for name, (kind, default) in kinds.items():
        if name not in document and default is _REQUIRED:
            raise AgentError("%s lacks the field %r" % (where, name))
        value = document.get(name, default)
        if not _is(value, kind):
            raise AgentError("%s.%s is %r, which is not of the kind %s" % (where, name, value, _kind_name(kind)))
        fields[name] = value
    return fields


def _is(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of a kind; true and false are not numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _kind_name(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = {dict: "object", list: "list", str: "text", int: "integer", float: "number", bool: "true or false"}
    return " or ".join(names.get(each, "null") for each in kinds)

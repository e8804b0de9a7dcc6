"""What a host asks an agent to measure: the job directory and its `job.json`."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Mapping, Optional, Tuple

from edgekd.agent import PROTOCOL
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, sha256
from edgekd.agent.method import OPTIONAL_SECONDS, Method, Model, Power

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBER = (int, float)
_REQUIRED = object()


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
        power: How energy is measured.
        lock_clocks: Whether the agent may fix the clocks for the measurement; it sets them back afterwards.
        files: SHA-256 of the job's other files, the inputs, by path.
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
    power: Power = field(default_factory=Power)
    lock_clocks: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
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
        if self.inputs and not self.method.alone:
            raise AgentError("outputs over inputs are found where each variant runs alone: method.alone is false")
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
            "power": asdict(self.power),
            "lock_clocks": self.lock_clocks,
            "files": dict(self.files),
            "seed": self.seed,
        }

    def options_of(self, variant: str, job_dir: Path) -> Dict[str, Any]:
        """Return the backend's options for a variant: the job's, and the precision that the variant is built in."""
        model = self.model(variant)
        if model.precision is None:
            return dict(self.options)
        half = "" if model.half_file is None else str(job_dir / model.half_file)
        return {**self.options, "precision": model.precision, "half_file": half}

    def model(self, variant: str) -> Model:
        """Return the model of a variant."""
        return next(model for model in self.models if model.name == variant)


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
        lock_clocks=(bool, False),
        files=(dict, {}),
        seed=(int, 0),
    )
    cores = top["cores"]
    if cores is not None and not all(_is(core, int) for core in cores):
        raise AgentError("job.cores is %r; it must be a list of core numbers, or null" % (cores,))
    for split, path in top["inputs"].items():
        if not isinstance(path, str):
            raise AgentError("job.inputs.%s is %r; it must be the path of an .npz" % (split, path))
    for path, digest in top["files"].items():
        if not isinstance(digest, str):
            raise AgentError("job.files[%r] is %r; it must be a SHA-256" % (path, digest))
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
        power=_power(top["power"]),
        lock_clocks=top["lock_clocks"],
        files=top["files"],
        seed=top["seed"],
    )


def load(directory: Path) -> Job:
    """Read a job directory and check that every file is there and is the one that was sent.

    Raises:
        AgentError: `job.json` is wrong, a file is missing or lies outside the directory, or a SHA-256 differs.
    """
    job = parse(read_json(directory / "job.json"))
    digests = dict(job.files)
    for model in job.models:
        digests.update(model.files())
    timed = [] if job.latency_inputs is None else [job.latency_inputs]
    for name in [*digests, *job.inputs.values(), *timed]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise AgentError("%r leads out of the job directory; paths in job.json are relative to it" % name)
        if not (directory / name).is_file():
            raise AgentError("job.json names %r, which is not in %s" % (name, directory))
    for name, digest in digests.items():
        found = sha256(directory / name)
        if found != digest:
            raise AgentError(
                "%s was damaged or exchanged on its way: SHA-256 is %s, job.json says %s; send the job again"
                % (name, found, digest)
            )
    return job


def _model(entry: Any, where: str) -> Model:
    optional = ((str, type(None)), None)
    kinds: Dict[str, Any] = {"precision": optional, "half_file": optional, "half_sha256": optional}
    kinds.update((name, (str, _REQUIRED)) for name in ("name", "file", "sha256"))
    return Model(**_take(entry, where, **kinds))


def _power(entry: Any) -> Power:
    optional = ((*_NUMBER, type(None)), None)
    return Power(**_take(entry, "job.power", meter=(str, "auto"), pace_hz=optional, period_s=optional))


def _method(entry: Any) -> Method:
    default = Method()
    whole = ("processes", "inferences", "settling_calls", "calls", "energy_windows")
    real = ("seconds", "warmup_seconds", "throughput_seconds")
    kinds: Dict[str, Any] = {name: (int, getattr(default, name)) for name in whole}
    kinds.update((name, (_NUMBER, getattr(default, name))) for name in real)
    kinds.update((name, ((*_NUMBER, type(None)), None)) for name in OPTIONAL_SECONDS)
    kinds.update((name, (bool, getattr(default, name))) for name in ("alone", "quick"))
    return Method(**_take(entry, "job.method", **kinds))


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
    """Return whether a JSON value is of a kind; true and false are not numbers, nor are NaN and Infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _kind_name(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = {dict: "object", list: "list", str: "text", int: "integer", float: "number", bool: "true or false"}
    return " or ".join(names.get(each, "null") for each in kinds)

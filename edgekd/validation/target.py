"""Where a model is to run: which operators its runtime reads, and the runtime itself where it is on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.agent import backends
from edgekd.agent.backends import Session
from edgekd.agent.errors import AgentError
from edgekd.graph import qdq
from edgekd.graph.feeding import batched_inputs
from edgekd.graph.lint import Port
from edgekd.stage import threads
from edgekd.validation.checks import Check, judged
from edgekd.validation.files import Opened, first_line

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]

HOST = "onnxruntime"
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_KNOWN = {
    "onnxruntime": _STANDARD | {"com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental"},
    "openvino": frozenset({"", "ai.onnx", "com.microsoft", "org.openvinotoolkit"}),
    "tensorrt": frozenset({"", "ai.onnx", "trt.plugins"}),
}
"""The domains of operators that a runtime brings."""


@dataclass(frozen=True)
class Target:
    """Where a model is to run.

    Args:
        name: the device's, or "this machine" where none was named.
        backend: its runtime.
        options: of the backend.
        max_opset: the newest that it reads; None is not limited.
        absent: why its runtime cannot be asked here; ONNX Runtime then answers in its place, operator by operator.
        named: whether a device was asked for. Where none was, integers are computed to the letter: fused kernels of
            this processor say nothing of another one's.
    """

    name: str = "this machine"
    backend: str = HOST
    options: Mapping[str, Any] = field(default_factory=dict)
    max_opset: int | None = None
    absent: str = ""
    named: bool = False


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model in a runtime."""

    session: Session
    inputs: tuple[Port, ...]
    batched: frozenset[str]

    @property
    def batch(self) -> int | None:
        """The number of samples that it takes at a time; None where that is free."""
        fixed = [port.shape[0] for port in self.inputs if port.name in self.batched]
        return next((size for size in fixed if isinstance(size, int)), None)

    def answer(self, feeds: Arrays) -> dict[str, Array]:
        """Return the outputs for samples [n, ...]; a model of a fixed batch is fed that many at a time, the last ones
        filled up with copies whose answers are dropped.

        Raises:
            AgentError: the runtime fails.
        """
        wanted = {port.name: np.dtype(port.dtype) for port in self.inputs}
        typed = {name: np.asarray(array).astype(wanted[name], copy=False) for name, array in feeds.items()}
        size = self.batch
        if size is None or not self.batched:
            return self.session.run(typed)
        total = max(len(typed[name]) for name in self.batched)
        parts = [self._part(typed, begin, size) for begin in range(0, total, size)]
        return {
            name: np.concatenate([part[name] for part in parts])[:total] if _per_sample(first, size) else first
            for name, first in parts[0].items()
        }

    def _part(self, feeds: Arrays, begin: int, size: int) -> dict[str, Array]:
        part = {
            name: _filled(array[begin : begin + size], size) if name in self.batched else array
            for name, array in feeds.items()
        }
        return self.session.run(part)


def _per_sample(values: Array, size: int) -> bool:
    return values.ndim > 0 and len(values) == size


def _filled(array: Array, size: int) -> Array:
    lacking = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)]) if lacking else array


def load(model: Opened, target: Target, *, letter: bool) -> Loaded:
    """Load a model into a target's runtime, on all cores.

    Args:
        letter: run it operator by operator where that is ONNX Runtime's choice to make.

    Raises:
        AgentError: the runtime refuses it.
    """
    here = not target.absent
    backend = target.backend if here else HOST
    options: dict[str, Any] = {**(target.options if here else {}), "threads": threads()}
    if backend == HOST and letter:
        options["optimize"] = False
    session = backends.load(backend).open(model.path, options)
    return Loaded(session, model.inputs, batched_inputs(model.inputs))


def suits(model: Opened, target: Target) -> Iterator[Check]:
    """Yield what can be said of a model and a runtime without loading it."""
    if target.max_opset is None:
        yield Check("opset", "passed", f"opset {model.opset}; no device limits it", value=float(model.opset))
    else:
        yield judged(
            "opset", model.opset <= target.max_opset,
            f"opset {model.opset}; {target.name} reads up to {target.max_opset}",
            value=float(model.opset), limit=float(target.max_opset),
            remedy=f"export with opset {target.max_opset} or older, or raise max_opset in the device's profile if "
            "its runtime reads more",
        )  # fmt: skip
    strangers = _strangers(model, target.backend)
    yield judged(
        "custom-operators", not strangers,
        f"{', '.join(strangers[:4])}: {target.backend} does not bring these" if strangers else "none that is unknown",
        remedy="export without them, replace them by standard operators, or write them as functions of the model; "
        "libraries of custom operators are not loaded: they are programs",
    )  # fmt: skip
    refusal = qdq.refusal(model.proto) if target.backend == "tensorrt" else None
    yield judged("operators", refusal is None, refusal or f"nothing is known that {target.backend} would not take",
                 remedy="quantize for this device: see its profile's `quantization`")  # fmt: skip


def _strangers(model: Opened, backend: str) -> list[str]:
    known = _KNOWN.get(backend, _STANDARD)
    functions = {(function.domain, function.name) for function in model.proto.functions}
    used = {(node.domain, node.op_type) for node in model.proto.graph.node}
    return sorted(
        f"{domain}:{kind}" for domain, kind in used if domain not in known and (domain, kind) not in functions
    )


def start(model: Opened, target: Target, earlier: Sequence[Check], *, letter: bool) -> tuple[Loaded | None, Check]:
    """Load a model into its runtime, and say how that went."""
    if any(check.id == "custom-operators" and check.status == "failed" for check in earlier):
        return None, Check("session", "skipped", "an operator is unknown")
    try:
        loaded = load(model, target, letter=letter)
    except AgentError as error:
        remedy = (
            "the message names the operator or type that is not supported: export it otherwise, or choose another opset"
        )
        return None, Check("session", "failed", first_line(error), remedy=remedy)
    if target.absent:
        told = f"{target.absent}; ONNX Runtime answers in its place"
        remedy = "validate on a machine that has it, or measure on the device: edgekd bench"
        return loaded, Check("session", "not_measured", told, remedy=remedy)
    version = backends.load(target.backend).runtime()["version"]
    return loaded, Check("session", "passed", f"loaded by {target.backend} {version}")

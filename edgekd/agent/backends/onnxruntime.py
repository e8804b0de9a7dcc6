"""ONNX Runtime.

Options: `providers` (default ["CPUExecutionProvider"]; the first one must really be used, there is no silent fallback),
`threads` (intra-op threads of a timed session, default 1) and `optimize` (default true; false runs the graph to the
letter, operator by operator).

A model with a dynamic batch axis stays dynamic: fixing it made no difference to convolutional networks (paired ratio of
p50 .996 - 1.006, one thread, batch 1).
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edgekd.agent import kernels
from edgekd.agent.backends import Tensor, Throughput, check_feeds, count_precisions, take_options
from edgekd.agent.errors import AgentError
from edgekd.agent.repeating import repeat

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as _state
except ImportError as error:
    raise AgentError(
        "ONNX Runtime cannot be imported (%s): pip install onnxruntime, it comes with pip install edgekd" % error
    ) from error

if TYPE_CHECKING:
    from edgekd.agent.backends import Array, Feeds

FIXED_SHAPES = False

_CPU = "CPUExecutionProvider"
_DEFAULTS: Dict[str, Any] = {"providers": [_CPU], "threads": 1, "optimize": True}

# The runtime's exceptions have no base class of their own; which of them exist depends on its version.
_ERROR_NAMES = [
    "Fail",
    "InvalidArgument",
    "NoSuchFile",
    "NoModel",
    "EngineError",
    "RuntimeException",
    "InvalidProtobuf",
]
_ERROR_NAMES += ["NotImplemented", "InvalidGraph", "EPFail"]
ERRORS = tuple(getattr(_state, name) for name in _ERROR_NAMES if hasattr(_state, name))
ERRORS += (RuntimeError,)  # of the binding, for types that numpy or it does not have

# Identity on one float: a whole ONNX file of 67 bytes, to make the runtime allocate what it keeps for the process.
_IDENTITY = (
    b'\x08\x07\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def runtime() -> Dict[str, Any]:
    """Return name, version and the execution providers of this build."""
    return {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "providers": list(onnxruntime.get_available_providers()),
    }


def check(options: Mapping[str, Any]) -> None:
    """Raise AgentError for an unknown option or a provider that this build does not have."""
    chosen = take_options("onnxruntime", options, _DEFAULTS)
    if chosen["threads"] < 1:
        raise AgentError("option threads of onnxruntime is %d; it must be at least 1" % chosen["threads"])
    existing = onnxruntime.get_available_providers()
    if not chosen["providers"]:
        raise AgentError("option providers of onnxruntime is empty; this build has %s" % ", ".join(existing))
    for provider in _provider_names(chosen["providers"]):
        if provider not in existing:
            raise AgentError(
                "execution provider %s is not in this build of onnxruntime %s, which has %s; "
                "install a build that has it or change the option providers"
                % (provider, onnxruntime.__version__, ", ".join(existing))
            )


def warm() -> None:
    """Run one trivial model."""
    session = onnxruntime.InferenceSession(_IDENTITY, _session_options(_DEFAULTS), providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros(1, np.float32)})


def prepare(
    path: Path, options: Mapping[str, Any], shapes: Mapping[str, Tuple[int, ...]], report: Callable[[str], None]
) -> Dict[str, Any]:
    """Do nothing: a model is loaded in milliseconds."""
    del path, options, shapes, report
    return {}


def open(
    path: Path, options: Mapping[str, Any], shapes: Optional[Mapping[str, Tuple[int, ...]]] = None
) -> OnnxRuntimeSession:
    """Load a model; `shapes` is not needed by this runtime.

    Raises:
        AgentError: The runtime refuses the model, or uses another provider than the first one asked for.
    """
    check(options)
    del shapes
    chosen = take_options("onnxruntime", options, _DEFAULTS)
    return OnnxRuntimeSession(path, chosen, _load(path, chosen, _session_options(chosen)))


def throughput(path: Path, options: Mapping[str, Any], feeds: Feeds, cores: int, seconds: float) -> Throughput:
    """Run one single-threaded session from as many threads as there are cores, each with buffers of its own."""
    session = open(path, {**options, "threads": 1})
    calls = [session.bind(feeds) for _ in range(cores)]
    counts, begins, ends = [0] * cores, [0] * cores, [0] * cores
    start = threading.Barrier(cores + 1)
    failures: List[str] = []

    def work(index: int) -> None:
        call, count = calls[index], 0
        try:
            call()
            start.wait()
            begins[index] = time.perf_counter_ns()
            deadline = begins[index] + int(seconds * 1e9)
            while ends[index] < deadline:
                call()
                count += 1
                ends[index] = time.perf_counter_ns()
        except ERRORS as error:
            failures.append(str(error))
            start.abort()
        except threading.BrokenBarrierError:
            pass  # another thread failed, and says why
        counts[index] = count

    threads = [threading.Thread(target=work, args=(index,)) for index in range(cores)]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):  # a thread failed; its message is raised below
        start.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise AgentError("onnxruntime failed under load: %s" % failures[0])
    return Throughput(inferences=sum(counts), seconds=(max(ends) - min(begins)) / 1e9, threads=cores)


class OnnxRuntimeSession:
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, options: Dict[str, Any], session: Any) -> None:
        self._path = path
        self._options = options
        self._session = session
        self.inputs = tuple(
            Tensor(entry.name, tuple(_axis(axis) for axis in entry.shape), _numpy_type(entry.type))
            for entry in session.get_inputs()
        )

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Bind inputs and outputs to buffers in host memory and return the call."""
        binding = self._session.io_binding()
        for name, array in check_feeds(self.inputs, feeds).items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array.copy()))
        # The shapes of the outputs are known only after a run.
        for name, array in self.run(feeds).items():
            buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type)
            binding.bind_ortvalue_output(name, buffer)
        run, wait = self._session.run_with_iobinding, binding.synchronize_outputs
        if self._session.get_providers()[0] == _CPU:
            return lambda: run(binding)

        def call() -> None:  # inputs and outputs lie in host memory: both copies are in it
            run(binding)
            wait()

        return call

    def run(self, feeds: Feeds) -> Dict[str, Array]:
        """Return the outputs by name."""
        names = [entry.name for entry in self._session.get_outputs()]
        try:
            values = self._session.run(names, check_feeds(self.inputs, feeds))
        except ERRORS as error:
            raise AgentError("onnxruntime failed to run the model: %s" % error) from error
        return dict(zip(names, (np.asarray(value) for value in values)))

    def facts(self, feeds: Feeds) -> Dict[str, Any]:
        """Profile a second session: which kernels ran, on which provider, in which precision, and for how long."""
        layers = kernels.read_layers(self._profile(feeds))
        nodes: Dict[str, int] = {}
        for layer in layers:
            nodes[layer["provider"]] = nodes.get(layer["provider"], 0) + 1
        return {
            "provider": self._session.get_providers()[0],
            "nodes_per_provider": nodes,
            "threads": self._options["threads"],
            "static_shapes": all(None not in tensor.shape for tensor in self.inputs),
            "precision": count_precisions(layers),
            "layers": layers,
            "times_of": "a run of a profiled session",
        }

    def _profile(self, feeds: Feeds) -> List[Dict[str, Any]]:
        """Return the events of a profile; its first run allocates what later ones find, and is among them."""
        arrays = check_feeds(self.inputs, feeds)
        with tempfile.TemporaryDirectory() as folder:
            options = _session_options(self._options)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _load(self._path, self._options, options)
            repeat(lambda: session.run(None, arrays))
            events: List[Dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return events


def _session_options(chosen: Mapping[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = chosen["threads"]
    if not chosen["optimize"]:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that wait by spinning would take the core from the other sessions of the process, and draw power.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _load(path: Path, options: Mapping[str, Any], session_options: Any) -> Any:
    providers = [tuple(entry) if isinstance(entry, list) else entry for entry in options["providers"]]
    try:
        session = onnxruntime.InferenceSession(str(path), session_options, providers=providers)
    except ERRORS as error:
        raise AgentError("onnxruntime %s refuses %s: %s" % (onnxruntime.__version__, path.name, error)) from error
    asked, used = _provider_names(options["providers"])[0], session.get_providers()[0]
    if used != asked:
        raise AgentError(
            "asked for %s, onnxruntime fell back to %s; its libraries are missing or its device is not there"
            % (asked, used)
        )
    return session


def _provider_names(providers: List[Any]) -> List[str]:
    """Return the names; an entry is a name or [name, options]."""
    return [str(entry[0]) if isinstance(entry, (list, tuple)) else str(entry) for entry in providers]


def _axis(axis: Any) -> Optional[int]:
    return axis if isinstance(axis, int) and axis >= 0 else None


def _numpy_type(name: str) -> str:
    """Return the numpy name of "tensor(float)"."""
    inner = name[len("tensor(") : -1] if name.startswith("tensor(") else name
    return kernels.TYPES.get(inner, inner)

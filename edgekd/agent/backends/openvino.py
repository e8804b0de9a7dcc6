"""OpenVINO.

Options: `device` (default "CPU"; AUTO, MULTI and HETERO are refused, because they choose by themselves), `threads`
(INFERENCE_NUM_THREADS of a timed model, default 1) and `inference_precision` (default "f32": on CPUs with AVX512-BF16
or AMX, OpenVINO would otherwise compute a float32 model in bfloat16 without saying so; int8 layers of a quantized
model stay int8). `precision` ("fp32", "fp16", "bf16") of one model comes before it. 16 bits that a device does not
compute with are refused.

On a GPU or an NPU threads mean nothing, and memory above the runtime's own includes what the driver allocates for the
device. An NPU takes fixed shapes only: what is not timed runs there one sample at a time.

A timed model is compiled for the very shape that is timed, which is this runtime's fast path, and called with pre-bound
tensors and `share_outputs=True`: the interval is then 3 - 6 us longer than the runtime's own `InferRequest.latency`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edgekd.agent import primitives
from edgekd.agent.backends import Tensor, Throughput, check_feeds, count_precisions, take_options
from edgekd.agent.errors import AgentError
from edgekd.agent.inference_precision import PRECISION_DEFAULTS, require, settled
from edgekd.agent.primitives import PRECISIONS
from edgekd.agent.repeating import repeat

try:
    import openvino
except ImportError as error:
    raise AgentError(
        "OpenVINO cannot be imported (%s): pip install openvino; beside edgekd: pip install 'edgekd[openvino]'" % error
    ) from error

if TYPE_CHECKING:
    from edgekd.agent.backends import Array, Feeds

FIXED_SHAPES = False

_DEFAULTS: Dict[str, Any] = {"device": "CPU", "threads": 1, **PRECISION_DEFAULTS}
_CHOOSING = ("AUTO", "MULTI", "HETERO", "BATCH")
_PROFILED_MODELS, _PROFILED_RUNS = 3, 8
_CPU_KEYS = ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING", "NUM_STREAMS")


def runtime() -> Dict[str, Any]:
    """Return name, version and the devices that OpenVINO sees."""
    return {
        "name": "openvino",
        "version": openvino.__version__.split("-")[0],
        "devices": list(openvino.Core().available_devices),
    }


def check(options: Mapping[str, Any]) -> None:
    """Raise AgentError for an unknown option or a device that is not there."""
    chosen = settled(take_options("openvino", options, _DEFAULTS))
    if chosen["threads"] < 1:
        raise AgentError("option threads of openvino is %d; it must be at least 1" % chosen["threads"])
    if chosen["inference_precision"] not in PRECISIONS:
        raise AgentError(
            "option inference_precision of openvino is %r; it may be %s"
            % (chosen["inference_precision"], ", ".join(sorted(PRECISIONS)))
        )
    device = chosen["device"]
    existing = list(openvino.Core().available_devices)
    if device.split(":")[0] in _CHOOSING:
        raise AgentError("device %s chooses by itself what to run on; name one of %s" % (device, ", ".join(existing)))
    if not any(name == device or name.split(".")[0] == device for name in existing):
        raise AgentError("OpenVINO sees no device %s here; it sees %s" % (device, ", ".join(existing)))
    require(openvino.Core(), device, chosen["inference_precision"])


def warm() -> None:
    """Compile and run one trivial model."""
    parameter = openvino.opset13.parameter([1], np.float32)
    core = openvino.Core()
    compiled = core.compile_model(openvino.Model([openvino.opset13.relu(parameter)], [parameter]), "CPU", _latency(1))
    compiled.create_infer_request().infer([np.zeros(1, np.float32)])


def prepare(
    path: Path, options: Mapping[str, Any], shapes: Mapping[str, Tuple[int, ...]], report: Callable[[str], None]
) -> Dict[str, Any]:
    """Do nothing: a model is loaded in milliseconds."""
    del path, options, shapes, report
    return {}


def open(
    path: Path, options: Mapping[str, Any], shapes: Optional[Mapping[str, Tuple[int, ...]]] = None
) -> OpenVinoSession:
    """Load a model for one stream on `threads` threads, for the given input shapes only if there are any.

    Raises:
        AgentError: OpenVINO refuses the model, or would run it elsewhere or in another precision than asked.
    """
    check(options)
    chosen = settled(take_options("openvino", options, _DEFAULTS))
    model = _read(path)
    if shapes is None and chosen["device"].startswith("NPU"):
        _fix_batch(model)
    inputs = _inputs(model)
    compiled = _compile(model, chosen, shapes, _latency(chosen["threads"]), path.name)
    return OpenVinoSession(path, chosen, inputs, compiled)


def throughput(path: Path, options: Mapping[str, Any], feeds: Feeds, cores: int, seconds: float) -> Throughput:
    """Keep the number of requests in flight that OpenVINO's own throughput hint asks for."""
    chosen = settled(take_options("openvino", options, _DEFAULTS))
    model = _read(path)
    arrays = check_feeds(_inputs(model), feeds)
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": cores, "ENABLE_CPU_PINNING": False}
    shapes = {name: array.shape for name, array in arrays.items()}
    compiled = _compile(model, chosen, shapes, hints, path.name)
    queue = openvino.AsyncInferQueue(compiled)
    for request in queue:
        for port in compiled.inputs:
            request.set_tensor(port, openvino.Tensor(arrays[_input_name(port)].copy()))
    try:
        for _ in range(2 * len(queue)):  # every request has run before the clock starts
            queue.start_async()
        queue.wait_all()
        count, begin = 0, time.perf_counter_ns()
        deadline = begin + int(seconds * 1e9)
        while time.perf_counter_ns() < deadline:
            queue.start_async()
            count += 1
        queue.wait_all()
    except RuntimeError as error:
        raise AgentError("OpenVINO failed under load: %s" % error) from error
    return Throughput(inferences=count, seconds=(time.perf_counter_ns() - begin) / 1e9, threads=cores)


class OpenVinoSession:
    """A compiled model and its one infer request."""

    def __init__(self, path: Path, options: Dict[str, Any], inputs: Tuple[Tensor, ...], compiled: Any) -> None:
        self._path = path
        self._options = options
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.inputs = inputs

    @property
    def request(self) -> Any:
        """The infer request; its `latency` (ms) is the runtime's own clock for the last call."""
        return self._request

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Set the request's input tensors and return the synchronous call; outputs stay in the request's own memory."""
        for name, array in check_feeds(self.inputs, feeds).items():
            self._request.set_tensor(_port(self._compiled, name), openvino.Tensor(array.copy()))
        infer = self._request.infer

        def call() -> None:
            infer(share_outputs=True)

        return call

    def run(self, feeds: Feeds) -> Dict[str, Array]:
        """Return the outputs by name."""
        arrays = check_feeds(self.inputs, feeds)
        try:
            for name, array in arrays.items():
                self._request.set_tensor(_port(self._compiled, name), openvino.Tensor(array))
            self._request.infer()
        except RuntimeError as error:
            raise AgentError("OpenVINO failed to run the model: %s" % error) from error
        return {_output_name(port): self._request.get_tensor(port).data.copy() for port in self._compiled.outputs}

    def facts(self, feeds: Feeds) -> Dict[str, Any]:
        """Read the compiled graph: which primitive each layer got, in which precision; and profile a second one."""
        layers, times_reason = self._profiled(feeds)
        reason = None
        try:
            layers = layers or primitives.read_layers(self._compiled, {})
        except RuntimeError as error:  # a plugin need not tell; the NPU's does not
            reason = "the plugin does not tell its layers: %s" % error
        return {
            "provider": ", ".join(self._compiled.get_property("EXECUTION_DEVICES")),
            "inference_precision": self._options["inference_precision"],
            "threads": self._options["threads"],
            "static_shapes": all(port.get_partial_shape().is_static for port in self._compiled.inputs),
            "precision": count_precisions(layers),
            "precision_reason": reason,
            "layers": layers,
            "times_of": None if times_reason else "the mean of up to %d runs of a profiled model" % _PROFILED_RUNS,
            "times_reason": times_reason,
        }

    def _profiled(self, feeds: Feeds) -> Tuple[List[Dict[str, Any]], Optional[str]]:
        """Return the layers of models compiled with counters, each with a time of each model; or why there are none.

        A counter is the mean over all runs of a model, which one interruption spoils: so there are several models. The
        first run, which does what is done once, is taken out of the mean again.
        """
        arrays = check_feeds(self.inputs, feeds)
        try:
            models = [self._profile(arrays) for _ in range(_PROFILED_MODELS)]
        except (AgentError, RuntimeError) as error:  # a plugin need not count
            return [], "the plugin does not time its layers: %s" % error
        # Names that OpenVINO invents differ from model to model; the order does not.
        times = [[time for layer in same for time in layer["times_ns"]] for same in zip(*models)]
        return [{**layer, "times_ns": samples} for layer, samples in zip(models[0], times)], None

    def _profile(self, arrays: Dict[str, Array]) -> List[Dict[str, Any]]:
        """Return the layers of a fresh model with one time each."""
        shapes = {name: array.shape for name, array in arrays.items()}
        hints = {**_latency(self._options["threads"]), "PERF_COUNT": True}
        compiled = _compile(_read(self._path), self._options, shapes, hints, self._path.name)
        request = compiled.create_infer_request()
        for name, array in arrays.items():
            request.set_tensor(_port(compiled, name), openvino.Tensor(array))
        request.infer()
        first = primitives.read_counters(request)
        runs = repeat(request.infer, _PROFILED_RUNS)
        later = {
            name: (runs + 1) * mean - first.get(name, 0) for name, mean in primitives.read_counters(request).items()
        }
        return primitives.read_layers(compiled, {name: [max(0, round(time / runs))] for name, time in later.items()})


def _latency(threads: int) -> Dict[str, Any]:
    # Pinning is ours: the process is pinned as a whole, and OpenVINO's own would move its threads off that core.
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def _read(path: Path) -> Any:
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise AgentError("OpenVINO %s refuses %s: %s" % (openvino.__version__, path.name, error)) from error


def _compile(
    model: Any,
    options: Mapping[str, Any],
    shapes: Optional[Mapping[str, Tuple[int, ...]]],
    hints: Mapping[str, Any],
    name: str,
) -> Any:
    device = options["device"]
    only = {key: value for key, value in hints.items() if device.startswith("CPU") or key not in _CPU_KEYS}
    only["INFERENCE_PRECISION_HINT"] = options["inference_precision"]
    try:
        if shapes is not None and model.is_dynamic():
            model.reshape({port: list(shapes[_input_name(port)]) for port in model.inputs})
        compiled = openvino.Core().compile_model(model, device, only)
        used = list(compiled.get_property("EXECUTION_DEVICES"))
    except RuntimeError as error:
        raise AgentError(
            "OpenVINO %s cannot compile %s for %s: %s" % (openvino.__version__, name, device, error)
        ) from error
    if not used or any(entry != device and entry.split(".")[0] != device for entry in used):
        raise AgentError("asked OpenVINO for %s, it would run %s on %s" % (device, name, ", ".join(used)))
    return compiled


def _fix_batch(model: Any) -> None:
    """Give free first axes the length 1."""
    shapes = {port: port.get_partial_shape() for port in model.inputs}
    for shape in shapes.values():
        if len(shape) and shape[0].is_dynamic:
            shape[0] = 1
    model.reshape(shapes)


def _inputs(model: Any) -> Tuple[Tensor, ...]:
    return tuple(
        Tensor(
            _input_name(port),
            tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()),
            np.dtype(port.get_element_type().to_dtype()).name,
        )
        for port in model.inputs
    )


def _port(compiled: Any, name: str) -> Any:
    return next(port for port in compiled.inputs if _input_name(port) == name)


def _input_name(port: Any) -> str:
    return str(port.get_node().get_friendly_name())


def _output_name(port: Any) -> str:
    """Return the ONNX name of an output; a port can carry several names when nodes before it were folded away."""
    name = str(port.get_node().get_friendly_name()).split("/sink_port_")[0]
    names = port.get_names()
    return name if name in names or not names else str(min(names))

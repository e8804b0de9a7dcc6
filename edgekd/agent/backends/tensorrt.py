"""TensorRT 8.5 to 11, one path for all: what a release has is asked of its classes.

Options: `precision` ("fp32", "fp16", "int8"), `half_file` (the same network with float16 inside, for releases that
cannot lower the precision themselves), `workspace_mb` (most scratch memory of a tactic while building; 0: half of what
is free), `dla` (a DLA core; -1: the GPU), `allow_gpu_fallback` (the GPU may run what the DLA cannot), `cuda_graph` (the
timed call launches one recorded graph), `optimization_level` (1 - 5; 0: the release's own), `cache` (keep engines;
false: every process builds its own, and tactics may differ between them) and `threads` (not used by this runtime).

A timed call is what an application does: copy the inputs from page-locked memory to the GPU, run, copy the outputs
back, wait (as CUDA chooses: it may spin). Loading includes checking the digests of the file and its engine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edgekd.agent import building, cudart, engines, inspection, nvinfer
from edgekd.agent.backends import Tensor, Throughput, check_feeds, count_precisions, take_options
from edgekd.agent.building import Recipe
from edgekd.agent.errors import AgentError
from edgekd.agent.execution import Execution
from edgekd.agent.nvinfer import LOG, trt

if TYPE_CHECKING:
    from edgekd.agent.backends import Array, Feeds

FIXED_SHAPES = True

_DEFAULTS: Dict[str, Any] = {
    "precision": "fp32",
    "half_file": "",
    "workspace_mb": 0,
    "dla": -1,
    "allow_gpu_fallback": False,
    "cuda_graph": False,
    "optimization_level": 0,
    "cache": True,
    "threads": 1,
}
_PRECISIONS = ("fp32", "fp16", "int8")
_CLOCKED_CALLS = 50


def runtime() -> Dict[str, Any]:
    """Return name, version, the GPU and the CUDA releases; "simulated" where TensorRT or CUDA is only a stand-in."""
    cuda = cudart.load()
    told = {
        "name": "tensorrt",
        "version": nvinfer.version(),
        "cuda": cuda.runtime_version(),
        "cuda_driver": cuda.driver_version(),
        "gpu": cuda.device_name(),
        "compute_capability": cuda.compute_capability(),
    }
    reasons = [reason for reason in (nvinfer.stand_in(), cuda.simulated()) if reason]
    return {**told, "simulated": "; ".join(reasons)} if reasons else told


def check(options: Mapping[str, Any]) -> None:
    """Raise AgentError for an option that is unknown, contradicts another, or that this release or device lacks."""
    chosen = take_options("tensorrt", options, _DEFAULTS)
    if chosen["precision"] not in _PRECISIONS:
        raise AgentError(
            "option precision of tensorrt is %r; it may be %s" % (chosen["precision"], ", ".join(_PRECISIONS))
        )
    for name, least, most in (("workspace_mb", 0, None), ("dla", -1, None), ("optimization_level", 0, 5)):
        value = chosen[name]
        if value < least or (most is not None and value > most):
            allowed = "at least %d" % least if most is None else "%d to %d" % (least, most)
            raise AgentError("option %s of tensorrt is %d; it must be %s" % (name, value, allowed))
    if chosen["threads"] < 1:
        raise AgentError("option threads of tensorrt is %d; it must be at least 1" % chosen["threads"])
    if chosen["optimization_level"] and not hasattr(trt.IBuilderConfig, "builder_optimization_level"):
        raise AgentError("TensorRT %s has no optimization levels; leave the option out" % nvinfer.version())
    _check_dla(chosen)


def warm() -> None:
    """Make CUDA's context and TensorRT's runtime, which belong to the process and not to a model."""
    cudart.load().device_buffer(1).close()
    nvinfer.load_plugins()
    trt.Runtime(LOG)


def prepare(
    path: Path, options: Mapping[str, Any], shapes: Mapping[str, Tuple[int, ...]], report: Callable[[str], None]
) -> Dict[str, Any]:
    """Build the engine, if it is not kept already; return what is known of it: "cached", "build_seconds", "flags", ...

    Raises:
        AgentError: It cannot be built as asked. A process that the system kills for its memory says nothing: its parent
            has to.
    """
    check(options)
    chosen = take_options("tensorrt", options, _DEFAULTS)
    recipe = _recipe(path, chosen, shapes)
    return engines.obtain(recipe, True, report).facts if chosen["cache"] else {}


def open(
    path: Path, options: Mapping[str, Any], shapes: Optional[Mapping[str, Tuple[int, ...]]] = None
) -> TensorRtSession:
    """Load the kept engine, or build it; `shapes` are needed where the file leaves an axis open.

    Raises:
        AgentError: It cannot be built as asked, or not be loaded, or would run elsewhere than asked.
    """
    check(options)
    chosen = take_options("tensorrt", options, _DEFAULTS)
    recipe = _recipe(path, chosen, shapes)
    engine = engines.obtain(recipe, chosen["cache"], _silent)
    execution = Execution(engine.plan, recipe.shapes or {}, chosen["dla"])
    _refuse_fallback(execution.layers, chosen)
    return TensorRtSession(execution, engine.facts, chosen)


def throughput(path: Path, options: Mapping[str, Any], feeds: Feeds, cores: int, seconds: float) -> Throughput:
    """Keep two calls in flight, each on a stream, a context and an engine of its own: one copies while one computes.

    Two contexts of one engine would share its weights, but TensorRT 8 lets only one use an optimization profile.
    """
    del cores
    shapes = {name: array.shape for name, array in feeds.items()}
    sessions = [open(path, options, shapes) for _ in range(2)]
    try:
        lanes = [session.lane(feeds) for session in sessions]
        for start, wait in lanes:
            start()
            wait()
        count, begin = 0, time.perf_counter_ns()
        deadline = begin + int(seconds * 1e9)
        for start, _ in lanes:
            start()
        while time.perf_counter_ns() < deadline:
            for start, wait in lanes:
                wait()
                start()
                count += 1
        for _, wait in lanes:
            wait()
            count += 1
        return Throughput(inferences=count, seconds=(time.perf_counter_ns() - begin) / 1e9, threads=1)
    finally:
        for session in sessions:
            session.close()


class TensorRtSession:
    """An engine, built and loaded for one shape of each input."""

    def __init__(self, execution: Execution, built: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._execution = execution
        self._built = built
        self._options = options
        self.inputs = tuple(Tensor(port.name, port.shape, port.dtype) for port in execution.inputs)

    def close(self) -> None:
        """Free the memory of GPU and host at once; otherwise it is freed when nobody holds the session any more."""
        self._execution.close()

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the call that copies the inputs to the GPU, runs, copies the outputs back and waits."""
        start, wait = self.lane(feeds)

        def call() -> None:
            start()
            wait()

        return call

    def lane(self, feeds: Feeds) -> Tuple[Callable[[], None], Callable[[], None]]:
        """Return the two halves of that call, so that several sessions can be busy at once."""
        return self._execution.lane(self._checked(feeds), self._options["cuda_graph"])

    def run(self, feeds: Feeds) -> Dict[str, Array]:
        """Return the outputs by name."""
        return self._execution.run(self._checked(feeds))

    def facts(self, feeds: Feeds) -> Dict[str, Any]:
        """Tell what the engine is made of, and how much of a call's time (`host_ns`) the GPU computes (`gpu_ns`)."""
        layers, graph, dla = self._execution.layers, self._options["cuda_graph"], self._options["dla"]
        arrays = self._checked(feeds)
        reason = inspection.precision_reason(layers)
        gpu_ns, host_ns = self._execution.clock(arrays, graph, _CLOCKED_CALLS)
        times = self._execution.profile(arrays)
        on_dla = [layer["name"] for layer in layers if inspection.on_dla(layer)]
        return {
            **self._built,
            "provider": "TensorRT %s on %s" % (nvinfer.version(), cudart.load().device_name()),
            "threads": self._options["threads"],
            "static_shapes": True,
            "precision": None if reason else count_precisions(layers),
            "precision_reason": reason,
            "layers": [{**layer, "times_ns": times.get(layer["name"], [])} for layer in layers],
            "times_of": "a run, layer by layer, on the GPU",
            "times_reason": None if times else "TensorRT's profiler told nothing",
            "dla": None if dla < 0 else {"core": dla, "layers": on_dla, "gpu_layers": inspection.on_gpu(layers)},
            "device_memory_bytes": self._execution.device_memory_bytes(),
            "cuda_graph": graph,
            "gpu_ns": gpu_ns,
            "gpu_ns_of": "copies and kernels" if graph else "kernels",
            "host_ns": host_ns,
        }

    def _checked(self, feeds: Feeds) -> Dict[str, Array]:
        """Return the feeds as the engine takes them: TensorRT 8 has no int64 and makes int32 of such inputs."""
        narrow = {tensor.name for tensor in self.inputs if tensor.dtype == "int32"}
        narrowed = {
            name: array.astype(np.int32) if name in narrow and array.dtype == np.int64 and _fits_int32(array) else array
            for name, array in feeds.items()
        }
        return check_feeds(self.inputs, narrowed)


def _fits_int32(array: Array) -> bool:
    return bool(np.all(array == array.astype(np.int32)))


def _recipe(path: Path, chosen: Mapping[str, Any], shapes: Optional[Mapping[str, Tuple[int, ...]]]) -> Recipe:
    source, flags = building.lowered(chosen["precision"], path, chosen["half_file"])
    if not source.is_file():
        raise AgentError("there is no file %s" % source)
    return Recipe(
        source=source,
        precision=chosen["precision"],
        flags=flags,
        workspace_mb=chosen["workspace_mb"],
        dla=chosen["dla"],
        allow_gpu_fallback=chosen["allow_gpu_fallback"],
        optimization_level=chosen["optimization_level"],
        shapes={name: tuple(map(int, shape)) for name, shape in sorted(shapes.items())} if shapes else None,
    )


def _check_dla(chosen: Mapping[str, Any]) -> None:
    if chosen["dla"] < 0:
        if chosen["allow_gpu_fallback"]:
            raise AgentError("allow_gpu_fallback means nothing without a DLA core: set the option dla, or leave it out")
        return
    if chosen["precision"] == "fp32":
        raise AgentError("a DLA computes in fp16 and int8 only: leave fp32 out of the profile's precisions")
    cores = trt.Runtime(LOG).num_DLA_cores
    if chosen["dla"] >= cores:
        there = "cores 0 to %d" % (cores - 1) if cores else "none (not every Jetson nor every release has one)"
        raise AgentError("option dla of tensorrt is %d; there are %s" % (chosen["dla"], there))


def _refuse_fallback(layers: List[Dict[str, Any]], chosen: Mapping[str, Any]) -> None:
    """Refuse an engine that was asked to be the DLA's and runs on the GPU in parts."""
    left = inspection.on_gpu(layers) if chosen["dla"] >= 0 else []
    if left and not chosen["allow_gpu_fallback"]:
        raise AgentError(
            "asked for DLA core %d, TensorRT put %d layers on the GPU: %s; allow_gpu_fallback: true accepts that"
            % (chosen["dla"], len(left), ", ".join(left[:10]))
        )


def _silent(detail: str) -> None:
    del detail

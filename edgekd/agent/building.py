"""Build a TensorRT engine from an ONNX file, on the device that will run it.

fp32 is float32 alone: TF32, which rounds factors to 10 bits, is off in every precision. fp16 and int8 use the builder's
flags where the release has them (8.5 - 10); where it has not (11), the network is strongly typed, so float16 has to be
in the file. int8 is explicit: the file has QuantizeLinear and DequantizeLinear, nothing is calibrated.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from edgekd.agent import cudart, nvinfer
from edgekd.agent.errors import AgentError
from edgekd.agent.nvinfer import LOG, trt

Report = Callable[[str], None]

_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}
_MOST_PARSER_ERRORS = 5
_TICK_SECONDS = 5.0
_NO_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """All that decides what is built.

    Attributes:
        source: The ONNX file.
        precision: "fp32", "fp16" or "int8".
        flags: Builder flags that lower the precision; () also where the file's own types decide.
        workspace_mb: Most scratch memory of a tactic; 0: half of what is free.
        dla: Number of the DLA core, or -1 for the GPU.
        allow_gpu_fallback: Whether layers that the DLA cannot run may run on the GPU.
        optimization_level: 1 - 5; 0: the release's own.
        shapes: Of each input, or None if the file has fixed ones.
    """

    source: Path
    precision: str
    flags: Tuple[str, ...]
    workspace_mb: int
    dla: int
    allow_gpu_fallback: bool
    optimization_level: int
    shapes: Optional[Mapping[str, Tuple[int, ...]]]


@dataclass(frozen=True)
class Built:
    """An engine: the serialized plan, the timings to keep for the next build, and what there is to tell."""

    plan: bytes
    timings: bytes
    facts: Dict[str, Any]


def lowered(precision: str, path: Path, half_file: str) -> Tuple[Path, Tuple[str, ...]]:
    """Return which file to build in a precision, and with which builder flags, in the TensorRT that is installed."""
    wanted = _FLAGS[precision]
    flags = tuple(name for name in wanted if nvinfer.flag(name) is not None)
    typed_by_file = bool(wanted) and not flags
    return (Path(half_file) if typed_by_file and half_file else path), flags


def build(recipe: Recipe, timings: bytes, report: Report) -> Built:
    """Build an engine; this takes from seconds to many minutes, and more memory than running it.

    Args:
        recipe: What to build.
        timings: Timing cache of earlier builds, b"" if there is none.
        report: Called every few seconds.

    Raises:
        AgentError: The parser or the builder refuses the model, or it cannot be built as asked.
    """
    LOG.clear()
    nvinfer.load_plugins()
    started = time.perf_counter()
    builder = trt.Builder(LOG)
    network = _parse(builder, recipe.source)
    _check_types(network, recipe)
    config = builder.create_builder_config()
    facts = _configure(builder, network, config, recipe)
    reused = _use_timings(config, timings)
    with _progress(config, "building %s as %s" % (recipe.source.name, recipe.precision), report):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = LOG.said()
        advice = "; lower the option workspace_mb, or end what else uses memory" if _NO_MEMORY.search(said) else ""
        raise AgentError("TensorRT %s cannot build %s: %s%s" % (nvinfer.version(), recipe.source.name, said, advice))
    return Built(
        bytes(plan),
        bytes(config.get_timing_cache().serialize()),
        {
            **facts,
            "build_seconds": time.perf_counter() - started,
            "timing_cache_reused": reused,
            "skipped_tactics": LOG.skipped_tactics,
            "warnings": list(LOG.warnings),
        },
    )


def merged_timings(ours: bytes, others: bytes) -> bytes:
    """Return the timings of two builds together; ours where they cannot be combined."""
    if not others or others == ours:
        return ours
    config = trt.Builder(LOG).create_builder_config()
    merged, second = config.create_timing_cache(ours), config.create_timing_cache(others)
    if merged is None or second is None or not merged.combine(second, False):
        return ours
    return bytes(merged.serialize())


def _use_timings(config: Any, timings: bytes) -> bool:
    """Start from the timings of earlier builds, or from none; return whether they were taken."""
    cache = config.create_timing_cache(timings) if timings else None
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def _parse(builder: Any, source: Path) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    bits = 0
    if hasattr(flags, "EXPLICIT_BATCH"):  # 8 needs it, 10 ignores it
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    if nvinfer.flag("FP16") is None and hasattr(flags, "STRONGLY_TYPED"):
        bits |= 1 << int(flags.STRONGLY_TYPED)
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse_from_file(str(source)):
        errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        text = "; ".join(errors[:_MOST_PARSER_ERRORS]) or LOG.said()
        raise AgentError("TensorRT %s refuses %s: %s" % (nvinfer.version(), source.name, text))
    return network


def _parser_error(error: Any) -> str:
    """Return what is wrong and where; the node's name is told by newer releases, its number by all."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = "node %d" % error.node() + (" %r" % name if name else "") + (" (%s)" % operator if operator else "")
    return "%s: %s" % (where, error.desc())


def _layers(network: Any) -> List[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _check_types(network: Any, recipe: Recipe) -> None:
    """Refuse a file that would silently be built in a higher precision than asked."""
    layers = _layers(network)
    if recipe.precision == "int8" and not any(layer.type == trt.LayerType.DEQUANTIZE for layer in layers):
        raise AgentError(
            "int8 was asked for, but %s has no QuantizeLinear and DequantizeLinear; quantize the model first "
            "(nothing is calibrated on the device)" % recipe.source.name
        )
    if recipe.precision == "fp16" and not recipe.flags:
        tensors = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
        if not any(tensor.dtype == trt.DataType.HALF for tensor in tensors):
            raise AgentError(
                "fp16 was asked for, but TensorRT %s cannot lower the precision by itself and %s has no float16 in it; "
                "export the model with float16 inside and name that file in the option half_file"
                % (nvinfer.version(), recipe.source.name)
            )


def _configure(builder: Any, network: Any, config: Any, recipe: Recipe) -> Dict[str, Any]:
    """Set everything that the recipe says, and return what was set."""
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in recipe.flags:
        config.set_flag(nvinfer.flag(name))
    free, _ = cudart.load().memory_bytes()
    workspace = recipe.workspace_mb << 20 if recipe.workspace_mb else free // 2
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if recipe.optimization_level:
        config.builder_optimization_level = recipe.optimization_level
    _fix_shapes(builder, network, config, recipe)
    return {
        "precision": recipe.precision,
        "source": recipe.source.name,
        "flags": list(recipe.flags),
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "workspace_mb": workspace >> 20,
        "not_on_dla": _use_dla(network, config, recipe) if recipe.dla >= 0 else [],
    }


def _fix_shapes(builder: Any, network: Any, config: Any, recipe: Recipe) -> None:
    """Give every input one shape: an optimization profile whose least, best and largest are the same."""
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        declared = tuple(tensor.shape)
        wanted = None if recipe.shapes is None else recipe.shapes.get(tensor.name)
        if wanted is None and -1 in declared:
            raise AgentError(
                "an engine is built for one shape, and none was given for input %r %s of %s"
                % (tensor.name, _shape(declared), recipe.source.name)
            )
        if wanted is None:
            continue
        if len(wanted) != len(declared) or any(have not in (-1, want) for have, want in zip(declared, wanted)):
            raise AgentError(
                "input %r of %s is %s, the job feeds %s"
                % (tensor.name, recipe.source.name, _shape(declared), _shape(wanted))
            )
        if -1 in declared:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(tensor.name, wanted, wanted, wanted)
    if profile is not None:
        config.add_optimization_profile(profile)


def _use_dla(network: Any, config: Any, recipe: Recipe) -> List[str]:
    """Put the network on a DLA core; return the layers that it cannot run.

    The flag GPU_FALLBACK is set always: even a network that the DLA runs whole needs the GPU to bring inputs and
    outputs into the DLA's format. So it is checked here that nothing else goes there.
    """
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = recipe.dla
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    constant = trt.LayerType.CONSTANT
    left = [layer.name for layer in _layers(network) if layer.type != constant and not config.can_run_on_DLA(layer)]
    if left and not recipe.allow_gpu_fallback:
        raise AgentError(
            "DLA core %d cannot run %d layers of %s: %s; allow_gpu_fallback: true runs them on the GPU, which then "
            "counts in latency and energy" % (recipe.dla, len(left), recipe.source.name, ", ".join(left[:10]))
        )
    return left


def _shape(shape: Any) -> str:
    return "[%s]" % "x".join("?" if axis == -1 else str(axis) for axis in shape)


@contextmanager
def _progress(config: Any, what: str, report: Report) -> Iterator[None]:
    """Report every few seconds that a build goes on, with its phase where the release tells it."""
    phase = [""]
    monitor = None
    if hasattr(trt.IBuilderConfig, "progress_monitor"):
        monitor = config.progress_monitor = _monitor(phase)
    started, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(_TICK_SECONDS):
            report("%s, %d s%s" % (what, time.monotonic() - started, phase[0]))

    report(what)
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        del monitor  # it had to outlive the build


def _monitor(phase: List[str]) -> Any:
    """Return an object that keeps the outermost phase of a build and its step in a list of one text."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of its own, as older releases lack the base
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: Dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                phase[0] = ": %s" % phase_name

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                phase[0] = ": %s, step %d of %d" % (phase_name, step + 1, self._steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if self._steps.pop(phase_name, None) is not None:
                phase[0] = ""

    return Monitor()

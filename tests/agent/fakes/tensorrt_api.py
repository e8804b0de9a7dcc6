"""A module `tensorrt` of any release: the names are the release's, what they do is done by onnx and ONNX Runtime.

Environment: FAKE_TRT_RELEASE and FAKE_TRT_VERSION (for processes of their own, see `install`), FAKE_TRT_KILL (the
builder dies as for want of memory), FAKE_TRT_NO_TACTIC (it builds nothing and says this), FAKE_TRT_DLA_CORES (0).
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from . import execution, networks
from .bindings import binding, enumeration, members, number, releases

ROOT = Path(__file__).resolve().parents[3]
TIMED: list[str] = []
"""Layers whose tactics were timed because the timing cache did not know them."""
MEANWHILE: list[Callable[[], None]] = []
"""What happens while the builder is busy."""


@functools.cache
def make(release: str, version: str | None = None) -> Any:
    """Return the module of a release; `version` is what it calls itself, by default the release's with a patch."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version or f"{release}.1"
    trt.names, trt.release = releases()[release], number(release)
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "DataType", "MemoryPoolType", "TensorIOMode"):
        setattr(trt, name, enumeration(name, trt.names[name]))
    for name in ("DeviceType", "ProfilingVerbosity"):
        setattr(trt, name, enumeration(name, trt.names[name]))
    trt.LayerType = enumeration("LayerType", ["CONSTANT", "QUANTIZE", "DEQUANTIZE", "MATRIX_MULTIPLY", "UNARY"])
    trt.TensorLocation = enumeration("TensorLocation", ["DEVICE", "HOST"])
    trt.LayerInformationFormat = enumeration("LayerInformationFormat", ["ONELINE", "JSON"])
    trt.Severity = enumeration("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
    trt.ILogger = type("ILogger", (), {"__init__": lambda self: None})
    if "progress_monitor" in trt.names["IBuilderConfig"]:
        trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    _bind_building(trt)
    execution.bind(trt)
    return trt


def install(folder: Path, release: str, library: Path, version: str | None = None) -> dict[str, str]:
    """Write a `tensorrt.py` into a folder; return the environment in which a process imports it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tensorrt.py").write_text(
        "import os, sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from tests.agent.fakes import tensorrt_api\n"
        "sys.modules[__name__] = tensorrt_api.make(\n"
        "    os.environ['FAKE_TRT_RELEASE'], os.environ.get('FAKE_TRT_VERSION'))\n"
    )
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = {"PYTHONPATH": path, "FAKE_TRT_RELEASE": release, "EDGEKD_CUDART": str(library)}
    return told if version is None else {**told, "FAKE_TRT_VERSION": version}


class HostMemory:
    """What the builder returns. Its buffer has a type and an item size that do not fit, so only bytes() may read it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content

    @property
    def nbytes(self) -> int:
        return len(self._content)


class TimingCache:
    """The names of the layers that were timed, by release."""

    def __init__(self, release: str, names: set[str]) -> None:
        self.release, self.known = release, names

    def serialize(self) -> HostMemory:
        return HostMemory("\n".join([self.release, *sorted(self.known)]).encode())

    def combine(self, input_cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.known |= input_cache.known
        return True


def _bind_building(trt: Any) -> None:
    names = trt.names

    class Config:
        """State of a builder's configuration."""

        def __init__(self) -> None:
            self._flags = {trt.BuilderFlag.TF32}
            self._workspace = 1 << 40
            self._profiles: list[Any] = []
            self._cache: Any = None
            self.DLA_core, self.default_device_type = -1, trt.DeviceType.GPU
            self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag)

        def get_flag(self, flag: Any) -> bool:
            return flag in self._flags

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            assert pool is trt.MemoryPoolType.WORKSPACE
            self._workspace = size

        def create_timing_cache(self, content: bytes) -> Any:
            head, *known = content.decode("utf-8", "replace").split("\n")
            return TimingCache(trt.__version__, set(known)) if head in ("", trt.__version__) else None

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

        def add_optimization_profile(self, profile: Any) -> int:
            self._profiles.append(profile)
            return 0

        def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
            assert self.DLA_core >= 0
            return layer.operator not in (*networks.NOT_ON_DLA, "Constant")

    settable = dict.fromkeys(("DLA_core", "default_device_type", "profiling_verbosity", "progress_monitor"))
    settable["builder_optimization_level"] = 3
    trt.IBuilderConfig = binding("IBuilderConfig", names["IBuilderConfig"], {**settable, **members(Config)})

    class Profile:
        """State of an optimization profile."""

        def __init__(self) -> None:
            self._shapes: dict[str, tuple[int, ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            assert tuple(min) == tuple(opt) == tuple(max)
            self._shapes[input] = tuple(opt)

    trt.IOptimizationProfile = binding("IOptimizationProfile", names["IOptimizationProfile"], members(Profile))
    trt.INetworkDefinition = binding("INetworkDefinition", names["INetworkDefinition"], members(_network(trt)))
    trt.OnnxParser = binding("OnnxParser", names["OnnxParser"], members(_parser(trt)))
    trt.Builder = binding("Builder", names["Builder"], members(_builder(trt)))


def _network(trt: Any) -> type:
    class Network:
        """State of a network; a layer is a node of the ONNX file."""

        def __init__(self, flags: int) -> None:
            self._bits = flags
            self._model: Any = None

        @property
        def num_inputs(self) -> int:
            return len(self._model.graph.input)

        def get_input(self, index: int) -> Any:
            name, shape, kind = networks.tensors(self._model.graph.input)[index]
            return SimpleNamespace(name=name, shape=shape, dtype=networks.data_type(trt, kind))

        @property
        def num_layers(self) -> int:
            return len(self._model.graph.node) + len(self._model.graph.initializer)

        def get_layer(self, index: int) -> Any:
            nodes, known = self._model.graph.node, networks.types(self._model)
            if index >= len(nodes):
                constant = self._model.graph.initializer[index - len(nodes)].name
                return _layer(trt, constant, "Constant", known[constant])
            return _layer(trt, nodes[index].name, nodes[index].op_type, known[nodes[index].output[0]])

        def _has_flag(self, name: str) -> bool:
            flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
            return flag is not None and bool(self._bits & (1 << int(flag)))

    return Network


def _layer(trt: Any, name: str, operator: str, kind: str) -> Any:
    types = {"Constant": "CONSTANT", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE"}
    output = SimpleNamespace(dtype=networks.data_type(trt, kind))
    return SimpleNamespace(
        name=name,
        operator=operator,
        type=getattr(trt.LayerType, types.get(operator, "UNARY")),
        num_outputs=1,
        get_output=lambda index: output,
    )


def _parser(trt: Any) -> type:
    class Parser:
        """State of a parser."""

        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._errors = network, []

        def parse_from_file(self, path: str) -> bool:
            try:
                model = onnx.load(path)
            except DecodeError:
                self._refuse(-1, "ModelImporter: Failed to parse the ONNX model", None)
                return False
            if trt.release < (10,) and not self._network._has_flag("EXPLICIT_BATCH"):
                self._refuse(-1, "This version of the ONNX parser only supports explicit batch networks", None)
            for index, node in enumerate(model.graph.node):
                if node.op_type in networks.UNSUPPORTED:
                    self._refuse(index, f"No importer registered for op: {node.op_type}", node)
            self._network._model = model
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

        def _refuse(self, index: int, text: str, node: Any) -> None:
            told = {"desc": lambda: text, "node": lambda: index}
            if trt.release >= (10,):
                told["node_name"] = lambda: node.name if node else ""
                told["node_operator"] = lambda: node.op_type if node else ""
            self._errors.append(SimpleNamespace(**told))

    return Parser


def _builder(trt: Any) -> type:
    class Builder:
        """Builds plans."""

        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, trt.ILogger)
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            return trt.INetworkDefinition(flags)

        def create_builder_config(self) -> Any:
            return trt.IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return trt.IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            if os.environ.get("FAKE_TRT_KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ.get("FAKE_TRT_NO_TACTIC"):
                self._logger.log(trt.Severity.ERROR, os.environ["FAKE_TRT_NO_TACTIC"])
                return None
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Building Engine", None, 1)
                monitor.phase_start("Timing", "Building Engine", 1)
                assert monitor.step_complete("Timing", 0)
                assert monitor.step_complete("Building Engine", 0)
            for event in MEANWHILE:
                event()
            if monitor is not None:
                monitor.phase_finish("Timing")
                monitor.phase_finish("Building Engine")
            if config._workspace < 2 << 20:
                for line in (
                    "Tactic Device request: 600MB Available: 302MB. Device memory is insufficient to use tactic.",
                    "UNSUPPORTED_STATE: Skipping tactic 3 due to insufficient memory on requested size of 629145600",
                ):
                    self._logger.log(trt.Severity.WARNING, line)
            self._logger.log(trt.Severity.INFO, "Total Activation Memory: 0")
            return HostMemory(execution.plan(trt, network, config, TIMED))

    return Builder

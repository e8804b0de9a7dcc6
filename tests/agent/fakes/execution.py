"""The running half of the stand-in of TensorRT: plans, engines, contexts. They compute on the memory they are given."""

from __future__ import annotations

import ctypes
import json
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from . import networks
from .bindings import binding, members

NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "UINT8": "u1", "INT32": "i4", "INT64": "i8", "BOOL": "?"}
# How the inspector words a type: 8 tells the layout with it, 10 does not.
OLD = {"Int8": "Four wide channel vectorized row major Int8 format", "Half": "Row major linear FP16 format"}
OLD["Float"] = "Row major linear FP32"
PROFILED_MS = 0.125
"""What the profiler tells of the first layer; of the second it tells twice that, and so on."""
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)


def plan(trt: Any, network: Any, config: Any, timed: list[str]) -> bytes:
    """Return a serialized engine: one line of JSON, then the ONNX file."""
    model = network._model
    flags = [flag.name for flag in config._flags]
    typed = "FP16" not in trt.names["BuilderFlag"] or network._has_flag("STRONGLY_TYPED")
    assert not (typed and {"FP16", "INT8"} & set(flags))
    layers = networks.computing(model, flags, typed)
    for layer in layers:
        if layer["name"] not in config._cache.known:
            timed.append(layer["name"])
            config._cache.known.add(layer["name"])
    on_dla = config.default_device_type is trt.DeviceType.DLA
    assert not on_dla or {"FP16", "INT8"} & set(flags)
    head = {
        "version": trt.__version__,
        "layers": layers,
        "detailed": config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED,
        "shapes": config._profiles[0]._shapes if config._profiles else {},
        "dla": config.DLA_core if on_dla else -1,
        "gpu": [node.name for node in model.graph.node if node.op_type in networks.NOT_ON_DLA],
        "level": getattr(config, "builder_optimization_level", None),
    }
    return json.dumps(head).encode() + b"\n" + model.SerializeToString()


def bind(trt: Any) -> None:
    """Add the classes that load and run plans to the module."""
    names = trt.names
    trt.Runtime = binding("Runtime", names["Runtime"], {**members(_runtime(trt)), "DLA_core": -1})
    engine, sizes = members(_engine(trt)), {"device_memory_size": 4096, "device_memory_size_v2": 8192}
    trt.ICudaEngine = binding("ICudaEngine", names["ICudaEngine"], {**engine, **sizes})
    context = {**members(_context(trt)), "profiler": None}
    trt.IExecutionContext = binding("IExecutionContext", names["IExecutionContext"], context)
    trt.IProfiler = type("IProfiler", (), {"__init__": lambda self: None})
    inspector = {**members(_inspector(trt)), "execution_context": None}
    trt.EngineInspector = binding("EngineInspector", names["EngineInspector"], inspector)


def _runtime(trt: Any) -> type:
    class Runtime:
        """Loads plans."""

        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, trt.ILogger)
            self._logger = logger
            self.DLA_core = -1

        @property
        def num_DLA_cores(self) -> int:  # noqa: N802
            return int(os.environ.get("FAKE_TRT_DLA_CORES", "0"))

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            head, _, content = serialized_engine.partition(b"\n")
            told = json.loads(head)
            if told["version"] != trt.__version__ or told["dla"] != self.DLA_core:
                self._logger.log(trt.Severity.ERROR, "The engine plan file is not compatible with this version")
                return None
            return trt.ICudaEngine(told, content)

    return Runtime


def _engine(trt: Any) -> type:
    class Engine:
        """A loaded plan."""

        def __init__(self, told: dict[str, Any], content: bytes) -> None:
            graph = onnx.load_from_string(content).graph
            self._told, self._content = told, content
            self._ins = {name: (shape, kind) for name, shape, kind in networks.tensors(graph.input)}
            self._outs = {name: (shape, kind) for name, shape, kind in networks.tensors(graph.output)}

        @property
        def num_io_tensors(self) -> int:
            return len(self._ins) + len(self._outs)

        def get_tensor_name(self, index: int) -> str:
            return [*self._ins, *self._outs][index]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in self._ins else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self._ins | self._outs)[name][0]

        def get_tensor_dtype(self, name: str) -> Any:
            return networks.data_type(trt, (self._ins | self._outs)[name][1])

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation.DEVICE

        def create_execution_context(self) -> Any:
            return trt.IExecutionContext(self)

        def create_engine_inspector(self) -> Any:
            return trt.EngineInspector(self)

    return Engine


def _context(trt: Any) -> type:
    class Context:
        """Runs an engine: reads the inputs and writes the outputs where it was told, when the stream gets there."""

        def __init__(self, engine: Any) -> None:
            self._engine = engine
            self._shapes = {name: shape for name, (shape, _) in engine._ins.items()}
            self._addresses: dict[str, int] = {}
            self._runner = networks.session(engine._content)
            self._library = ctypes.CDLL(os.environ["EDGEKD_CUDART"])
            self._callback = CALLBACK(self._compute)
            self.profiler = None

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            allowed = self._engine._told["shapes"].get(name, self._shapes[name])
            if list(shape) != list(allowed):
                return False
            self._shapes[name] = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self._shapes:
                return self._shapes[name]
            zeros = {key: np.zeros(self._shapes[key], NUMPY[kind]) for key, (_, kind) in self._engine._ins.items()}
            return tuple(networks.compute(self._runner, zeros)[name].shape)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert set(self._addresses) == {*self._engine._ins, *self._engine._outs}
            return self._library.fake_enqueue(ctypes.c_void_p(stream_handle), self._callback) == 0

        def _compute(self) -> int:
            wanted = {name: NUMPY[kind] for name, (_, kind) in self._engine._ins.items()}
            feeds = {name: self._tensor(name).astype(kind) for name, kind in wanted.items()}
            for name, values in networks.compute(self._runner, feeds).items():
                self._tensor(name)[...] = values
            if self.profiler is not None:
                for place, layer in enumerate(self._engine._told["layers"], 1):
                    self.profiler.report_layer_time(layer["name"], PROFILED_MS * place)
            return 0

        def _tensor(self, name: str) -> np.ndarray:
            shape = self.get_tensor_shape(name)
            kind = np.dtype(NUMPY[self._engine.get_tensor_dtype(name).name])
            size = int(np.prod(shape)) * kind.itemsize
            memory = (ctypes.c_ubyte * size).from_address(self._addresses[name])
            return np.frombuffer(memory, kind).reshape(shape)

    return Context


def _inspector(trt: Any) -> type:
    class Inspector:
        """Tells the layers of an engine in the words of its release."""

        def __init__(self, engine: Any) -> None:
            self._engine = engine
            self.execution_context = None

        def get_engine_information(self, format: Any) -> str:
            assert format is trt.LayerInformationFormat.JSON
            told = self._engine._told
            layers: list[Any] = [self._layer(SimpleNamespace(**layer)) for layer in told["layers"]]
            if told["dla"] >= 0:
                inside = "...".join(layer["Name"] for layer in layers)
                layers = [{"Name": "to dla", "LayerType": "Reformat"}]
                layers += [{"Name": "{ForeignNode[" + inside + "]}", "LayerType": "DLA"}]
                layers += [{"Name": name, "LayerType": "PointWiseV2"} for name in told["gpu"]]
            return json.dumps({"Layers": layers if told["detailed"] else [layer["Name"] for layer in layers]})

        def _layer(self, layer: Any) -> dict[str, Any]:
            open_axes = any(-1 in shape for shape, _ in self._engine._ins.values())
            text = layer.precision if trt.release >= (10,) else OLD[layer.precision]
            if open_axes and self.execution_context is None:
                text = "N/A due to dynamic shapes"
            return {
                "Name": layer.name,
                "LayerType": layer.kind if trt.release < (10,) else "gemm",
                "Inputs": [{"Name": "x", "Format/Datatype": text}],
                "Outputs": [{"Name": "y", "Format/Datatype": text}],
                "TacticName": "",
            }

    return Inspector

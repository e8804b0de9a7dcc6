"""A loaded TensorRT engine with all that running it needs: a context, a stream, memory on the GPU and on the host."""

from __future__ import annotations

import contextlib
import ctypes
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edgekd.agent import cudart, inspection, nvinfer
from edgekd.agent.cudart import DEVICE_TO_HOST, HOST_TO_DEVICE, Owned
from edgekd.agent.errors import AgentError
from edgekd.agent.nvinfer import LOG, trt
from edgekd.agent.repeating import repeat

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Step = Callable[[], None]


@dataclass(frozen=True)
class Port:
    """An input or output of an engine: its name, the one shape it has, its numpy type name."""

    name: str
    shape: Tuple[int, ...]
    dtype: str

    def array(self, address: int) -> Array:
        """Return the tensor that lies at an address of the host's memory."""
        memory = memoryview((ctypes.c_ubyte * max(1, self.nbytes)).from_address(address))
        return np.ndarray(self.shape, self.dtype, memory)

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Execution:
    """A loaded engine.

    Attributes:
        inputs: Its inputs.
        layers: What it consists of, as `inspection` tells.
    """

    def __init__(self, plan: bytes, shapes: Mapping[str, Tuple[int, ...]], dla: int) -> None:
        """Load an engine for one shape of each input, onto a DLA core if `dla` is not -1.

        Raises:
            AgentError: TensorRT refuses it, or the GPU's memory does not hold it.
        """
        self._cuda = cudart.load()
        self._owned = contextlib.ExitStack()
        self._end = weakref.finalize(self, self._owned.close)  # at `close`, or when nobody holds this any more
        nvinfer.load_plugins()
        LOG.clear()
        self._runtime = trt.Runtime(LOG)
        if dla >= 0:
            self._runtime.DLA_core = dla
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise AgentError("TensorRT %s cannot load the engine: %s" % (nvinfer.version(), LOG.said()))
        self.inputs, outputs = _ports(self._engine, self._context, shapes)
        self.layers = self._inspect()
        self._stream = self._owned.enter_context(self._cuda.stream())
        self._device: Dict[str, int] = {}
        for port in (*self.inputs, *outputs):
            buffer = self._owned.enter_context(self._cuda.device_buffer(port.nbytes))
            self._device[port.name] = buffer.handle
            if not self._context.set_tensor_address(port.name, buffer.handle):
                raise AgentError("TensorRT refuses memory for %r: %s" % (port.name, LOG.said()))
        self._results = {port: self._pinned(port, self._owned) for port in outputs}

    def close(self) -> None:
        """Free everything; it cannot be used afterwards."""
        self._end()
        self._context = self._engine = self._runtime = None

    def device_memory_bytes(self) -> int:
        """Return the GPU memory that the engine's context needs for intermediate results; weights are not counted."""
        newer = hasattr(trt.ICudaEngine, "device_memory_size_v2")
        return int(self._engine.device_memory_size_v2 if newer else self._engine.device_memory_size)

    def lane(self, arrays: Mapping[str, Array], graph: bool) -> Tuple[Step, Step]:
        """Copy inputs into page-locked memory of their own and return two calls, which use them again and again.

        Returns:
            A call that puts into the stream: copy the inputs to the GPU, run, copy the outputs back. With `graph` it
            launches all that as one recorded CUDA graph. And a call that waits for the stream.
        """
        steps = [*self._uploads(arrays, self._owned), self._execute, *self._downloads()]
        wait = self._cuda.synchronize(self._stream)
        start = _in_turn(steps)
        if not graph:
            return start, wait
        start()  # TensorRT does on the first call what cannot be recorded
        wait()
        recorded = self._owned.enter_context(self._cuda.capture(self._stream, start))
        launch = self._cuda.launch(recorded, self._stream)

        def launched() -> None:
            if not self._end.alive:  # then all that the graph uses is freed; this also keeps it until then
                raise AgentError("this session is closed")
            launch()

        return launched, wait

    def run(self, arrays: Mapping[str, Array]) -> Dict[str, Array]:
        """Run once and return the outputs by name, as arrays of the caller's own."""
        with contextlib.ExitStack() as own:
            for step in (*self._uploads(arrays, own), self._execute, *self._downloads()):
                step()
            self._cuda.synchronize(self._stream)()
        return {port.name: port.array(memory.handle).copy() for port, memory in self._results.items()}

    def clock(self, arrays: Mapping[str, Array], graph: bool, calls: int) -> Tuple[List[int], List[int]]:
        """Time the same calls twice: what the GPU does by events (nanoseconds), all of it by the host's clock.

        With `graph` the events enclose the copies too, which are part of it.

        Raises:
            AgentError: The host's times are the shorter ones: it does not wait for the GPU, so they mean nothing.
        """
        cuda, stream = self._cuda, self._stream
        gpu_ns, host_ns = [], []
        wait = cuda.synchronize(stream)
        with cuda.event() as begin, cuda.event() as end, contextlib.ExitStack() as own:
            before = [lambda: cuda.record(begin, stream)]
            after = [lambda: cuda.record(end, stream)]
            if graph:
                steps = [*before, self.lane(arrays, graph)[0], *after]
            else:
                steps = [*self._uploads(arrays, own), *before, self._execute, *after, *self._downloads()]
            start = _in_turn(steps)
            for _ in range(calls):
                started = time.perf_counter_ns()
                start()
                wait()
                host_ns.append(time.perf_counter_ns() - started)
                gpu_ns.append(cuda.elapsed_ns(begin, end))
        gpu, host = float(np.median(gpu_ns)), float(np.median(host_ns))
        if host < gpu:
            raise AgentError(
                "the host counts %.0f us for calls that keep the GPU busy for %.0f us: it does not wait for them"
                % (host / 1000, gpu / 1000)
            )
        return gpu_ns, host_ns

    def profile(self, arrays: Mapping[str, Array]) -> Dict[str, List[int]]:
        """Return the time of each layer on the GPU, in nanoseconds, in several runs.

        TensorRT's profiler stays attached and slows every later run: nothing may be timed afterwards.
        """
        times: Dict[str, List[int]] = {}
        wait = self._cuda.synchronize(self._stream)
        with contextlib.ExitStack() as own:
            profiler = _profiler(times)
            self._context.profiler = profiler
            for step in (*self._uploads(arrays, own), wait):
                step()
            repeat(_in_turn([self._execute, wait]))
        return {name: samples[1:] for name, samples in times.items()}  # the first run attaches the profiler

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise AgentError("TensorRT failed to run the engine: %s" % LOG.said())

    def _uploads(self, arrays: Mapping[str, Array], own: contextlib.ExitStack) -> List[Step]:
        """Return steps that copy inputs to the GPU, from page-locked memory that `own` frees."""
        steps = []
        for port in self.inputs:
            memory = self._pinned(port, own)
            port.array(memory.handle)[...] = arrays[port.name]
            target = self._device[port.name]
            steps.append(self._cuda.copy(target, memory.handle, port.nbytes, HOST_TO_DEVICE, self._stream))
        return steps

    def _downloads(self) -> List[Step]:
        return [
            self._cuda.copy(memory.handle, self._device[port.name], port.nbytes, DEVICE_TO_HOST, self._stream)
            for port, memory in self._results.items()
        ]

    def _pinned(self, port: Port, own: contextlib.ExitStack) -> Owned:
        return own.enter_context(self._cuda.pinned_buffer(port.nbytes))

    def _inspect(self) -> List[Dict[str, Any]]:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # or formats are "N/A due to dynamic shapes"
        return inspection.read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _in_turn(steps: List[Step]) -> Step:
    def run() -> None:
        for step in steps:
            step()

    return run


def _profiler(times: Dict[str, List[int]]) -> Any:
    """Return what TensorRT tells the milliseconds of each layer after a run."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(round(1e6 * ms))

    return Profiler()


def _ports(
    engine: Any, context: Any, shapes: Mapping[str, Tuple[int, ...]]
) -> Tuple[Tuple[Port, ...], Tuple[Port, ...]]:
    """Set the shapes of the inputs and return (inputs, outputs)."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    for name in inputs:
        wanted: Optional[Tuple[int, ...]] = shapes.get(name)
        if wanted is not None and not context.set_input_shape(name, wanted):
            raise AgentError("the engine does not take the shape %s for %r: %s" % (wanted, name, LOG.said()))
    found = {}
    for name in names:
        shape = tuple(int(axis) for axis in context.get_tensor_shape(name))
        if -1 in shape or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise AgentError("the shape of %r depends on the values of the inputs; such models cannot be timed" % name)
        found[name] = Port(name, shape, nvinfer.dtype(engine.get_tensor_dtype(name)))
    outputs = tuple(port for name, port in found.items() if name not in inputs)
    return tuple(found[name] for name in inputs), outputs

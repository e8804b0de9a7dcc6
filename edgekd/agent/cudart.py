"""CUDA's runtime library by ctypes: memory, streams, events and graphs, each call checked, each handle given back.

The signatures are those of CUDA 11.4 to 13. Where a library is not found by its name, EDGEKD_CUDART gives its path.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from edgekd.agent.errors import AgentError

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2

_SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_TOOLKITS = ("cuda*/lib64/libcudart.so*", "cuda*/targets/*/lib/libcudart.so*")
_WHEELS = "nvidia/*/lib/libcudart.so*"

_OUT_OF_MEMORY, _INSUFFICIENT_DRIVER, _NO_DEVICE = 2, 35, 100
_MAJOR, _MINOR = 75, 76  # attributes of a device: its compute capability
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_THREAD_LOCAL = 1  # what other threads do does not disturb a capture
_NAME_BYTES = 256  # the first field of cudaDeviceProp; what follows it differs from release to release
_PROPERTIES_BYTES = 16384  # more than the whole structure has in any release

_POINTER, _OUT, _SIZE, _INT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_int
_PROTOTYPES: Dict[str, Tuple[Any, ...]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(_INT),),
    "cudaGetDevice": (ctypes.POINTER(_INT),),
    "cudaDeviceGetAttribute": (ctypes.POINTER(_INT), _INT, _INT),
    "cudaGetDeviceProperties": (ctypes.c_char_p, _INT),
    "cudaRuntimeGetVersion": (ctypes.POINTER(_INT),),
    "cudaDriverGetVersion": (ctypes.POINTER(_INT),),
    "cudaMemGetInfo": (ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)),
    "cudaMalloc": (_OUT, _SIZE),
    "cudaFree": (_POINTER,),
    "cudaHostAlloc": (_OUT, _SIZE, ctypes.c_uint),
    "cudaFreeHost": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamCreateWithFlags": (_OUT, ctypes.c_uint),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamDestroy": (_POINTER,),
    "cudaEventCreate": (_OUT,),
    "cudaEventRecord": (_POINTER, _POINTER),
    "cudaEventSynchronize": (_POINTER,),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER),
    "cudaEventDestroy": (_POINTER,),
    "cudaStreamBeginCapture": (_POINTER, _INT),
    "cudaStreamEndCapture": (_POINTER, _OUT),
    "cudaGraphLaunch": (_POINTER, _POINTER),
    "cudaGraphDestroy": (_POINTER,),
    "cudaGraphExecDestroy": (_POINTER,),
    "cudaGetLastError": (),
}

# Every release has them and no stand-in needs them.
_ONLY_REAL = ("cudaGraphicsUnmapResources", "cudaDeviceGetPCIBusId", "cudaLaunchKernel")


class Owned:
    """A handle of CUDA's (an address, a stream, ...) that is given back by `close`, once."""

    def __init__(self, handle: int, release: Callable[[int], None]) -> None:
        self.handle = handle
        self._release: Optional[Callable[[int], None]] = release

    def close(self) -> None:
        """Give the handle back; a second time does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release(self.handle)

    def __enter__(self) -> Owned:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cuda:
    """A loaded runtime library and its current device."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        for name, arguments in _PROTOTYPES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._library.cudaGetErrorString.argtypes = (ctypes.c_int,)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._call("cudaGetDeviceCount", ctypes.byref(ctypes.c_int()))

    def simulated(self) -> Optional[str]:
        """Return why this is not NVIDIA's library, or None if it is."""
        missing = [name for name in _ONLY_REAL if not hasattr(self._library, name)]
        return "%s is not NVIDIA's CUDA runtime: it lacks %s" % (self.path, missing[0]) if missing else None

    def runtime_version(self) -> str:
        """Return the version of this library, for example "12.6"."""
        return self._version("cudaRuntimeGetVersion")

    def driver_version(self) -> str:
        """Return the newest CUDA version that the driver can run."""
        return self._version("cudaDriverGetVersion")

    def device_name(self) -> str:
        """Return the name of the current GPU."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, self._device())
        return properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")

    def compute_capability(self) -> str:
        """Return the compute capability of the current GPU, for example "8.7"."""
        value, device, numbers = ctypes.c_int(), self._device(), []
        for attribute in (_MAJOR, _MINOR):
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        return "%d.%d" % tuple(numbers)

    def memory_bytes(self) -> Tuple[int, int]:
        """Return (free, total) memory of the GPU; a Jetson's is the memory of the whole board."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def device_buffer(self, size: int) -> Owned:
        """Allocate bytes on the GPU."""
        return self._owned("cudaMalloc", "cudaFree", max(1, size))

    def pinned_buffer(self, size: int) -> Owned:
        """Allocate page-locked bytes on the host, from which copies are asynchronous."""
        return self._owned("cudaHostAlloc", "cudaFreeHost", max(1, size), 0)

    def stream(self) -> Owned:
        """Create a stream that does not wait for the default one."""
        return self._owned("cudaStreamCreateWithFlags", "cudaStreamDestroy", _NON_BLOCKING)

    def event(self) -> Owned:
        """Create an event with a time stamp."""
        return self._owned("cudaEventCreate", "cudaEventDestroy")

    def copy(self, target: int, source: int, size: int, kind: int, stream: Owned) -> Callable[[], None]:
        """Return a call that puts a copy into a stream."""
        return self.prepared("cudaMemcpyAsync", target, source, size, kind, stream.handle)

    def synchronize(self, stream: Owned) -> Callable[[], None]:
        """Return a call that waits until a stream has done everything."""
        return self.prepared("cudaStreamSynchronize", stream.handle)

    def record(self, event: Owned, stream: Owned) -> None:
        """Put an event into a stream."""
        self._call("cudaEventRecord", event.handle, stream.handle)

    def elapsed_ns(self, start: Owned, end: Owned) -> int:
        """Wait for the second of two recorded events and return the time between them; CUDA resolves about 500 ns."""
        self._call("cudaEventSynchronize", end.handle)
        milliseconds = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(milliseconds), start.handle, end.handle)
        return round(milliseconds.value * 1e6)

    def capture(self, stream: Owned, work: Callable[[], None]) -> Owned:
        """Record what `work` puts into a stream, without running it, as a graph that can be launched."""
        graph, instance = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamBeginCapture", stream.handle, _THREAD_LOCAL)
        try:
            try:
                work()
            finally:  # a stream that still records is of no use any more
                ended = self._library.cudaStreamEndCapture(stream.handle, ctypes.byref(graph))
            self._check("cudaStreamEndCapture", ended)
            if hasattr(self._library, "cudaGraphInstantiateWithFlags"):
                self._call("cudaGraphInstantiateWithFlags", ctypes.byref(instance), graph, ctypes.c_ulonglong(0))
            else:  # before CUDA 11.4
                self._call("cudaGraphInstantiate", ctypes.byref(instance), graph, None, None, ctypes.c_size_t(0))
        finally:
            if graph.value:
                self._call("cudaGraphDestroy", graph)
        return Owned(instance.value or 0, functools.partial(self._call, "cudaGraphExecDestroy"))

    def launch(self, graph: Owned, stream: Owned) -> Callable[[], None]:
        """Return a call that puts a captured graph into a stream."""
        return self.prepared("cudaGraphLaunch", graph.handle, stream.handle)

    def prepared(self, name: str, *arguments: Any) -> Callable[[], None]:
        """Return a checked call whose arguments are converted already, for use where every microsecond counts."""
        function = getattr(self._library, name)
        converted = [kind(value) for kind, value in zip(_PROTOTYPES[name], arguments)]
        call = functools.partial(function, *converted)

        def run() -> None:
            code = call()
            if code:
                self._check(name, code)

        return run

    def _owned(self, create: str, release: str, *arguments: int) -> Owned:
        handle = ctypes.c_void_p()
        self._call(create, ctypes.byref(handle), *arguments)
        return Owned(handle.value or 0, functools.partial(self._call, release))

    def _device(self) -> int:
        number = ctypes.c_int()
        self._call("cudaGetDevice", ctypes.byref(number))
        return number.value

    def _version(self, name: str) -> str:
        number = ctypes.c_int()
        self._call(name, ctypes.byref(number))
        return "%d.%d" % (number.value // 1000, number.value % 1000 // 10)

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, code: int) -> None:
        if code == 0:
            return
        self._library.cudaGetLastError()  # or the next to ask, perhaps TensorRT, would take the error for its own
        text = self._library.cudaGetErrorString(code).decode("utf-8", "replace")
        raise AgentError("%s failed: %s (CUDA error %d)%s" % (name, text, code, self._advice(code)))

    def _advice(self, code: int) -> str:
        if code == _OUT_OF_MEMORY:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            if self._library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0:
                return "; %.0f of %.0f MB are free" % (free.value / 1e6, total.value / 1e6)
        if code == _NO_DEVICE:
            return "; in a container, start it with --runtime nvidia (Jetson) or --gpus all"
        if code == _INSUFFICIENT_DRIVER:
            return "; the NVIDIA driver is older than this library, or there is none"
        return ""


@functools.lru_cache(maxsize=None)
def load() -> Cuda:
    """Return CUDA's runtime library, the first that loads and finds a GPU.

    Raises:
        AgentError: There is none; the message has what was tried.
    """
    failures = []
    for path in _candidates():
        try:
            return Cuda(path)
        except (OSError, AttributeError, AgentError) as error:
            failures.append("%s: %s" % (path, error))
    raise AgentError(
        "CUDA cannot be used here; EDGEKD_CUDART may name the path of libcudart.so. Tried:\n    "
        + "\n    ".join(failures)
    )


def _candidates() -> List[str]:
    """Return paths and names to try; one that the process has loaded already, which is TensorRT's own, comes first."""
    explicit = os.environ.get("EDGEKD_CUDART")
    if explicit:
        return [explicit]
    loaded = _loaded()
    found = {str(path.resolve()) for pattern in _TOOLKITS for path in Path("/usr/local").glob(pattern)}
    for folder in sys.path:
        if folder.endswith("-packages"):  # what `pip install tensorrt` brings along
            found.update(str(path.resolve()) for path in Path(folder).glob(_WHEELS))
    return [*loaded, *_SONAMES, *sorted(found.difference(loaded), reverse=True)]


def _loaded() -> List[str]:
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines() if maps.exists() else []
    return sorted({line.split(None, 5)[-1] for line in lines if "/libcudart.so" in line})

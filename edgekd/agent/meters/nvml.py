"""NVML: the power of a desktop or server GPU, from the driver's own library (no Python package is needed).

Source: NVIDIA's NVML API reference. GPUs since Volta count their energy; older ones only tell their power. On a Jetson
the library loads and says that it supports neither.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Optional, Set, Tuple

from edgekd.agent.errors import AgentError
from edgekd.agent.meters import Channel, Reading
from edgekd.agent.polling import Ticks, smallest_step

_LIBRARY = "libnvidia-ml.so.1"
_PERIOD_S = 0.1  # the sensor's own, about
_STEP_SECONDS = 0.5
_CHANNEL = "gpu"


class Nvml:
    """One GPU's board."""

    scope_kind = "board"
    total: Tuple[str, ...] = (_CHANNEL,)
    period_s = _PERIOD_S
    floor_w: Optional[float] = None  # it is told in mW, but what the sensor resolves is not
    floor_j: Optional[float] = None

    def __init__(self, library: Any) -> None:
        """Start NVML on a loaded library.

        Raises:
            AgentError: It cannot be started, there is no such GPU, or the GPU tells no power.
        """
        self._library = library
        self._check("nvmlInit_v2")
        try:
            self._device = self._find_device()
            energy = ctypes.c_ulonglong()
            reason = self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(energy))
            self._counts = reason is None
            self._start_mj = self._integer() if self._counts else 0
            self.scope = "GPU board (%s)" % self._name(self._device)
            step = smallest_step(self._integer, _STEP_SECONDS, steps=3) if self._counts else None
            self.floor_j = None if step is None else step / 1e3
        except AgentError:
            self.close()
            raise
        self.channels = (Channel(_CHANNEL, "energy" if self._counts else "power"),)
        self._ticks = Ticks(_PERIOD_S)

    def read(self) -> Reading:
        """Return the joules since the meter was opened, or the watts now.

        Raises:
            AgentError: The GPU tells it no more.
        """
        time_ns = self._ticks.wait()
        return Reading(time_ns, ((self._integer() - self._start_mj) / 1e3,))

    def close(self) -> None:
        """Stop NVML."""
        self._library.nvmlShutdown()

    def _integer(self) -> int:
        """Return millijoules since the driver was loaded, or milliwatts."""
        if self._counts:
            energy = ctypes.c_ulonglong()
            self._check("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(energy))
            return energy.value
        power = ctypes.c_uint()
        self._check("nvmlDeviceGetPowerUsage", self._device, ctypes.byref(power))
        return power.value

    def _find_device(self) -> Any:
        """Return the first GPU that CUDA may use here.

        Raises:
            AgentError: There is none, or it cannot be told which it is: CUDA counts the fastest GPU first unless it is
                asked not to, NVML never does.
        """
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        device = ctypes.c_void_p()
        if first.startswith("GPU-"):
            self._check("nvmlDeviceGetHandleByUUID", first.encode("ascii"), ctypes.byref(device))
        elif first.isdigit():
            kinds = set() if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" else self._kinds()
            if len(kinds) > 1:
                raise AgentError(
                    "%s: which of them CUDA's number %s is cannot be told; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name "
                    "the GPU in CUDA_VISIBLE_DEVICES by its UUID (nvidia-smi -L)" % (", ".join(sorted(kinds)), first)
                )
            self._check("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(first)), ctypes.byref(device))
        else:
            raise AgentError("CUDA_VISIBLE_DEVICES is %r, which names no GPU" % first)
        return device

    def _kinds(self) -> Set[str]:
        """Return the names of all GPUs in this machine."""
        count, device = ctypes.c_uint(), ctypes.c_void_p()
        self._check("nvmlDeviceGetCount_v2", ctypes.byref(count))
        kinds = set()
        for index in range(count.value):
            self._check("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
            kinds.add(self._name(device))
        return kinds

    def _name(self, device: Any) -> str:
        name = ctypes.create_string_buffer(96)
        self._check("nvmlDeviceGetName", device, name, ctypes.c_uint(len(name)))
        return name.value.decode("utf-8", "replace")

    def _check(self, function: str, *arguments: Any) -> None:
        message = self._call(function, *arguments)
        if message is not None:
            raise AgentError("NVML gives no power: %s says %s" % (function, message))

    def _call(self, function: str, *arguments: Any) -> Optional[str]:
        """Call a function; return None, or what its error is called."""
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            return "that this driver does not have it"
        if code == 0:
            return None
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        return "%r" % (self._library.nvmlErrorString(code) or b"").decode("utf-8", "replace")


def open(root: Path) -> Nvml:
    """Return the meter of the GPU; under another root only by the library in its usr/lib.

    Raises:
        AgentError: There is no NVIDIA driver here, no GPU, or the GPU tells no power.
    """
    path = _LIBRARY if root == Path("/") else str(root / "usr/lib" / _LIBRARY)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise AgentError("no NVIDIA driver here (%s)" % str(error).split(": ")[0]) from error
    return Nvml(library)

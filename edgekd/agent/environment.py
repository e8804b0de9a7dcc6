"""What the device is and in which state: read before and after a measurement, so that a change can mark it.

Everything comes from files under a root folder, which is another one in tests. What cannot be read is null, with the
reason under the same name in "reasons".
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, TypeVar

import numpy as np

from edgekd.agent.clocks import CPU as _CPU
from edgekd.agent.clocks import clocks_mhz, cpu_clocks_mhz, cpufreq, integers, temperatures_c, throttle_counts
from edgekd.agent.jetson import power_mode
from edgekd.agent.root import ROOT

__all__ = ["changes", "choose_cores", "clocks_mhz", "cpuinfo", "isa", "power_mode", "snapshot"]
__all__ += ["temperatures_c", "throttle_counts"]

T = TypeVar("T")

_HOTTER_C = 10.0
_LESS_MEMORY = 0.5

# The names that /proc/cpuinfo gives to what decides how fast int8, bfloat16 and float32 run; ARM's after x86's.
_FLAGS = ["avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16"]
_FLAGS += ["avx512_fp16", "amx_int8", "amx_bf16", "amx_tile"]
_FLAGS += ["neon", "asimd", "asimdhp", "asimddp", "i8mm", "svei8mm", "bf16", "sve", "sve2", "sme"]

_COMPARED = ("governor", "frequency_limits_mhz", "power_mode", "affinity", "cpu_quota", "online_cores", "kernel")


class _Reader:
    """Reads values under a root; a missing one is None, and its reason is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reasons: Dict[str, str] = {}

    def value(self, name: str, read: Callable[[], Optional[T]], missing: str) -> Optional[T]:
        """Return what `read` gives; None, with a reason, where that is None or a file cannot be read."""
        try:
            value = read()
        except (OSError, ValueError) as error:
            self.reasons[name] = "%s (%s)" % (missing, error)
            return None
        if value is None or value in ({}, []):
            self.reasons[name] = missing
            return None
        return value

    def text(self, path: str) -> str:
        """Return a small text file without the white space (or the NUL of a device tree) at its end."""
        return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")


def snapshot(root: Path = ROOT) -> Dict[str, Any]:
    """Return the state of the device now, as JSON values."""
    reader = _Reader(root)
    info = cpuinfo(root)
    state: Dict[str, Any] = {
        "time_unix": time.time(),
        "machine": reader.value("machine", lambda: _machine(reader), "no device tree or DMI names the machine"),
        "cpu": info["model"],
        "architecture": platform.machine(),
        "flags": info["flags"],
        "online_cores": reader.value("online_cores", lambda: reader.text(_CPU + "/online"), "no %s/online" % _CPU),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_quota": reader.value("cpu_quota", lambda: _cpu_quota(reader), "no cgroup limits the CPU time"),
        "governor": reader.value("governor", lambda: _per_core(reader, "scaling_governor"), _no_cpufreq()),
        "frequency_mhz": reader.value("frequency_mhz", lambda: cpu_clocks_mhz(root)[0], _no_cpufreq()),
        "frequency_limits_mhz": reader.value("frequency_limits_mhz", lambda: _limits(reader), _no_cpufreq()),
        "temperature_c": reader.value(
            "temperature_c",
            lambda: temperatures_c(root),
            "no readable sensor in /sys/class/thermal or /sys/class/hwmon",
        ),
        "throttle_counts": reader.value(
            "throttle_counts", lambda: throttle_counts(root), "this kernel and board count no throttling"
        ),
        "power_mode": reader.value("power_mode", lambda: power_mode(root), "no nvpmodel or platform profile here"),
        "memory_bytes": reader.value("memory_bytes", lambda: _memory(reader), "no /proc/meminfo"),
        "load_average": reader.value(
            "load_average",
            lambda: [float(word) for word in reader.text("proc/loadavg").split()[:3]],
            "no /proc/loadavg",
        ),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    state["reasons"] = reader.reasons
    return state


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    """Return in words what changed between two snapshots that can make a measurement wrong."""
    found = [
        "%s: %s -> %s" % (name, _short(before.get(name)), _short(after.get(name)))
        for name in _COMPARED
        if before.get(name) != after.get(name)
    ]
    counts = before.get("throttle_counts") or {}
    for name, count in (after.get("throttle_counts") or {}).items():
        if count > counts.get(name, count):
            found.append("throttled: %s %d -> %d" % (name, counts[name], count))
    temperatures = before.get("temperature_c") or {}
    for name, degrees in (after.get("temperature_c") or {}).items():
        if degrees - temperatures.get(name, degrees) >= _HOTTER_C:
            found.append("temperature of %s: %.0f -> %.0f degC" % (name, temperatures[name], degrees))
    had, has = (state.get("memory_bytes") or {} for state in (before, after))
    if has.get("available", 0) < _LESS_MEMORY * had.get("available", 0):
        found.append("available memory: %d -> %d MB" % (had["available"] // 10**6, has["available"] // 10**6))
    return found


def isa(root: Path = ROOT) -> Dict[str, Any]:
    """Return what decides the quantization scheme of this CPU.

    Returns:
        {"arch": "x86_64", "vnni": bool, "amx_int8": bool, "dotprod": bool, "i8mm": bool, "bf16": bool}. `vnni`: u8 x s8
        products are summed in 32 bits in one instruction; without it x86 sums pairs in 16 bits, which saturate with
        8-bit weights.
    """
    flags = cpuinfo(root)["flags"]
    return {
        "arch": platform.machine(),
        "vnni": "avx512_vnni" in flags or "avx_vnni" in flags,
        "amx_int8": "amx_int8" in flags,
        "dotprod": "asimddp" in flags,
        "i8mm": "i8mm" in flags,
        "bf16": not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags),
    }


def cpuinfo(root: Path = ROOT) -> Dict[str, Any]:
    """Return {"model": str | None, "flags": the flags of interest, "mhz": current clocks} from /proc/cpuinfo."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"model": None, "flags": [], "mhz": {}}
    fields = [line.partition(":")[::2] for line in text.splitlines() if ":" in line]
    pairs = [(key.strip(), value.strip()) for key, value in fields]
    first = dict(reversed(pairs))
    flags = set((first.get("flags") or first.get("Features") or "").split())
    part = "implementer %s, part %s" % (first.get("CPU implementer"), first.get("CPU part"))
    model = first.get("model name") or (part if "CPU part" in first else None)
    clocks = [float(value) for key, value in pairs if key == "cpu MHz"]
    return {
        "model": model,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "mhz": {"cpu%d" % index: clock for index, clock in enumerate(clocks)},
    }


def _no_cpufreq() -> str:
    return "no /%s/cpu*/cpufreq, as on most virtual machines" % _CPU


def _machine(reader: _Reader) -> Optional[str]:
    for path in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if (reader.root / path).is_file():
            return reader.text(path) or None
    return None


def _cpu_quota(reader: _Reader) -> Optional[float]:
    """Return how many cores' time the control group may use (version 2, then 1); None if there is no limit."""
    if (reader.root / "sys/fs/cgroup/cpu.max").is_file():
        quota, period = reader.text("sys/fs/cgroup/cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    folder = "sys/fs/cgroup/cpu/"
    if (reader.root / folder / "cpu.cfs_quota_us").is_file():
        limit = int(reader.text(folder + "cpu.cfs_quota_us"))
        return None if limit < 0 else limit / int(reader.text(folder + "cpu.cfs_period_us"))
    return None


def _per_core(reader: _Reader, file: str) -> Optional[str]:
    """Return the one value of all cores, or all of them where they differ."""
    values = {folder.parent.name: (folder / file).read_text().strip() for folder in cpufreq(reader.root)}
    distinct = set(values.values())
    if len(distinct) == 1:
        return distinct.pop()
    return ", ".join("%s %s" % pair for pair in values.items()) or None


def _limits(reader: _Reader) -> Dict[str, List[float]]:
    limits = {}
    for folder in cpufreq(reader.root):
        files = [folder / "scaling_min_freq", folder / "scaling_max_freq"]
        values = [value / 1e3 for file in files for _, value in integers([file])]
        if len(values) == 2:
            limits[folder.parent.name] = values
    return limits


def _memory(reader: _Reader) -> Dict[str, int]:
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", reader.text("proc/meminfo"), re.MULTILINE))
    names = {"total": "MemTotal", "available": "MemAvailable", "swap_free": "SwapFree"}
    return {name: int(kilobytes[key]) * 1024 for name, key in names.items() if key in kilobytes}


def _short(value: Any) -> str:
    return "unknown" if value is None else str(value)


def choose_cores(asked: Optional[Iterable[int]], threads: int) -> Optional[List[int]]:
    """Return the cores to pin to: those asked for, else the last ones this process may use; None where none can be
    pinned.

    The first cores of a machine serve most of its interrupts.
    """
    if sys.platform != "linux":
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return sorted(asked) if asked is not None else allowed[-threads:]

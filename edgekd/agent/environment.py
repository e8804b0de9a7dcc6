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
from typing import Any, Callable, Dict, Iterable, List, Optional, TypeVar

import numpy as np

from edgekd.agent.changes import changes
from edgekd.agent.clocks import CPU as _CPU
from edgekd.agent.clocks import (
    clocks_mhz,
    cooling,
    cpu_clocks_mhz,
    cpufreq,
    fans,
    gpu_clocks_mhz,
    integers,
    temperatures_c,
    throttle_counts,
)
from edgekd.agent.jetson import jetpack, l4t, power_mode, queried_power_mode
from edgekd.agent.root import ROOT

__all__ = ["changes", "choose_cores", "clocks_mhz", "cpuinfo", "isa", "power_mode", "snapshot"]
__all__ += ["temperatures_c", "throttle_counts"]

T = TypeVar("T")

_SOURCES = {
    "cpuinfo_cur_freq": "counted by the hardware (cpuinfo_cur_freq)",
    "scaling_cur_freq": "what the governor asked for (scaling_cur_freq); the hardware may run slower",
    "/proc/cpuinfo": "/proc/cpuinfo",
}

# The names that /proc/cpuinfo gives to what decides how fast int8, bfloat16 and float32 run; ARM's after x86's.
_FLAGS = ["avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16"]
_FLAGS += ["avx512_fp16", "amx_int8", "amx_bf16", "amx_tile"]
_FLAGS += ["neon", "asimd", "asimdhp", "asimddp", "i8mm", "svei8mm", "bf16", "sve", "sve2", "sme"]


class _Reader:
    """Reads values under a root; a missing one is None, and its reason is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reasons: Dict[str, str] = {}

    def value(self, name: str, read: Callable[[], Optional[T]], missing: str) -> Optional[T]:
        """Return what `read` gives; None, with a reason, where that is None or a file cannot be read."""
        try:
            value = read()
        except (OSError, ValueError, LookupError, ArithmeticError) as error:  # absent, or not as it should be
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
    value, info = reader.value, cpuinfo(root)
    clocks, source = cpu_clocks_mhz(root)
    release = value("l4t", lambda: l4t(root), "this is no Linux for Tegra")
    state: Dict[str, Any] = {
        "time_unix": time.time(),
        "uptime_seconds": value(
            "uptime_seconds", lambda: float(reader.text("proc/uptime").split()[0]), "no /proc/uptime"
        ),
        "boot_id": value("boot_id", lambda: reader.text("proc/sys/kernel/random/boot_id"), "the kernel names no boot"),
        "machine": value("machine", lambda: _machine(reader), "no device tree or DMI names the machine"),
        "l4t": release,
        "jetpack": value("jetpack", lambda: jetpack(release), _no_jetpack(release)),
        "cpu": info["model"],
        "architecture": platform.machine(),
        "flags": info["flags"],
        "online_cores": value("online_cores", lambda: reader.text(_CPU + "/online"), "no /%s/online" % _CPU),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_quota": value("cpu_quota", lambda: _cpu_quota(reader), "no cgroup limits the CPU time"),
        "governor": value("governor", lambda: _per_core(reader, "scaling_governor"), _no_cpufreq()),
        "frequency_mhz": value("frequency_mhz", lambda: {**clocks, **gpu_clocks_mhz(root)}, _no_cpufreq()),
        "frequency_source": _SOURCES.get(source or ""),
        "frequency_limits_mhz": value("frequency_limits_mhz", lambda: _limits(reader), _no_cpufreq()),
        "temperature_c": value("temperature_c", lambda: temperatures_c(root), "no readable sensor below /sys/class"),
        "cooling": value("cooling", lambda: cooling(root), "no cooling device slows a clock here"),
        "fan": value("fan", lambda: fans(root), "no fan that the kernel knows"),
        "throttle_counts": value("throttle_counts", lambda: throttle_counts(root), "this kernel and board count none"),
        "power_mode": value("power_mode", lambda: queried_power_mode(root), "no nvpmodel or platform profile here"),
        "memory_bytes": value("memory_bytes", lambda: _memory(reader), "no /proc/meminfo"),
        "load_average": value("load_average", lambda: _load(reader), "no /proc/loadavg"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    state["reasons"] = reader.reasons
    return state


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
    """Return {"model": str | None, "flags": the flags of interest} from /proc/cpuinfo."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"model": None, "flags": []}
    fields = [line.partition(":")[::2] for line in text.splitlines() if ":" in line]
    pairs = [(key.strip(), value.strip()) for key, value in fields]
    first = dict(reversed(pairs))
    flags = set((first.get("flags") or first.get("Features") or "").split())
    part = "implementer %s, part %s" % (first.get("CPU implementer"), first.get("CPU part"))
    model = first.get("model name") or (part if "CPU part" in first else None)
    return {
        "model": model,
        "flags": [flag for flag in _FLAGS if flag in flags],
    }


def _no_cpufreq() -> str:
    return "no /%s/cpu*/cpufreq, as on most virtual machines" % _CPU


def _no_jetpack(release: Optional[str]) -> str:
    return "this is no Linux for Tegra" if release is None else "L4T %s is in no table of this agent" % release


def _load(reader: _Reader) -> List[float]:
    return [float(word) for word in reader.text("proc/loadavg").split()[:3]]


def _machine(reader: _Reader) -> Optional[str]:
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"):
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


def choose_cores(asked: Optional[Iterable[int]], threads: int) -> Optional[List[int]]:
    """Return the cores to pin to: those asked for, else the last ones this process may use; None where none can be
    pinned.

    The first cores of a machine serve most of its interrupts.
    """
    if sys.platform != "linux":
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return sorted(asked) if asked is not None else allowed[-threads:]

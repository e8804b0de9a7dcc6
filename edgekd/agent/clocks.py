"""What a device does from moment to moment: clocks, temperatures, counters of throttling.

These are a few small files each, cheap enough to read around every window of energy. A sensor that is switched off, or
that only root may read, is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

from edgekd.agent.root import ROOT

CPU = "sys/devices/system/cpu"

# What the device of a GPU is called: Nano, Orin and Thor (gpu-gpc-0, gpu-nvd-0); Orin with JetPack 5; Xavier; TX2.
_GPUS = ("*gpu*", "*.ga10b", "*.gv11b", "*.gp10b")
# Cooling devices that are clocks; others are fans, alerts, and idle injection, which is -1 when it does nothing.
_COOLING = re.compile("cpufreq|devfreq|gpu|ga10b|gv11b|gp10b|^Processor$")
_OFF_C = -100.0  # a zone without power says -256


def clocks_mhz(root: Path = ROOT) -> Dict[str, float]:
    """Return the present clocks in MHz: "cpu0"..., and "gpu" (a Jetson Thor has "gpu-gpc-0" and "gpu-nvd-0")."""
    return {**cpu_clocks_mhz(root)[0], **gpu_clocks_mhz(root)}


def cpu_clocks_mhz(root: Path = ROOT) -> Tuple[Dict[str, float], Optional[str]]:
    """Return (MHz by core, the file that said so).

    `cpuinfo_cur_freq` is what the hardware counts, often for root only. `scaling_cur_freq` is what the governor asked
    for: a Thor showed 2601 MHz there while its cores ran at 242 to 649 MHz.
    """
    for name in ("cpuinfo_cur_freq", "scaling_cur_freq"):
        kilohertz = integers(folder / name for folder in cpufreq(root))
        if kilohertz:
            return {path.parent.parent.name: value / 1e3 for path, value in kilohertz}, name
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}, None
    clocks = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)\s*$", text, re.MULTILINE)
    return {"cpu%d" % index: float(clock) for index, clock in enumerate(clocks)}, "/proc/cpuinfo" if clocks else None


def gpu_clocks_mhz(root: Path = ROOT) -> Dict[str, float]:
    """Return the present clocks of the GPU in MHz, by the name of its domain ("gpu" where there is only one)."""
    found = {}
    for pattern in _GPUS:
        for path, value in integers((root / "sys/class/devfreq").glob(pattern + "/cur_freq")):
            name = path.parent.name
            found[name if name.startswith("gpu") else "gpu"] = value / 1e6
    return found


def temperatures_c(root: Path = ROOT) -> Dict[str, float]:
    """Return the temperatures by sensor in degC."""
    found: Dict[str, float] = {}
    zones = integers((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    sensors = integers((root / "sys/class/hwmon").glob("hwmon*/temp*_input"))
    for path, value in [*zones, *sensors]:
        kind = _word(path.parent / ("type" if path.name == "temp" else "name")) or path.parent.name
        name = kind if path.name == "temp" else "%s/%s" % (kind, path.name[: -len("_input")])
        if value / 1e3 > _OFF_C:
            found["%s (%s)" % (name, path.parent.name) if name in found else name] = value / 1e3
    return found


def throttle_counts(root: Path = ROOT) -> Dict[str, int]:
    """Return every counter of thermal or over-current throttling, by its path under /sys."""
    patterns = ("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count", "class/hwmon/hwmon*/oc*_event_cnt")
    counts = {}
    for pattern in patterns:
        for path, value in integers((root / "sys").glob(pattern)):
            counts[str(path.relative_to(root / "sys"))] = value
    return counts


def cooling(root: Path = ROOT) -> Dict[str, int]:
    """Return how hard the kernel holds back each clock because of heat: 0 is not at all."""
    states = {}
    for path, value in integers((root / "sys/class/thermal").glob("cooling_device*/cur_state")):
        kind = _word(path.parent / "type") or ""
        if _COOLING.search(kind):
            states["%s (%s)" % (kind, path.parent.name) if kind in states else kind] = value
    return states


def fans(root: Path = ROOT) -> Dict[str, int]:
    """Return speeds ("rpm", "fan1_input": turns per minute) and settings ("pwm1": 0 to 255) of fans."""
    found = {}
    for pattern in ("fan*_input", "rpm", "pwm1"):
        for path, value in integers((root / "sys/class/hwmon").glob("hwmon*/" + pattern)):
            found["%s/%s" % (_word(path.parent / "name") or path.parent.name, path.name)] = value
    return found


def cpufreq(root: Path) -> List[Path]:
    """Return the folder of each core's clock, in the order of the cores."""
    folders = [folder for folder in (root / CPU).glob("cpu*/cpufreq") if folder.parent.name[3:].isdigit()]
    return sorted(folders, key=lambda folder: int(folder.parent.name[3:]))


def integers(paths: Iterable[Path]) -> List[Tuple[Path, int]]:
    """Return (path, value) of those files that can be read and hold an integer."""
    found = []
    for path in sorted(paths):
        try:
            found.append((path, int(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue  # a sensor that is switched off, a file for root only, a core without clock scaling
    return found


def _word(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None

"""The rails of a board that its kernel shows in sysfs: chips of the INA family, by any of their drivers.

Sources: the Linux kernel's hwmon documentation (ina3221, ina238), and NVIDIA's driver of kernel 4.9 (JetPack 4), which
has an interface of its own under `iio:device*`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

# Register steps of the INA3221 (TI SBOS776C). A current is the shunt's voltage over the shunt's resistance.
_SHUNT_STEP_V = 40e-6
_BUS_STEP_V = 8e-3
_UNCONNECTED = "NC"


@dataclass(frozen=True)
class Rail:
    """One measured rail.

    Attributes:
        name: Its label.
        files: Their integers, multiplied with each other and with `scale`, are the power in watts.
        scale: See `files`.
        shunt: File with the resistance in micro-ohms, where the driver tells it.
    """

    name: str
    files: Tuple[Path, ...]
    scale: float
    shunt: Optional[Path] = None

    def read_w(self) -> float:
        """Return the power in watts; it may be negative.

        Raises:
            OSError: A file cannot be read; a rail that is switched off may say so.
            ValueError: It holds no integer.
        """
        power = self.scale
        for file in self.files:
            power *= _integer(file)
        return power

    def floor_w(self) -> Optional[float]:
        """Return the step of the power at the present voltage and current, one step of each; None if it is not known.

        Raises:
            OSError, ValueError: As `read_w`.
        """
        if self.shunt is None or len(self.files) != 2:
            return None
        volts, amperes = (_integer(file) / 1e3 for file in self.files)
        return volts * _SHUNT_STEP_V / (_integer(self.shunt) / 1e6) + abs(amperes) * _BUS_STEP_V


@dataclass(frozen=True)
class Chip:
    """One chip: its rails that are connected and switched on, and how often it has new values (None: not told)."""

    rails: Tuple[Rail, ...]
    period_s: Optional[float]


def chips(root: Path) -> List[Chip]:
    """Return the chips of a board, none of them twice, in the order of their names.

    Raises:
        OSError: A label or a switch may not be read.
    """
    drivers = root / "sys/bus/i2c/drivers"
    # The number of a hwmon folder is unique, by whichever way one comes to it.
    hwmon: Dict[str, Path] = {folder.name: folder for folder in drivers.glob("ina*/*-*/hwmon/hwmon*")}
    for folder in (root / "sys/class/hwmon").glob("hwmon*"):
        if folder.name not in hwmon and _word(folder / "name").startswith("ina"):
            hwmon[folder.name] = folder
    old = {device.parent: device for device in drivers.glob("ina*/*-*/iio:device*")}
    devices = [device for device in old.values() if not (device.parent / "hwmon").is_dir()]
    return [_hwmon_chip(hwmon[name]) for name in sorted(hwmon, key=lambda name: (len(name), name))] + [
        _iio_chip(device) for device in sorted(devices)
    ]


def _hwmon_chip(folder: Path) -> Chip:
    """Return a chip of a driver with the kernel's own interface (5.10 and later)."""
    interval = folder / "update_interval"
    period_s = _integer(interval) / 1e3 if interval.is_file() else None
    if (folder / "power1_input").is_file():  # INA238 and its like: one rail, and the chip multiplies
        labels = (_word(folder / name) for name in ("power1_label", "in1_label", "label"))
        name = next(filter(None, labels), "%s (%s)" % (_word(folder / "name") or "unnamed", folder.name))
        return Chip((Rail(name, (folder / "power1_input",), 1e-6),), period_s)
    rails = []
    for channel in (1, 2, 3):  # 4 to 7 are the shunts' voltages and their sums
        name = _word(folder / ("in%d_label" % channel))
        enable = folder / ("in%d_enable" % channel)
        if not name or name.upper() == _UNCONNECTED or (enable.is_file() and _integer(enable) == 0):
            continue
        files = folder / ("in%d_input" % channel), folder / ("curr%d_input" % channel)  # mV and mA
        shunt = folder / ("shunt%d_resistor" % channel)
        rails.append(Rail(name, files, 1e-6, shunt if shunt.is_file() else None))
    return Chip(tuple(rails), period_s)


def _iio_chip(folder: Path) -> Chip:
    """Return a chip of JetPack 4's driver, which counts its channels from 0 and multiplies by itself."""
    rails = []
    for label in sorted(folder.glob("rail_name_*")):
        channel, name = label.name[len("rail_name_") :], _word(label)
        if name and name.upper() != _UNCONNECTED:
            rails.append(Rail(name, (folder / ("in_power%s_input" % channel),), 1e-3))
    return Chip(tuple(rails), None)


def _word(path: Path) -> str:
    """Return the content of a small file; "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _integer(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

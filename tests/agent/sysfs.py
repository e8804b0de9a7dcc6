"""Synthetic device trees under a folder: the paths and units that the kernel documents, with chosen voltages.

A rail is (label, millivolts, milliamperes). As in a real /sys, the folder of a driver and the one of a class are links
to the same device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Rail = tuple[str, int, int]

ORIN_NANO: list[Rail] = [("VDD_IN", 5048, 960), ("VDD_CPU_GPU_CV", 5040, 104), ("VDD_SOC", 5040, 288)]
XAVIER_NX: list[Rail] = [("VDD_IN", 4960, 824), ("VDD_CPU_GPU_CV", 4960, 152), ("VDD_SOC", 4960, 272)]
AGX_ORIN: list[Rail] = [("VDD_GPU_SOC", 19880, 160), ("VDD_CPU_CV", 19880, 220), ("VIN_SYS_5V0", 5000, 940)]
AGX_ORIN_SECOND: list[Rail] = [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)]
THOR: list[Rail] = [("VDD_GPU", 24500, -16), ("VDD_CPU_SOC_MSS", 24500, 240), ("VIN_SYS_5V0", 5000, 1120)]
AGX_XAVIER: list[list[Rail]] = [
    [("GPU", 19000, 60), ("CPU", 19000, 20), ("SOC", 19000, 130)],
    [("CV", 19000, 0), ("VDDRQ", 19000, 10), ("SYS5V", 4900, 550)],
]


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    return path


def _device(root: Path, driver: str, address: str) -> Path:
    """Make the device of a chip, and the driver's link to it."""
    device = root / "sys/devices/platform/bus@0/c240000.i2c" / f"i2c-{address[0]}" / address
    device.mkdir(parents=True)
    link = root / "sys/bus/i2c/drivers" / driver / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(device)
    return device


def _hwmon(root: Path, device: Path, number: int, name: str) -> Path:
    folder = device / "hwmon" / f"hwmon{number}"
    write(folder / "name", name)
    link = root / "sys/class/hwmon" / folder.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    return folder


def ina3221(
    root: Path,
    rails: Sequence[Rail],
    *,
    address: str = "1-0040",
    number: int = 1,
    driver: str = "ina3221",
    shunt_uohm: int = 5000,
    interval_ms: int = 35,
) -> Path:
    """A chip of the kernel's driver, with the channels that are not rails."""
    folder = _hwmon(root, _device(root, driver, address), number, driver)
    write(folder / "update_interval", interval_ms)
    write(folder / "samples", 512)
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        write(folder / f"in{channel}_label", label)
        write(folder / f"in{channel}_enable", 1)
        write(folder / f"in{channel}_input", millivolts)
        write(folder / f"curr{channel}_input", milliamperes)
        write(folder / f"curr{channel}_max", 32760)
        write(folder / f"shunt{channel}_resistor", shunt_uohm)
        write(folder / f"in{channel + 3}_input", milliamperes * shunt_uohm // 1000)
    write(folder / "in7_label", "sum of shunt voltages")
    write(folder / "in7_input", 4321)
    write(folder / "curr4_input", 54321)
    return folder


def ina238(root: Path, watts: float, *, label: str = "VIN", number: int = 2) -> Path:
    """The chip at Thor's supply: its power is in microwatts."""
    folder = _hwmon(root, _device(root, "ina238", "2-0044"), number, "ina238")
    write(folder / "in1_label", label)
    write(folder / "in1_input", 19800)
    write(folder / "curr1_input", round(watts / 19.8 * 1000))
    write(folder / "power1_input", round(watts * 1e6))
    return folder


def iio(root: Path, rails: Sequence[tuple[str, int]], *, address: str = "6-0040") -> Path:
    """A chip of NVIDIA's driver for kernel 4.9: channels count from 0, powers are in milliwatts."""
    folder = _device(root, "ina3221x", address) / "iio:device0"
    write(folder / "name", "ina3221x")
    for channel, (label, milliwatts) in enumerate(rails):
        write(folder / f"rail_name_{channel}", label)
        write(folder / f"in_power{channel}_input", milliwatts)
        write(folder / f"in_voltage{channel}_input", 5000)
        write(folder / f"in_current{channel}_input", milliwatts // 5)
        write(folder / f"crit_current_limit_{channel}", 32760)
    return folder


def orin_nano(root: Path, driver: str = "ina3221") -> Path:
    ina3221(root, ORIN_NANO, driver=driver)
    return root


def xavier_nx(root: Path) -> Path:
    ina3221(root, XAVIER_NX, address="7-0040", number=6, driver="ina3221x")
    return root


def agx_orin(root: Path) -> Path:
    ina3221(root, AGX_ORIN, shunt_uohm=2000, number=3)
    ina3221(root, AGX_ORIN_SECOND, address="1-0041", shunt_uohm=2000, number=4)
    return root


def agx_xavier(root: Path) -> Path:
    for index, rails in enumerate(AGX_XAVIER):
        ina3221(root, rails, address=f"1-004{index}", number=index + 9)
    return root


def thor(root: Path, watts: float = 19.78) -> Path:
    ina3221(root, THOR, address="2-0040", number=1)
    ina238(root, watts)
    return root


def nano_jetpack4(root: Path) -> Path:
    iio(root, [("POM_5V_IN", 1022), ("POM_5V_GPU", 0), ("POM_5V_CPU", 204)])
    return root


def powercap(root: Path, zones: dict[str, tuple[str, int]], range_uj: int = 262_143_328_850) -> Path:
    """RAPL zones {folder: (name, counter in microjoules)}; a part is a folder in its zone, with a link beside it."""
    top = root / "sys/class/powercap"
    for folder, (name, energy_uj) in sorted(zones.items()):
        parent = top / folder.rpartition(":")[0]
        zone = parent / folder if parent.is_dir() else top / folder
        write(zone / "name", name)
        write(zone / "energy_uj", energy_uj)
        write(zone / "max_energy_range_uj", range_uj)
        if parent.is_dir():
            (top / folder).symlink_to(zone)
    return root

"""Made-up file systems of devices: the paths and formats are those of real boards, the values are invented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
HWMON = "sys/class/hwmon"

_MEMORY = "MemTotal:  8000000 kB\nMemAvailable:  6000000 kB\nSwapFree: 0 kB"
_COMMON = {
    "proc/meminfo": _MEMORY,
    "proc/loadavg": "0.50 0.40 0.30 1/200 4242",
    "proc/uptime": "1234.56 4321.00",
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
    "proc/cpuinfo": (
        "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm aes asimdhp asimddp\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    ),
}


def _cores(count: int, khz: int, limits: tuple[int, int], governor: str = "schedutil") -> dict[str, str]:
    files = {f"{CPU}/online": f"0-{count - 1}"}
    for core in range(count):
        folder = f"{CPU}/cpu{core}/cpufreq"
        files[f"{folder}/scaling_governor"] = governor
        files[f"{folder}/scaling_cur_freq"] = str(khz)
        files[f"{folder}/scaling_min_freq"], files[f"{folder}/scaling_max_freq"] = map(str, limits)
    return files


def _zones(**temperatures: str) -> dict[str, str]:
    files = {}
    for index, (name, value) in enumerate(temperatures.items()):
        files[f"{THERMAL}/thermal_zone{index}/type"] = name.replace("_", "-")
        files[f"{THERMAL}/thermal_zone{index}/temp"] = value
    return files


def _modes(*names: str) -> str:
    models = "".join(
        f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n\n" for number, name in enumerate(names)
    )
    return "# a comment\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/x\n\n" + models + "< PM_CONFIG DEFAULT=1 >"


BOARDS: Mapping[str, Mapping[str, str]] = {
    "synthetic-orin-nano": {
        **_COMMON,
        **_cores(6, 1_510_400, (729_600, 1_728_000)),
        **_zones(cpu_thermal="48500", cv0_thermal="-256000", gpu_thermal="47250", tj_thermal="49000"),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n# more",
        "etc/nvpmodel.conf": _modes("15W", "25W", "MAXN_SUPER"),
        "var/lib/nvpmodel/status": "pmode:0002\nfmode:quiet",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000",
        "sys/class/devfreq/15340000.vic/cur_freq": "435200000",
        f"{THERMAL}/cooling_device0/type": "cpufreq-cpu0",
        f"{THERMAL}/cooling_device0/cur_state": "0",
        f"{THERMAL}/cooling_device1/type": "pwm-fan",
        f"{THERMAL}/cooling_device1/cur_state": "2",
        f"{HWMON}/hwmon0/name": "pwmfan",
        f"{HWMON}/hwmon0/pwm1": "88",
        f"{HWMON}/hwmon1/name": "pwm_tach",
        f"{HWMON}/hwmon1/rpm": "1650",
        f"{HWMON}/hwmon2/name": "soctherm_oc",
        **{f"{HWMON}/hwmon2/oc{number}_event_cnt": "0" for number in (1, 2, 3)},
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
    },
    "synthetic-agx-orin": {
        **_COMMON,
        **_cores(12, 2_201_600, (729_600, 2_201_600)),
        **_zones(cpu_thermal="53062", gpu_thermal="50000"),
        "sys/firmware/devicetree/base/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        # No nv_tegra_release: a container often has the package only.
        "var/lib/dpkg/status": (
            "Package: nvidia-l4t-firmware\nStatus: install ok installed\nVersion: 1.2.3-1\n\n"
            "Package: nvidia-l4t-core\nStatus: install ok installed\nArchitecture: arm64\n"
            "Version: 35.4.1-20230801124926\nDepends: x\n\nPackage: other\nVersion: 9.9\n"
        ),
        "var/lib/nvpmodel/status": "pmode:0000",
        "sys/class/devfreq/17000000.ga10b/cur_freq": "1300500000",
        f"{HWMON}/hwmon3/name": "soctherm_oc",
        f"{HWMON}/hwmon3/oc1_event_cnt": "4",
    },
    "synthetic-thor": {
        **_COMMON,
        **_cores(14, 2_601_000, (972_000, 2_601_000), "performance"),
        # The true clocks after an over-current event, which scaling_cur_freq does not show.
        **{f"{CPU}/cpu{core}/cpufreq/cpuinfo_cur_freq": str(242_000 + 1000 * core) for core in range(14)},
        **_zones(tj_thermal="61000", gpu_thermal="unreadable", soc012_thermal="58500"),
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 2, BOARD: generic, EABI: aarch64, DATE: x",
        "etc/nvpmodel.conf": _modes("MAXN", "120W"),
        "var/lib/nvpmodel/status": "pmode:0001",
        "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000",
        "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000",
        "sys/fs/cgroup/cpu.max": "800000 100000",
    },
    "synthetic-x86": {
        **_COMMON,
        **_cores(2, 3_400_000, (800_000, 4_800_000), "powersave"),
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some x86 CPU @ 3.00GHz\nflags\t\t: avx2 avx_vnni\n",
        "sys/class/dmi/id/product_name": "Some Box",
        "sys/firmware/acpi/platform_profile": "balanced",
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "2",
        f"{THERMAL}/thermal_zone0/type": "x86_pkg_temp",
        f"{THERMAL}/thermal_zone0/temp": "43000",
        f"{THERMAL}/cooling_device0/type": "Processor",
        f"{THERMAL}/cooling_device0/cur_state": "0",
        f"{THERMAL}/cooling_device9/type": "intel_powerclamp",
        f"{THERMAL}/cooling_device9/cur_state": "-1",
        f"{HWMON}/hwmon3/name": "nvme",
        f"{HWMON}/hwmon3/temp1_input": "40850",
        "sys/fs/cgroup/cpu.max": "150000 100000",
    },
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder, each with a line end, and return the folder."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content + "\n")
    return root

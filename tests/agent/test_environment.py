from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent.environment import changes, choose_cores, cpuinfo, isa, snapshot, throttle_counts

X86 = """processor\t: 0
model name\t: Some x86 CPU @ 3.00GHz
cpu MHz\t\t: 2999.5
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Some x86 CPU @ 3.00GHz
cpu MHz\t\t: 1200.0
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8
"""

ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content + "\n")
    return root


@pytest.fixture
def board(tmp_path: Path) -> Path:
    cpu = "sys/devices/system/cpu"
    return tree(
        tmp_path,
        {
            "proc/cpuinfo": ARM,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            "proc/meminfo": "MemTotal:  8000000 kB\nMemAvailable:  6000000 kB\nSwapFree: 0 kB",
            "proc/loadavg": "0.50 0.40 0.30 1/200 4242",
            "sys/fs/cgroup/cpu.max": "150000 100000",
            f"{cpu}/online": "0-1",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "schedutil",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1510400",
            f"{cpu}/cpu0/cpufreq/scaling_min_freq": "729600",
            f"{cpu}/cpu0/cpufreq/scaling_max_freq": "1510400",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "2",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "48500",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
            "sys/class/thermal/thermal_zone1/temp": "-256000",
            "sys/class/thermal/thermal_zone2/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone2/temp": "unreadable",
            "sys/class/hwmon/hwmon3/name": "nvme",
            "sys/class/hwmon/hwmon3/temp1_input": "40850",
            "sys/class/hwmon/hwmon4/oc1_event_cnt": "0",
            "var/lib/nvpmodel/status": "pmode:0002",
        },
    )


def test_snapshot_of_a_board(board: Path) -> None:
    state = snapshot(board)
    assert state["machine"] == "NVIDIA Jetson Orin Nano"
    assert state["cpu"] == "implementer 0x41, part 0xd42"
    assert state["flags"] == ["asimd", "asimdhp", "asimddp"]
    assert state["governor"] == "cpu0 schedutil, cpu1 performance"
    assert state["frequency_mhz"] == {"cpu0": 1510.4}
    assert state["frequency_limits_mhz"] == {"cpu0": [729.6, 1510.4]}
    assert state["temperature_c"] == {"cpu-thermal": 48.5, "nvme/temp1": 40.85}
    assert state["throttle_counts"] == {
        "class/hwmon/hwmon4/oc1_event_cnt": 0,
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 2,
    }
    assert state["power_mode"] == "id 2"
    assert state["memory_bytes"] == {"total": 8_192_000_000, "available": 6_144_000_000, "swap_free": 0}
    assert state["load_average"] == [0.5, 0.4, 0.3]
    assert state["cpu_quota"] == 1.5
    assert state["reasons"] == {}
    json.dumps(state, allow_nan=False)


def test_an_empty_tree_gives_reasons_and_no_numbers(tmp_path: Path) -> None:
    state = snapshot(tmp_path)
    for name in (
        "governor",
        "frequency_mhz",
        "temperature_c",
        "throttle_counts",
        "power_mode",
        "memory_bytes",
        "cpu_quota",
    ):
        assert state[name] is None
        assert state["reasons"][name]
    assert state["cpu"] is None
    assert state["flags"] == []


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2.0),
    ],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert snapshot(tree(tmp_path, files))["cpu_quota"] == quota


def test_x86(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/cpuinfo": X86})
    assert cpuinfo(tmp_path) == {
        "model": "Some x86 CPU @ 3.00GHz",
        "flags": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
        "mhz": {"cpu0": 2999.5, "cpu1": 1200.0},
    }
    assert snapshot(tmp_path)["frequency_mhz"] == {"cpu0": 2999.5, "cpu1": 1200.0}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (X86, {"vnni": True, "amx_int8": True, "dotprod": False, "i8mm": False, "bf16": False}),
        (ARM, {"vnni": False, "amx_int8": False, "dotprod": True, "i8mm": False, "bf16": False}),
        (
            "flags : avx2 avx_vnni avx512_bf16",
            {"vnni": True, "amx_int8": False, "dotprod": False, "i8mm": False, "bf16": True},
        ),
        ("flags : avx2", {"vnni": False, "amx_int8": False, "dotprod": False, "i8mm": False, "bf16": False}),
    ],
)
def test_isa(tmp_path: Path, content: str, expected: dict[str, bool]) -> None:
    assert isa(tree(tmp_path, {"proc/cpuinfo": content})) == {"arch": platform.machine(), **expected}


def test_no_change_is_no_change(board: Path) -> None:
    assert changes(snapshot(board), snapshot(board)) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0000"}, ["power_mode: id 2 -> id 0"]),
        (
            {"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil"},
            ["governor: cpu0 schedutil, cpu1 performance -> schedutil"],
        ),
        ({"sys/class/hwmon/hwmon4/oc1_event_cnt": "3"}, ["throttled: class/hwmon/hwmon4/oc1_event_cnt 0 -> 3"]),
        ({"sys/class/thermal/thermal_zone0/temp": "58500"}, ["temperature of cpu-thermal: 48 -> 58 degC"]),
        ({"sys/class/thermal/thermal_zone0/temp": "58400"}, []),
        ({"proc/meminfo": "MemAvailable: 2900000 kB"}, ["available memory: 6144 -> 2969 MB"]),
        ({"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600"}, []),  # clocks move all the time
    ],
)
def test_what_changed_is_told(board: Path, files: dict[str, str], expected: list[str]) -> None:
    before = snapshot(board)
    assert changes(before, snapshot(tree(board, files))) == expected


def test_throttle_counts_of_nothing(tmp_path: Path) -> None:
    assert throttle_counts(tmp_path) == {}


def test_the_last_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: Any = {3, 5, 9}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert choose_cores(None, 1) == [9]
    assert choose_cores(None, 2) == [5, 9]
    assert choose_cores((5, 3), 1) == [3, 5]

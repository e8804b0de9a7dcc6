from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent import jetson
from edgekd.agent.environment import (
    changes,
    choose_cores,
    clocks_mhz,
    cpuinfo,
    isa,
    power_mode,
    snapshot,
    temperatures_c,
    throttle_counts,
)

from .boards import BOARDS, CPU, HWMON, THERMAL, tree

X86 = """processor\t: 0
model name\t: Some x86 CPU @ 3.00GHz
cpu MHz\t\t: 2999.5
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Some x86 CPU @ 3.00GHz
cpu MHz\t\t: 1200.0
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8
"""
ARM = BOARDS["synthetic-orin-nano"]["proc/cpuinfo"]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tree(tmp_path, BOARDS["synthetic-orin-nano"])


def test_snapshot_of_a_board(board: Path) -> None:
    state = snapshot(board)
    assert state["machine"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (state["l4t"], state["jetpack"]) == ("36.4.3", "6.2")
    assert state["power_mode"] == "MAXN_SUPER (id 2)"
    assert state["cpu"] == "implementer 0x41, part 0xd42"
    assert state["flags"] == ["asimd", "asimdhp", "asimddp"]
    assert state["governor"] == "schedutil"
    assert state["frequency_mhz"] == {**{f"cpu{core}": 1510.4 for core in range(6)}, "gpu": 1020.0}
    assert state["frequency_source"] == ("what the governor asked for (scaling_cur_freq); the hardware may run slower")
    assert state["frequency_limits_mhz"]["cpu5"] == [729.6, 1728.0]
    assert state["temperature_c"] == {"cpu-thermal": 48.5, "gpu-thermal": 47.25, "tj-thermal": 49.0}  # cv0 is off
    assert state["cooling"] == {"cpufreq-cpu0": 0}
    assert state["fan"] == {"pwmfan/pwm1": 88, "pwm_tach/rpm": 1650}
    assert state["throttle_counts"] == {f"class/hwmon/hwmon2/oc{number}_event_cnt": 0 for number in (1, 2, 3)}
    assert state["memory_bytes"] == {"total": 8_192_000_000, "available": 6_144_000_000, "swap_free": 0}
    assert state["load_average"] == [0.5, 0.4, 0.3]
    assert state["uptime_seconds"] == 1234.56
    assert state["reasons"] == {"cpu_quota": "no cgroup limits the CPU time"}
    json.dumps(state, allow_nan=False)


def test_snapshot_of_the_other_boards(tmp_path: Path) -> None:
    agx = snapshot(tree(tmp_path / "agx", BOARDS["synthetic-agx-orin"]))
    assert agx["machine"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (agx["l4t"], agx["jetpack"]) == ("35.4.1", "5.1.2")
    assert agx["power_mode"] == "id 0"  # nothing says what mode 0 is called here
    assert agx["throttle_counts"] == {"class/hwmon/hwmon3/oc1_event_cnt": 4}
    assert agx["frequency_mhz"]["gpu"] == 1300.5
    thor = snapshot(tree(tmp_path / "thor", BOARDS["synthetic-thor"]))
    assert (thor["l4t"], thor["jetpack"]) == ("38.4.0", "7.1")
    assert thor["power_mode"] == "120W (id 1)"
    assert thor["frequency_mhz"]["cpu13"] == 255.0  # and not the 2601 MHz that were asked for
    assert thor["frequency_source"] == "counted by the hardware (cpuinfo_cur_freq)"
    assert (thor["frequency_mhz"]["gpu-gpc-0"], thor["frequency_mhz"]["gpu-nvd-0"]) == (1575.0, 1692.0)
    assert thor["temperature_c"] == {"tj-thermal": 61.0, "soc012-thermal": 58.5}
    assert thor["cpu_quota"] == 8.0
    x86 = snapshot(tree(tmp_path / "x86", BOARDS["synthetic-x86"]))
    assert (x86["machine"], x86["l4t"], x86["power_mode"]) == ("Some Box", None, "balanced")
    assert x86["temperature_c"] == {"x86_pkg_temp": 43.0, "nvme/temp1": 40.85}
    assert x86["cooling"] == {"Processor": 0}
    assert x86["reasons"]["jetpack"] == "this is no Linux for Tegra"


def test_cheap_readings_agree_with_the_snapshot(board: Path) -> None:
    state = snapshot(board)
    assert clocks_mhz(board) == state["frequency_mhz"]
    assert temperatures_c(board) == state["temperature_c"]
    assert throttle_counts(board) == state["throttle_counts"]
    assert power_mode(board) == state["power_mode"]


def test_an_unknown_release_has_no_jetpack(board: Path) -> None:
    tree(board, {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.99, GCID: 1"})
    state = snapshot(board)
    assert (state["l4t"], state["jetpack"]) == ("36.4.99", None)
    assert state["reasons"]["jetpack"] == "L4T 36.4.99 is in no table of this agent"


def test_a_mode_without_a_name_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text('#!/bin/sh\n[ "$*" = -q ] && printf "NV Power Mode: MAXN\\n0\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(jetson, "power_mode", lambda root: "id 0")
    assert jetson.queried_power_mode(Path("/")) == "MAXN (id 0)"
    assert jetson.queried_power_mode(tmp_path) == "id 0"  # the real machine knows nothing of another root
    program.write_text("#!/bin/sh\nexit 3\n")
    assert jetson.queried_power_mode(Path("/")) == "id 0"
    monkeypatch.setattr(jetson, "power_mode", lambda root: "MAXN (id 0)")
    program.write_text("#!/bin/sh\necho no >&2; touch " + str(tmp_path / "asked"))
    assert jetson.queried_power_mode(Path("/")) == "MAXN (id 0)"
    assert not (tmp_path / "asked").exists()


def test_an_empty_tree_gives_reasons_and_no_numbers(tmp_path: Path) -> None:
    state = snapshot(tmp_path)
    missing = {name for name, value in state.items() if value is None} - {"cpu", "frequency_source"}
    assert missing == set(state["reasons"])
    assert missing >= {"governor", "frequency_mhz", "temperature_c", "throttle_counts", "power_mode", "memory_bytes"}
    assert missing >= {"cpu_quota", "l4t", "jetpack", "machine", "cooling", "fan", "uptime_seconds", "boot_id"}
    assert state["flags"] == []


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("garbage", ["", "\0\0", "-1 -1", "max", "100 0", "\N{SNOWMAN}", "1e400", "< POWER_MODEL ID=9"])
def test_odd_files_never_raise(tmp_path: Path, name: str, garbage: str) -> None:
    state = snapshot(tree(tmp_path, dict.fromkeys(BOARDS[name], garbage)))
    json.dumps(state)
    assert state["l4t"] is None
    assert changes(state, state) == []


def test_folders_in_the_place_of_files_never_raise(tmp_path: Path) -> None:
    for path in BOARDS["synthetic-orin-nano"]:
        (tmp_path / path).mkdir(parents=True)
    assert snapshot(tmp_path)["frequency_mhz"] is None


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


@pytest.mark.parametrize("name", BOARDS)
def test_no_change_is_no_change(tmp_path: Path, name: str) -> None:
    tree(tmp_path, BOARDS[name])
    assert changes(snapshot(tmp_path), snapshot(tmp_path)) == []


ALL_SLOW = {f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": "729600" for core in range(6)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0000"}, ["power_mode: MAXN_SUPER (id 2) -> 15W (id 0)"]),
        (
            {f"{CPU}/cpu1/cpufreq/scaling_governor": "performance"},
            [
                "governor: schedutil -> cpu0 schedutil, cpu1 performance, cpu2 schedutil, cpu3 schedutil, "
                "cpu4 schedutil, cpu5 schedutil"
            ],
        ),
        (
            {f"{HWMON}/hwmon2/oc3_event_cnt": "3"},
            ["throttled (over-current): class/hwmon/hwmon2/oc3_event_cnt 0 -> 3"],
        ),
        (
            {f"{THERMAL}/cooling_device0/cur_state": "2"},
            ["held back because of heat: cpufreq-cpu0 at level 0, then 2"],
        ),
        ({f"{THERMAL}/cooling_device1/cur_state": "3"}, []),  # the fan may turn
        ({f"{THERMAL}/thermal_zone0/temp": "58500"}, ["temperature of cpu-thermal: 48 -> 58 degC"]),
        ({f"{THERMAL}/thermal_zone0/temp": "58400"}, []),
        ({"proc/meminfo": "MemAvailable: 2900000 kB"}, ["available memory: 6144 -> 2969 MB"]),
        ({f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "729600"}, []),  # single clocks move all the time
        (ALL_SLOW, ["clock of the cpu: 1510 -> 730 MHz"]),
        ({"sys/class/devfreq/17000000.gpu/cur_freq": "714000000"}, []),
        ({"sys/class/devfreq/17000000.gpu/cur_freq": "306000000"}, ["clock of the gpu: 1020 -> 306 MHz"]),
        (
            {"proc/sys/kernel/random/boot_id": "another", **ALL_SLOW},
            ["the device was started again: nothing before and after is comparable"],
        ),
    ],
)
def test_what_changed_is_told(board: Path, files: dict[str, str], expected: list[str]) -> None:
    before = snapshot(board)
    assert changes(before, snapshot(tree(board, files))) == expected


def test_thermal_throttling_of_a_pc(tmp_path: Path) -> None:
    before = snapshot(tree(tmp_path, BOARDS["synthetic-x86"]))
    name = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    assert changes(before, snapshot(tree(tmp_path, {f"sys/{name}": "5"}))) == [f"throttled (thermal): {name} 2 -> 5"]


def test_the_last_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: Any = {3, 5, 9}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert choose_cores(None, 1) == [9]
    assert choose_cores(None, 2) == [5, 9]
    assert choose_cores((5, 3), 1) == [3, 5]

from __future__ import annotations

import functools
import math
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.agent import meters
from edgekd.agent.errors import AgentError
from edgekd.agent.meters import tegrastats
from edgekd.agent.meters.tegrastats import Tegrastats, parse

from .command import ends

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "jetson"
RAILS = {
    "tx2-a": "VDD_IN VDD_CPU VDD_GPU VDD_SOC VDD_WIFI VDD_DDR",
    "tx2-b": "VDD_SYS_GPU VDD_SYS_SOC VDD_4V0_WIFI VDD_IN VDD_SYS_CPU VDD_SYS_DDR",
    "xavier-nx": "VDD_IN VDD_CPU_GPU_CV VDD_SOC",
}

# What releases and boards print, shortened; and the milliwatts that a person reads in it.
FORMATS = {
    "Nano, JetPack 4": (
        "RAM 1903/3964MB (lfb 1x4MB) IRAM 0/252kB(lfb 252kB) CPU [9%@102,off] EMC_FREQ 0% GR3D_FREQ 0% PLL@25C "
        "POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204",
        {"POM_5V_IN": 1022, "POM_5V_GPU": 0, "POM_5V_CPU": 204},
    ),
    "TX2": (
        "MTS fg 0% bg 0% VDD_SYS_GPU 152/152 VDD_SYS_SOC 687/687 VDD_4V0_WIFI 0/0 VDD_IN 3056/3056",
        {"VDD_SYS_GPU": 152, "VDD_SYS_SOC": 687, "VDD_4V0_WIFI": 0, "VDD_IN": 3056},
    ),
    "AGX Xavier": (
        "AUX@26.5C CPU@27.5C thermal@27.45C Tboard@27C GPU 1155/1155 CPU 385/385 SOC 2504/2503 CV 0/0 VDDRQ 192/192 "
        "SYS5V 2692/2692",
        {"GPU": 1155, "CPU": 385, "SOC": 2504, "CV": 0, "VDDRQ": 192, "SYS5V": 2692},
    ),
    "Xavier NX": (
        "VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353",
        {"VDD_IN": 4067, "VDD_CPU_GPU_CV": 738, "VDD_SOC": 1353},
    ),
    "Orin NX, r35": (
        "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) CPU [6%@729,9%@729,off,off] EMC_FREQ 0%@2133 "
        "GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@-256C CPU@47.937C tj@48.875C VDD_IN 5299mW/5299mW "
        "VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW",
        {"VDD_IN": 5299, "VDD_CPU_GPU_CV": 773, "VDD_SOC": 1424},
    ),
    "AGX Orin, r36": (
        "GR3D_FREQ 0%@[305,305] NVENC off cpu@53.062C VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 4405mW/4405mW "
        "VIN_SYS_5V0 4767mW/4767mW",
        {"VDD_GPU_SOC": 3205, "VDD_CPU_CV": 4405, "VIN_SYS_5V0": 4767},
    ),
    "Orin Nano, r36.4": (
        "06-18-2025 11:25:24 RAM 3452/7620MB (lfb 25x4MB) VDD_IN 4824mW/4824mW VDD_CPU_GPU_CV 518mW/518mW "
        "VDD_SOC 1475mW/1475mW",
        {"VDD_IN": 4824, "VDD_CPU_GPU_CV": 518, "VDD_SOC": 1475},
    ),
    "AGX Orin, R39.2": (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] "
        "NVENC0 off cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
        "VIN_SYS_5V0 5500mW/5500mW/5500mW",
        {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500},
    ),
    "Thor, R38.4": (
        "GR3D_FREQ @[314,314,314] VDD_GPU -392mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW "
        "VIN 19780mW/19780mW",
        {"VDD_GPU": -392, "VDD_CPU_SOC_MSS": 5887, "VIN_SYS_5V0": 5635, "VIN": 19780},
    ),
    "Thor, R39, not root": (
        "07-02-2026 13:45:44 RAM 36529/125749MB VDD_GPU 37528mW/37528mW/37528mW VDD_CPU_SOC_MSS 18961mW/1mW/18961mW "
        "VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW",
        {"VDD_GPU": 37528, "VDD_CPU_SOC_MSS": 18961, "VIN_SYS_5V0": 18331, "VIN": 87426},
    ),
}


@functools.cache
def recorded(name: str) -> list[str]:
    file = RECORDED / f"{name}.log"
    if not file.is_file():
        pytest.skip(f"the recording {file} is not here")
    return file.read_text().splitlines(keepends=True)


def cut_everywhere(line: str) -> None:
    """Whatever a cut leaves over is right or absent, whether or not a newline follows it."""
    whole = parse(line)
    for length in range(len(line)):
        for end in ("", "\n"):
            found = parse(line[:length] + end)
            assert found.items() <= whole.items(), line[:length]


@pytest.mark.parametrize("name", RAILS)
def test_every_recorded_line_gives_its_rails(name: str) -> None:
    expected = {rail: re.compile(rf"\b{rail} (\d+)") for rail in RAILS[name].split()}
    lines = recorded(name)
    powers = [line for line in lines if "RAM" in line]
    assert len(powers) == {"tx2-a": 2660, "tx2-b": 432, "xavier-nx": 103}[name]
    for line in powers:
        found = {rail: pattern.search(line) for rail, pattern in expected.items()}
        assert parse(line) == {rail: int(match[1]) / 1000 for rail, match in found.items() if match}
        assert len(parse(line)) == len(expected)
    assert all(parse(line) == {} for line in lines if "RAM" not in line)  # the date above one of them


@pytest.mark.parametrize("name", RAILS)
def test_a_recorded_line_that_is_cut_gives_no_wrong_value(name: str) -> None:
    for line in recorded(name)[::20]:
        cut_everywhere(line)


@pytest.mark.parametrize("board", FORMATS)
def test_the_format_of_each_release(board: str) -> None:
    line, milliwatts = FORMATS[board]
    assert parse(line + "\n") == {name: value / 1000 for name, value in milliwatts.items()}
    cut_everywhere(line + "\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "RAM 3452/7620\n",
        "SWAP 491/769\n",
        "VDD_IN 5299mW\n",
        "VDD_IN 5299mW/\n",
        "VDD_IN 5299mW/52",
        "VDD_IN 52,99mW/5299mW\n",
        "xVDD_IN 5299mW/5299mW\n".replace("x", "@"),
        "VDD_IN 99999999999/1\n",
        "VDD_IN 1/2/3/4\n",
        "CPU [9%@102,9%@102]\n",
    ],
)
def test_what_is_no_rail(text: str) -> None:
    assert parse(text) == {}


@settings(max_examples=50)
@given(st.text(), st.sampled_from(sorted(FORMATS)), st.integers(0, 400))
def test_any_text_is_read_without_an_error(text: str, board: str, at: int) -> None:
    line = FORMATS[board][0]
    assert all(math.isfinite(watts) for watts in parse(line[:at] + text + line[at:] + "\n").values())


def script(folder: Path, body: str) -> Path:
    program = folder / "usr/bin/tegrastats"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n" + body)
    program.chmod(0o755)
    return program


def orin(watts: str) -> str:
    return f"RAM 3452/7620MB VDD_IN {watts}mW/4824mW VDD_CPU_GPU_CV 518mW/518mW VDD_SOC 1475mW/1475mW"


def test_the_program_is_read_line_by_line(tmp_path: Path) -> None:
    script(
        tmp_path,
        f'echo $$ > {tmp_path}/pid; echo "$@" > {tmp_path}/arguments\n'
        "n=4000; while :; do n=$((n + 1)); echo '" + orin("'$n'") + "'; sleep 0.05; done\n",
    )
    name, meter, reason = meters.find("auto", tmp_path)
    assert (name, str(reason)) == ("tegrastats", "None")
    assert meter is not None
    assert (meter.scope, meter.total) == ("module (VDD_IN)", ("VDD_IN",))
    assert [channel.name for channel in meter.channels] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    before = time.monotonic_ns()
    readings = [meter.read() for _ in range(3)]
    after = time.monotonic_ns()
    meter.close()
    watts = [reading.values[0] for reading in readings]
    assert watts == sorted(set(watts))  # each line once
    assert all(
        4.0 < value < 5.0 and reading.values[1:] == (0.518, 1.475)
        for value, reading in zip(watts, readings, strict=True)
    )
    times = [before, *(reading.time_ns for reading in readings), after]
    assert times == sorted(times)
    assert (tmp_path / "arguments").read_text() == "--interval 100\n"
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()  # not even as a zombie


def test_lines_that_waited_are_old_and_only_the_newest_is_read(tmp_path: Path) -> None:
    program = script(tmp_path, f"printf '{orin('1000')}\\n{orin('2000')}\\n{orin('3000')}\\n'; sleep 60\n")
    meter = Tegrastats([str(program)], period_s=0.02)
    assert math.isnan(meter.read().values[0])
    meter.close()


def test_silence_is_no_reading_and_the_end_is_an_error(tmp_path: Path) -> None:
    program = script(tmp_path, f"echo '{orin('1000')}'; read answer < {tmp_path}/fifo; echo 'out of luck'; exit 3\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    meter = Tegrastats([str(program)], period_s=0.02)
    reading = meter.read()
    assert len(reading.values) == 3
    assert all(map(math.isnan, reading.values))
    fifo.write_text("go on\n")
    with pytest.raises(AgentError, match=r"tegrastats ended \(exit code 3\); it printed last: out of luck"):
        [meter.read() for _ in range(100)]
    meter.close()
    meter.close()


def test_a_line_without_a_rail_has_no_total(tmp_path: Path) -> None:
    lines = f"echo '{orin('1000')}'; sleep 0.2; echo 'VDD_SOC 1475mW/1475mW'; sleep 60\n"
    meter = Tegrastats([str(script(tmp_path, lines))], period_s=2)
    values = meter.read().values
    assert math.isnan(meters.total(meter, values))
    assert values[2] == 1.475
    meter.close()


def test_a_program_that_prints_no_power_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats, "_START_SECONDS", 1.0)
    script(tmp_path, f"echo $$ > {tmp_path}/pid; echo 'run me with sudo'; sleep 60\n")
    reason = meters.find("tegrastats", tmp_path)[2]
    assert reason is not None
    assert reason.endswith("printed no power in 1 s; it printed last: run me with sudo")
    assert ends((tmp_path / "pid").read_text().strip())


def test_unknown_rails_and_a_program_that_cannot_start_are_told(tmp_path: Path) -> None:
    program = script(tmp_path, "echo 'VDD_MAIN 12/12'; sleep 60\n")
    assert "it has VDD_MAIN." in str(meters.find("tegrastats", tmp_path)[2])
    program.write_text("#!/no/such/shell\n")
    assert "cannot be started" in str(meters.find("tegrastats", tmp_path)[2])


def test_a_machine_without_it_says_so(tmp_path: Path) -> None:
    assert meters.find("tegrastats", tmp_path)[2] == ("tegrastats: no such program here")

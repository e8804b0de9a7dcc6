from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.agent import meters
from edgekd.agent.errors import AgentError
from edgekd.agent.meters import rapl

RANGE = 262_143_328_850  # of a real desktop processor


def powercap(root: Path, zones: dict[str, tuple[str, int]]) -> Path:
    for folder, (name, energy) in zones.items():
        zone = root / "sys/class/powercap" / folder
        zone.mkdir(parents=True)
        (zone / "name").write_text(name + "\n")
        (zone / "energy_uj").write_text(f"{energy}\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return root


def test_only_packages_are_summed(tmp_path: Path) -> None:
    root = powercap(
        tmp_path,
        {
            "intel-rapl:0": ("package-0", 1_000_000),
            "intel-rapl:0:0": ("core", 7),
            "intel-rapl:0:1": ("dram", 7),
            "intel-rapl:1": ("package-1", 2_000_000),
            "intel-rapl:2": ("psys", 7),
            "intel-rapl-mmio:0": ("package-0", 7),
        },
    )
    name, meter, reason = meters.find("auto", root)
    assert (name, reason) == ("rapl", None)
    assert meter is not None
    assert meter.scope == "package-0 + package-1"
    start = meter.read()
    assert start == (1_000_000, 2_000_000)
    (root / "sys/class/powercap/intel-rapl:1/energy_uj").write_text("2500000\n")
    assert meter.joules(start, meter.read()) == 0.5


def test_a_counter_that_starts_again_at_zero() -> None:
    meter = rapl.Rapl((rapl.Domain("package-0", Path("unused"), RANGE),))
    assert meter.joules((RANGE - 999_999,), (1_000_000,)) == 2.0
    assert meter.joules((RANGE,), (0,)) == 1e-6


@given(st.integers(0, RANGE), st.integers(0, RANGE))
def test_joules_are_those_that_were_spent(start: int, spent: int) -> None:
    meter = rapl.Rapl((rapl.Domain("package-0", Path("unused"), RANGE),))
    end = (start + spent) % (RANGE + 1)
    assert meter.joules((start,), (end,)) == spent / 1e6


def test_the_floor_is_the_largest_step(tmp_path: Path) -> None:
    class Stepping(rapl.Rapl):
        values = iter([0, 0, 60, 60, 160, 220])

        def read(self) -> tuple[int, ...]:
            return (next(self.values, 220),)

    ticks = iter(range(0, 10**12, 10**7))
    meter = Stepping((rapl.Domain("package-0", tmp_path, RANGE),), clock=lambda: next(ticks))
    assert meter.floor_j() == 100e-6


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    assert meters.find("auto", tmp_path) == (
        None,
        None,
        "rapl: no /sys/class/powercap/intel-rapl* on this machine (a virtual machine, or not an x86 processor)",
    )


def test_a_machine_without_packages_says_so(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("psys", 7)})
    assert meters.find("rapl", root)[2] == "rapl: no package among /sys/class/powercap/intel-rapl* on this machine"


def test_a_counter_for_root_only_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 7)})
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None) -> str:
        if path.name == "energy_uj":  # root may read anything, so file modes do not help a test that runs as root
            raise PermissionError(13, os.strerror(13), str(path))
        return read_text(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", refuse)
    reason = meters.find("auto", root)[2]
    assert reason is not None
    assert "intel-rapl:0/energy_uj may be read by root only" in reason
    assert "sudo chmod a+r" in reason


def test_a_broken_counter_is_told(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 7)})
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("none\n")
    assert "cannot be read" in str(meters.find("rapl", root)[2])


def test_switched_off() -> None:
    assert meters.find("none") == (None, None, "energy measurement is switched off (power meter: none)")


def test_an_unknown_meter_is_named_with_those_that_exist() -> None:
    with pytest.raises(AgentError, match=r"no power meter 'ina219'; there are auto, none, .*rapl"):
        meters.find("ina219")

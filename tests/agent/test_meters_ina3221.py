"""Synthetic trees; the watts are worked out from the documented units, by hand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.agent import meters

from . import sysfs


def total_w(root: Path) -> tuple[str, float]:
    name, meter, reason = meters.find("auto", root)
    assert reason is None
    assert name == "ina3221"
    assert meter is not None
    return meter.scope, meters.total(meter, meter.read().values)


@pytest.mark.parametrize(
    ("build", "scope", "watts"),
    [
        (sysfs.orin_nano, "module (VDD_IN)", 5.048 * 0.960),
        (sysfs.xavier_nx, "module (VDD_IN)", 4.960 * 0.824),
        (sysfs.agx_orin, "sum of 3 rails (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0)", 19.88 * 0.38 + 5 * 0.94),
        (
            sysfs.agx_xavier,
            "sum of 6 rails (GPU + CPU + SOC + CV + VDDRQ + SYS5V)",
            19 * (0.06 + 0.02 + 0.13 + 0.01) + 4.9 * 0.55,
        ),
        (sysfs.thor, "carrier input (VIN)", 19.78),
        (sysfs.nano_jetpack4, "module (POM_5V_IN)", 1.022),
    ],
)
def test_the_total_of_a_board(build: Callable[[Path], Path], scope: str, watts: float, tmp_path: Path) -> None:
    assert total_w(build(tmp_path)) == (scope, pytest.approx(watts))


def test_each_rail_is_read_under_its_name_and_none_twice(tmp_path: Path) -> None:
    meter = meters.find("ina3221", sysfs.agx_orin(tmp_path))[1]
    assert meter is not None
    names = [channel.name for channel in meter.channels]
    assert names == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]  # not NC, not the sums
    assert {channel.kind for channel in meter.channels} == {"power"}
    assert meter.read().values == pytest.approx((19.88 * 0.16, 19.88 * 0.22, 5 * 0.94, 5 * 0.2))


def test_the_driver_may_be_called_ina3221x(tmp_path: Path) -> None:
    assert total_w(sysfs.orin_nano(tmp_path, driver="ina3221x"))[1] == pytest.approx(5.048 * 0.960)


@pytest.mark.parametrize("hidden", ["sys/bus", "sys/class"])
def test_a_chip_is_found_by_its_driver_or_by_its_class(hidden: str, tmp_path: Path) -> None:
    root = sysfs.agx_orin(tmp_path)
    (root / hidden).rename(root / "hidden")
    assert total_w(root)[1] == pytest.approx(19.88 * 0.38 + 5 * 0.94)


def test_other_sensors_are_not_rails(tmp_path: Path) -> None:
    sysfs.write(tmp_path / "sys/class/hwmon/hwmon0/name", "ucsi_source_psy_1")
    sysfs.write(tmp_path / "sys/class/hwmon/hwmon0/in1_label", "VIN")
    sysfs.write(tmp_path / "sys/class/hwmon/hwmon0/power1_input", 5_000_000)
    assert total_w(sysfs.orin_nano(tmp_path))[0] == "module (VDD_IN)"


def test_a_component_may_be_negative_and_unreadable_but_the_total_may_not(tmp_path: Path) -> None:
    root = sysfs.thor(tmp_path)
    meter = meters.find("ina3221", root)[1]
    assert meter is not None
    assert meter.read().values == pytest.approx((-0.392, 5.88, 5.6, 19.78))
    (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()  # a gated rail
    values = meter.read().values
    assert math.isnan(values[0])
    assert meters.total(meter, values) == pytest.approx(19.78)
    (root / "sys/class/hwmon/hwmon2/power1_input").unlink()
    assert math.isnan(meters.total(meter, meter.read().values))


@pytest.mark.parametrize("watts", [0.0, -0.4])
def test_a_total_that_is_not_above_zero_is_no_reading(watts: float, tmp_path: Path) -> None:
    assert meters.find("ina3221", sysfs.thor(tmp_path, watts))[2] == (
        f"ina3221: no good reading: the total, carrier input (VIN), is {watts:g} W"
    )


def test_a_sum_with_a_rail_missing_is_no_total(tmp_path: Path) -> None:
    root = sysfs.agx_orin(tmp_path)
    (root / "sys/class/hwmon/hwmon3/in2_input").unlink()
    reason = meters.find("ina3221", root)[2]
    assert reason is not None
    assert "a rail cannot be read" in reason
    assert "in2_input" in reason


def test_a_disabled_channel_is_not_read(tmp_path: Path) -> None:
    root = sysfs.orin_nano(tmp_path)
    sysfs.write(root / "sys/class/hwmon/hwmon1/in1_enable", 0)
    assert "it has VDD_CPU_GPU_CV, VDD_SOC." in str(meters.find("ina3221", root)[2])


def test_thor_without_its_ina238_has_no_total(tmp_path: Path) -> None:
    sysfs.ina3221(tmp_path, sysfs.THOR)
    assert "VDD_GPU, VDD_CPU_SOC_MSS, VIN_SYS_5V0" in str(meters.find("ina3221", tmp_path)[2])


def test_a_chip_without_a_label_is_listed_by_its_place(tmp_path: Path) -> None:
    sysfs.ina238(tmp_path, 20.0, label="", number=7)
    assert "it has ina238 (hwmon7)." in str(meters.find("ina3221", tmp_path)[2])


def test_the_floor_is_one_step_of_voltage_and_current(tmp_path: Path) -> None:
    # 40 uV over 5 mOhm are 8 mA, at 5 V 40 mW; 8 mV at 0.96 A are 7.7 mW.
    meter = meters.find("ina3221", sysfs.orin_nano(tmp_path / "nano"))[1]
    assert meter is not None
    assert meter.floor_w == pytest.approx(5.048 * 0.008 + 0.960 * 0.008)
    # 40 uV over 2 mOhm are 20 mA, at 20 V 0.4 W for each of two rails, at 5 V 0.1 W for the third.
    meter = meters.find("ina3221", sysfs.agx_orin(tmp_path / "agx"))[1]
    assert meter is not None
    assert meter.floor_w == pytest.approx((19.88 * 2 + 5) * 0.020 + (0.16 + 0.22 + 0.94) * 0.008)
    for build in (sysfs.thor, sysfs.nano_jetpack4):  # their drivers tell no shunt
        meter = meters.find("ina3221", build(tmp_path / build.__name__))[1]
        assert meter is not None
        assert meter.floor_w is None


@pytest.mark.parametrize(("interval_ms", "period_s"), [(1, 0.1), (35, 0.1), (280, 0.28)])
def test_the_period_is_the_chips_but_not_shorter_than_a_tenth_of_a_second(
    interval_ms: int, period_s: float, tmp_path: Path
) -> None:
    sysfs.ina3221(tmp_path, sysfs.ORIN_NANO, interval_ms=interval_ms)
    meter = meters.find("ina3221", tmp_path)[1]
    assert meter is not None
    assert meter.period_s == period_s


def test_files_for_root_only_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sysfs.orin_nano(tmp_path)
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "curr1_input":  # root may read anything, so file modes do not help a test that runs as root
            raise PermissionError(13, os.strerror(13), str(path))
        return read_text(path, encoding=encoding, errors=errors)

    monkeypatch.setattr(Path, "read_text", refuse)
    reason = meters.find("ina3221", root)[2]
    assert reason is not None
    assert "hwmon1/curr1_input may not be read by this user" in reason


def test_a_machine_without_such_chips_says_so(tmp_path: Path) -> None:
    assert "no INA3221 or INA238" in str(meters.find("ina3221", tmp_path)[2])
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    assert "no INA3221 or INA238" in str(meters.find("ina3221", tmp_path)[2])

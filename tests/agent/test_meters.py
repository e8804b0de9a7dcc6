from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd.agent import meters
from edgekd.agent.errors import AgentError
from edgekd.agent.meters import Channel, Reading, external, ina3221, nvml, rapl, tegrastats
from edgekd.agent.rails import BOARDS, total_of

from . import sysfs


class Scripted:
    """A meter whose readings are given."""

    scope, scope_kind, period_s = "module (VDD_IN)", "module", 0.1
    floor_w = floor_j = None

    def __init__(self, *values: float, kind: str = "power") -> None:
        self.channels = (Channel("VDD_IN", kind), Channel("VDD_SOC", kind))
        self.total = ("VDD_IN",)
        self.values = iter(values)
        self.closed = 0

    def read(self) -> Reading:
        return Reading(0, (next(self.values), 7.0))

    def close(self) -> None:
        self.closed += 1


def offer(monkeypatch: pytest.MonkeyPatch, meter: Scripted) -> None:
    monkeypatch.setattr(ina3221, "open", lambda _: meter)


def test_a_meter_counts_after_one_good_reading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meter = Scripted(4.8)
    offer(monkeypatch, meter)
    assert meters.find("auto", tmp_path) == ("ina3221", meter, None)
    assert meter.closed == 0


@pytest.mark.parametrize("watts", [0.0, -0.4, math.nan, math.inf, 4e9])
def test_a_total_that_is_no_power_is_no_good_reading(
    watts: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meter = Scripted(watts)
    offer(monkeypatch, meter)
    name, found, reason = meters.find("ina3221", tmp_path)
    assert (name, found, meter.closed) == (None, None, 1)
    assert reason == f"ina3221: no good reading: the total, module (VDD_IN), is {watts:g} W"


def test_a_counter_must_move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = iter(range(10))
    monkeypatch.setattr(meters, "time", SimpleNamespace(monotonic=lambda: next(seconds) / 2))
    moving, stuck = Scripted(0.0, 0.0, 0.01, kind="energy"), Scripted(*[0.0] * 9, kind="energy")
    offer(monkeypatch, moving)
    assert meters.find("ina3221", tmp_path)[0] == "ina3221"
    offer(monkeypatch, stuck)
    assert "the counter of module (VDD_IN) does not move" in str(meters.find("ina3221", tmp_path)[2])
    assert stuck.closed == 1


def test_auto_tries_sysfs_before_tegrastats_and_tells_every_reason(tmp_path: Path) -> None:
    name, meter, reason = meters.find("auto", tmp_path)
    assert (name, meter) == (None, None)
    candidates = [part.split(":")[0] for part in str(reason).split("; ")]
    assert candidates == ["ina3221", "tegrastats", "rapl"]
    assert "external" not in str(reason)
    assert meters.available() == ["external", "ina3221", "nvml", "rapl", "tegrastats"]


def test_auto_goes_on_where_a_set_of_rails_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs.ina3221(tmp_path, [("VDD_MAIN", 5000, 100)])
    meter = Scripted(3.0)
    monkeypatch.setattr(tegrastats, "open", lambda _: meter)
    assert meters.find("auto", tmp_path) == ("tegrastats", meter, None)


def test_an_external_meter_is_always_there_and_never_automatic(tmp_path: Path) -> None:
    name, meter, reason = meters.find("external", tmp_path)
    assert (name, reason) == ("external", None)
    assert meter is not None
    assert (meter.channels, meter.total, meter.scope_kind) == ((), (), "wall")
    assert math.isnan(meters.total(meter, ()))
    with pytest.raises(AgentError, match="read by the host"):
        meter.read()
    meter.close()


def test_the_total_is_the_sum_of_its_channels_only() -> None:
    meter = Scripted()
    assert meters.total(meter, (4.8, 1.5)) == 4.8
    meter.total = ("VDD_IN", "VDD_SOC")
    assert meters.total(meter, (0.1, 0.2)) == pytest.approx(0.3)
    assert math.isnan(meters.total(meter, (0.1, math.nan)))


def test_switched_off() -> None:
    assert meters.find("none") == (None, None, "energy measurement is switched off (power meter: none)")


def test_an_unknown_meter_is_named_with_those_that_exist() -> None:
    with pytest.raises(AgentError, match=r"no power meter 'ina219'; there are auto, none, .*rapl"):
        meters.find("ina219")


def test_every_meter_has_a_reason_on_an_empty_device(tmp_path: Path) -> None:
    for module in (ina3221, tegrastats, rapl, nvml):
        with pytest.raises(AgentError):
            module.open(tmp_path)
    assert external.open(tmp_path).period_s == 1


@pytest.mark.parametrize(
    ("rails", "total", "scope"),
    [
        ("VDD_IN VDD_CPU_GPU_CV VDD_SOC", ["VDD_IN"], "module (VDD_IN)"),
        ("VDD_IN VDD_CPU VDD_GPU VDD_SOC VDD_WIFI VDD_DDR", ["VDD_IN"], "module (VDD_IN)"),
        ("VDD_SYS_GPU VDD_SYS_SOC VDD_4V0_WIFI VDD_IN VDD_SYS_CPU VDD_SYS_DDR", ["VDD_IN"], "module (VDD_IN)"),
        ("POM_5V_IN POM_5V_GPU POM_5V_CPU", ["POM_5V_IN"], "module (POM_5V_IN)"),
        ("VIN VDD_GPU VDD_CPU_SOC_MSS VIN_SYS_5V0", ["VIN"], "carrier input (VIN)"),
        (
            "VDD_GPU_SOC VDD_CPU_CV VIN_SYS_5V0 VDDQ_VDD2_1V8AO",
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
            "sum of 3 rails (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0)",
        ),
        (
            "SYS5V GPU CPU SOC CV VDDRQ",
            ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"],
            "sum of 6 rails (GPU + CPU + SOC + CV + VDDRQ + SYS5V)",
        ),
    ],
)
def test_the_total_follows_from_the_set_of_rails(rails: str, total: list[str], scope: str) -> None:
    for names in (rails.split(), rails.split()[::-1]):
        found = total_of(names)
        assert (list(found.rails), found.scope) == (total, scope)


@pytest.mark.parametrize(
    "rails",
    [
        "VDD_IN",  # some board's; which one?
        "VDD_GPU_SOC VDD_CPU_CV",  # an AGX Orin with a rail missing
        "VDD_GPU_SOC VDD_CPU_CV VIN_SYS_5V0 CVB_ATX_12V",  # IGX: is the new rail inside the others?
        "VDD_GPU VDD_CPU_SOC_MSS VIN_SYS_5V0",  # Thor without its INA238
        "GPU CPU SOC CV VDDRQ",
        "",
    ],
)
def test_an_unknown_set_lists_its_rails_and_has_no_total(rails: str) -> None:
    with pytest.raises(AgentError, match="power meter: external") as error:
        total_of(rails.split())
    assert all(rail in str(error.value) for rail in rails.split())


def test_two_rails_of_one_name_have_no_total() -> None:
    with pytest.raises(AgentError, match="same name"):
        total_of(["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", "VDD_IN"])


def test_every_total_consists_of_rails_that_its_board_needs() -> None:
    assert all(set(board.total) <= board.needs for board in BOARDS)

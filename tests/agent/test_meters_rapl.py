from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.agent import meters, polling
from edgekd.agent.errors import AgentError
from edgekd.agent.meters import rapl

from . import sysfs
from .clock import Clock

RANGE = 262_143_328_850  # of a real desktop processor
SERVER = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 7),
    "intel-rapl:0:1": ("dram", 500_000),
    "intel-rapl:1": ("package-1", 2_000_000),
    "intel-rapl:1:0": ("dram", 600_000),
    "intel-rapl:2": ("psys", 7),
    "intel-rapl-mmio:0": ("package-0", 7),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands while a counter is only polled, so the look for its smallest step is left out."""
    monkeypatch.setattr(rapl, "smallest_step", lambda *_: None)
    return Clock().install(monkeypatch, polling, meters)


def add(root: Path, folder: str, microjoules: int) -> None:
    counter = root / "sys/class/powercap" / folder / "energy_uj"
    sysfs.write(counter, int(counter.read_text()) + microjoules)


def test_packages_and_their_dram_are_summed_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, SERVER)
    meter = rapl.open(root)
    assert meter.total == ("package-0", "package-0/dram", "package-1", "package-1/dram")
    assert {channel.kind for channel in meter.channels} == {"energy"}
    assert (meter.scope, meter.scope_kind) == ("CPU packages (package-0, package-1) and their DRAM", "package")
    assert meters.total(meter, meter.read().values) == 0
    add(root, "intel-rapl:1", 500_000)
    add(root, "intel-rapl:0/intel-rapl:0:1", 250_000)
    add(root, "intel-rapl:0/intel-rapl:0:0", 9_000_000)
    add(root, "intel-rapl:2", 9_000_000)
    assert meter.read().values == (0, 0.25, 0.5, 0)
    assert meters.total(meter, meter.read().values) == 0.75


def test_a_desktop_has_one_package(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 5), "intel-rapl:0:0": ("core", 7)})
    assert rapl.open(root).scope == "CPU packages (package-0)"


def test_a_counter_that_starts_again_at_zero(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", RANGE - 999_999)}, RANGE)
    meter = rapl.open(root)
    sysfs.write(root / "sys/class/powercap/intel-rapl:0/energy_uj", 1_000_000)
    assert meter.read().values == (2.0,)
    sysfs.write(root / "sys/class/powercap/intel-rapl:0/energy_uj", 999_999)  # all the way round
    assert meter.read().values == (2.0 + RANGE / 1e6,)


@given(st.integers(0, RANGE), st.lists(st.integers(0, RANGE), min_size=1, max_size=4))
def test_joules_are_those_that_were_spent(start: int, spent: list[int]) -> None:
    counters = [start]
    for step in spent:
        counters.append((counters[-1] + step) % (RANGE + 1))
    with pytest.MonkeyPatch.context() as patch:
        Clock().install(patch, polling)
        patch.setattr(rapl, "_floor_j", lambda _: None)
        values = iter(counters)
        patch.setattr(rapl, "_integer", lambda _: next(values))
        meter = rapl.Rapl((rapl.Domain("package-0", Path("unused"), RANGE),))
        assert [meter.read().values[0] for _ in spent] == [sum(spent[: n + 1]) / 1e6 for n in range(len(spent))]


def test_it_is_read_every_twentieth_of_a_second(tmp_path: Path, clock: Clock) -> None:
    meter = rapl.open(sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 5)}))
    assert [meter.read().time_ns for _ in range(3)] == [0, 50_000_000, 100_000_000]
    clock.spend(10)  # nobody asked meanwhile, and no readings are made up for that
    assert [meter.read().time_ns for _ in range(2)] == [10_100_000_000, 10_150_000_000]


def test_the_floor_is_the_sum_of_the_smallest_steps(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = {"a": iter([0, 0, 60, 60, 160, 220]), "b": iter([5, 30, 5, 70])}  # b starts again at 5
    last = {"a": 220, "b": 70}

    def integer(path: Path) -> int:
        clock.now_ns += 10**7
        return next(counters[path.name], last[path.name])

    monkeypatch.setattr(rapl, "_integer", integer)
    monkeypatch.setattr(rapl, "smallest_step", polling.smallest_step)
    domains = tuple(rapl.Domain(name, Path(name), RANGE) for name in "ab")
    assert rapl._floor_j(domains) == pytest.approx((60 + 25) / 1e6)
    assert rapl._floor_j(domains) is None  # they do not move any more


def test_auto_finds_it_when_the_counter_moves(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 5)})
    clock.on_move = lambda: add(root, "intel-rapl:0", 61)
    name, meter, reason = meters.find("auto", root)
    assert (name, reason) == ("rapl", None)
    assert meter is not None
    assert meters.total(meter, meter.read().values) == 122e-6


def test_a_counter_that_stands_still_does_not_count(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 5)})
    assert meters.find("rapl", root)[2] == (
        "rapl: no good reading: the counter of CPU packages (package-0) does not move"
    )


def test_a_counter_that_goes_away_is_told(tmp_path: Path, clock: Clock) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 5)})
    meter = rapl.open(root)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    with pytest.raises(AgentError, match="package-0 cannot be read any more"):
        meter.read()


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    assert meters.find("rapl", tmp_path)[2] == ("rapl: no /sys/class/powercap/intel-rapl* here")


def test_a_machine_without_packages_says_so(tmp_path: Path) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("psys", 7)})
    assert meters.find("rapl", root)[2] == "rapl: no package among /sys/class/powercap/intel-rapl* on this machine"


def test_a_counter_for_root_only_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 7)})
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "energy_uj":  # root may read anything, so file modes do not help a test that runs as root
            raise PermissionError(13, os.strerror(13), str(path))
        return read_text(path, encoding=encoding, errors=errors)

    monkeypatch.setattr(Path, "read_text", refuse)
    reason = meters.find("auto", root)[2]
    assert reason is not None
    assert "intel-rapl:0/energy_uj may be read by root only" in reason
    assert "sudo chmod a+r" in reason


def test_a_broken_counter_is_told(tmp_path: Path) -> None:
    root = sysfs.powercap(tmp_path, {"intel-rapl:0": ("package-0", 7)})
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("none\n")
    assert "cannot be read" in str(meters.find("rapl", root)[2])

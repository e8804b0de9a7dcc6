from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgekd.report import build, html, terminal, wording

from .synthetic import INT8, TEACHER

Make = Callable[..., Path]
METERED = {"teacher": replace(TEACHER, joules=0.02), "int8": replace(INT8, joules=0.01)}


def altered(run: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change samples/energy.json of a run, and its digest."""
    folder = run / "measurements/cpu"
    path = folder / "samples/energy.json"
    energy = json.loads(path.read_text())
    change(energy)
    path.write_text(json.dumps(energy))
    content = json.loads((folder / "measurement.json").read_text())
    content["files"]["samples/energy.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "measurement.json").write_text(json.dumps(content))
    return run


def throttled(energy: dict[str, Any]) -> None:
    for index in (1, 5):
        energy["windows"][index]["rejected"] = "the device throttled"


def test_the_meter_and_its_windows_are_in_the_report(make_run: Make) -> None:
    device = build.build(make_run(METERED, rounds=5))["devices"]["cpu"]
    energy = device["energy"]
    assert energy.items() >= {
        "meter": "rapl", "scope": "CPU package (package-0)", "scope_kind": "package", "floor_w": None,
        "floor_j": 6.1e-5, "period_s": 0.1, "pace_hz": None,
    }.items()  # fmt: skip
    assert (energy["simulated"], energy["reason"]) == (False, None)
    assert energy["warmup"] == {"seconds": 12.0, "steady": True, "reason": None}
    assert energy["idle_power_w"] == pytest.approx(4.0)
    kinds = [(window["kind"], window["variant"]) for window in energy["windows"]]
    assert kinds[:4] == [("idle", None), ("active", "teacher"), ("active", "int8"), ("active", "int8")]
    assert energy["windows"][1]["power_w"] == pytest.approx(0.02 * 10_000 / 30)
    assert (energy["windows"][0]["start_s"], energy["windows"][0]["end_s"]) == (0.0, pytest.approx(30.0))
    detail = device["variants"]["int8"]["energy_detail"]
    assert detail["ratio_to_reference"] == pytest.approx(2.0)
    assert detail["dynamic_j"] == pytest.approx(0.01 - 4 * 0.003)


def test_the_power_over_time_adds_up_to_the_energy(make_run: Make) -> None:
    run = make_run(METERED, rounds=5)
    trace = build.build(run)["devices"]["cpu"]["energy"]["trace"]
    assert len(trace["time_s"]) == len(trace["power_w"]) == 600
    with np.load(run / "measurements/cpu/samples/power.npz") as found:
        seconds = np.ptp(found["time_ns"]) * 1e-9
        joules = np.ptp(found["values"])
    assert np.mean(trace["power_w"]) * seconds == pytest.approx(joules, rel=1e-4)


def test_where_nothing_was_read_there_is_no_power(make_run: Make) -> None:
    run = make_run(METERED, rounds=5)
    path = run / "measurements/cpu/samples/power.npz"
    with np.load(path) as found:
        keep = (found["time_ns"] < 100e9) | (found["time_ns"] > 110e9)
        np.savez(path.with_name("new.npz"), time_ns=found["time_ns"][keep], values=found["values"][keep])
    path.with_name("new.npz").replace(path)
    content = json.loads((run / "measurements/cpu/measurement.json").read_text())
    content["files"]["samples/power.npz"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "measurements/cpu/measurement.json").write_text(json.dumps(content))
    energy = build.build(run)["devices"]["cpu"]["energy"]
    gone = [
        time for time, power in zip(energy["trace"]["time_s"], energy["trace"]["power_w"], strict=True) if power is None
    ]
    begin = 1.0  # the first window begins one second after the first reading
    assert min(gone) + begin == pytest.approx(100, abs=0.7)
    assert max(gone) + begin == pytest.approx(110, abs=0.7)


def test_rejected_windows_are_listed_with_their_reason(make_run: Make) -> None:
    run = altered(make_run(METERED, rounds=5, method={"processes": 3, "quick": True}), throttled)
    report = build.build(run)
    device = report["devices"]["cpu"]
    assert device["variants"]["teacher"]["energy_detail"]["rejected"] == 2
    assert device["variants"]["teacher"]["energy_detail"]["windows"] == 3
    assert [window["rejected"] for window in device["energy"]["windows"]].count("the device throttled") == 2
    assert wording.doubtful(device) == ["2 energy windows rejected: the device throttled"]
    page = html.render(report)
    assert "<summary>2 rejected windows</summary>" in page
    assert '<small class="warn">2 rejected</small>' in page


def test_without_enough_windows_the_reason_is_the_gates(make_run: Make) -> None:
    gates = {"require_energy": True, "max_energy_mj": 50}
    run = altered(make_run(METERED, rounds=5, gates=gates), lambda energy: energy.update(windows=energy["windows"][:4]))
    device = build.build(run)["devices"]["cpu"]
    why = "2 good windows, at least 5 are needed"
    assert device["variants"]["int8"]["energy_reason"] == why
    assert [gate["reason"] for gate in device["verdict"]["gates"]] == [f"energy was not measured: {why}"] * 2


def test_scope_and_floor_stand_beside_the_figures(make_run: Make) -> None:
    run = altered(make_run(METERED, rounds=5), lambda energy: energy.update(pace_hz=30.0))
    report = build.build(run)
    metered = (
        "energy is that of the CPU package (package-0), a reading every 100 ms, in steps of 61.0 µJ, idle 4.00 W, "
        "paced at 30 inferences/s, the idle time between included"
    )
    assert wording.metered(report["devices"]["cpu"]) == metered
    file = io.StringIO()
    terminal.render(report, Console(file=file, width=300))
    assert metered in file.getvalue()
    assert "energy of teacher / variant, per inference: int8 2.00x [2.00, 2.00]" in file.getvalue()
    assert metered[1:] in re.sub(r"\s+", " ", html.render(report))


def test_the_sensors_step_is_said_or_that_it_is_not_known() -> None:
    unknown = dict.fromkeys(("period_s", "floor_j", "idle_power_w", "pace_hz"))
    energy: dict[str, Any] = {**unknown, "scope": "module (VDD_IN)", "floor_w": 0.04}
    device = {"variants": {"a": {"energy_j": 1.0}}, "energy": energy}
    assert wording.metered(device) == "energy is that of the module (VDD_IN), in steps of 40.0 mW"
    assert wording.metered({**device, "energy": {**energy, "floor_w": None}}) == (
        "energy is that of the module (VDD_IN), the sensor's step is not known"
    )
    assert wording.metered({**device, "variants": {"a": {"energy_j": None}}}) is None


def test_a_device_that_did_not_become_steady_and_late_inferences_are_remarked(make_run: Make) -> None:
    def change(energy: dict[str, Any]) -> None:
        energy["warmup"] = {"seconds": 60.0, "steady": False, "reason": "still 1 degC a minute"}
        energy["windows"][1]["late"] = 7

    remarks = build.build(altered(make_run(METERED, rounds=5), change))["devices"]["cpu"]["verdict"]["remarks"]
    assert "energy: the device had not become steady before the windows (still 1 degC a minute)" in remarks
    assert "energy: paced inferences missed their slot (teacher 7 of 50000)" in remarks


def test_the_page_with_energy_stays_small(make_run: Make) -> None:
    variants = {f"v{k}": replace(INT8, joules=0.01 + 0.001 * k) for k in range(10)}
    report = build.build(make_run({"teacher": replace(TEACHER, joules=0.02), **variants}, rounds=5))
    assert len(html.render(report).encode()) < 1_000_000

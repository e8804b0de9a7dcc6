from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgekd.report import build, html, simulation, terminal

from .synthetic import INT8, TEACHER

Make = Callable[..., Path]
WHY = "the device's files are those of /tmp/board (EDGEKD_AGENT_ROOT), not of the machine"
METERED = {"teacher": replace(TEACHER, joules=0.02), "int8": replace(INT8, joules=0.01)}
RUNTIME = {"name": "tensorrt", "version": "10.3.0", "simulated": "a stand-in for TensorRT"}


def made(make: Make, gates: dict[str, Any], *, energy: bool = True, **measurement: Any) -> dict[str, Any]:
    run = make(METERED, gates=gates, rounds=5, **measurement)
    path = run / "measurements/cpu/measurement.json"
    content = json.loads(path.read_text())
    content["energy"]["simulated"] = energy
    path.write_text(json.dumps(content))
    report: dict[str, Any] = build.build(run)
    return report


def printed(report: dict[str, Any]) -> str:
    file = io.StringIO()
    terminal.render(report, Console(file=file, width=100))
    return file.getvalue()


@pytest.mark.parametrize("gate", [{"require_energy": True}, {"max_energy_mj": 1000}])
def test_simulated_energy_passes_no_gate(make_run: Make, gate: dict[str, Any]) -> None:
    report = made(make_run, {"min_speedup": 2, **gate}, simulated=[WHY])
    device = report["devices"]["cpu"]
    assert [(found["status"], found["reason"]) for found in device["verdict"]["gates"]][1] == (
        "not_measured", f"simulated: {WHY}",
    )  # fmt: skip
    assert device["verdict"]["gates"][0]["status"] == "passed"
    assert (device["verdict"]["status"], device["verdict"]["recommended"]) == ("not_measured", None)
    assert build.exit_code(report) == 1
    assert device["variants"]["int8"]["energy_j"] == pytest.approx(0.01)  # shown, and marked
    text = printed(report)
    assert "SIMULATED, energy and the state of the device: the device's files" in text
    assert text.splitlines()[1].strip().startswith("SIMULATED")
    page = html.render(report)
    assert "Energy (SIMULATED)" in page
    assert page.count('<p class="simulated">SIMULATED, energy') == 2


def test_what_is_not_simulated_counts_beside_it(make_run: Make) -> None:
    report = made(make_run, {"min_speedup": 2}, simulated=[WHY])
    assert report["devices"]["cpu"]["verdict"]["status"] == "passed"
    assert "SIMULATED" in printed(report)


@pytest.mark.parametrize("gates", [{}, {"min_speedup": 2, "max_drop_pp": 5}])
def test_a_stand_in_for_the_runtime_passes_nothing(make_run: Make, gates: dict[str, Any]) -> None:
    report = made(make_run, gates, energy=False, runtime=RUNTIME, simulated=[RUNTIME["simulated"]])
    verdict = report["devices"]["cpu"]["verdict"]
    assert (verdict["status"], verdict["recommended"]) == ("not_measured", None)
    assert all(gate["reason"] == "simulated: a stand-in for TensorRT" for gate in verdict["gates"])
    assert build.exit_code(report) == 1
    text = printed(report)
    assert text.startswith("? NOT MEASURED  cpu")
    assert "SIMULATED, all figures: a stand-in for TensorRT" in text
    head = next(line for line in text.splitlines() if "95 % CI" in line)
    assert head.strip().startswith("SIMULATED")
    assert 'Variants <span class="badge simulated">SIMULATED</span>' in html.render(report)


def test_a_real_measurement_is_not_marked(make_run: Make) -> None:
    report = made(make_run, {"require_energy": True}, energy=False)
    assert report["devices"]["cpu"]["verdict"]["status"] == "passed"
    assert simulation.notices(report["devices"]["cpu"]) == []
    assert "SIMULATED" not in printed(report)
    assert '<p class="simulated">' not in html.render(report)


def test_a_substitute_and_locked_clocks_are_said(make_run: Make) -> None:
    report = made(
        make_run,
        {},
        energy=False,
        substituted={"asked": "tensorrt", "used": "onnxruntime"},
        locked_clocks="jetson_clocks",
    )
    remarks = "\n".join(report["devices"]["cpu"]["verdict"]["remarks"])
    assert "onnxruntime ran in place of tensorrt" in remarks
    assert "clocks were locked for the measurement (jetson_clocks)" in remarks

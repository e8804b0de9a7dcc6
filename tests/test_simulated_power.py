"""The whole path of energy, from a power counter to the report, on counters that a test moves: marked as simulated."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent.sysfs import powercap
from test_benchmark import _linear
from tiny import QUICK

from edgekd import bench
from edgekd.dispatch import job
from edgekd.recipe import Gates
from edgekd.stages.measure import Options

WATTS = 7.5


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose processor always draws 7.5 W."""
    root = powercap(tmp_path / "board", {"intel-rapl:0": ("package-0", 0)})
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    monkeypatch.setenv("EDGEKD_AGENT_ROOT", str(root))
    stop = threading.Event()

    def count() -> None:
        start = time.monotonic()
        while not stop.wait(0.005):
            partial = counter.with_name("next")
            partial.write_text(f"{round((time.monotonic() - start) * WATTS * 1e6)}\n")
            partial.replace(counter)  # a reader never sees half a number

    thread = threading.Thread(target=count)
    thread.start()
    yield root
    stop.set()
    thread.join()


def test_a_simulated_counter_fills_the_report_and_passes_no_gate(board, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "QUICK", replace(job.QUICK, energy_window_seconds=0.1, idle_seconds=0.1))
    weights = np.eye(64, 10, dtype=np.float32)
    result = bench(
        [_linear(tmp_path / "small.onnx", weights)],
        against=_linear(tmp_path / "big.onnx", weights),
        gates=Gates(require_energy=True, max_energy_mj=1000),
        measuring=Options(**QUICK),
        out=tmp_path / "run",
        store=tmp_path / "store",
    )
    device = result.report["devices"]["cpu"]
    assert device["energy"]["meter"] == "rapl"
    assert device["simulated"]
    for variant in device["variants"].values():
        detail = variant["energy_detail"]
        assert detail["mean_power_w"] == pytest.approx(WATTS, rel=0.02)
        assert detail["windows"] == 3
        # Power that is the same in every window makes joules per inference a matter of counting.
        per_inference = WATTS * detail["seconds"] / detail["inferences"]
        assert 0.98 * detail["low_j"] <= per_inference <= 1.02 * detail["high_j"]
        assert detail["low_j"] <= variant["energy_j"] <= detail["high_j"]
        # As much is drawn when nothing runs.
        assert abs(detail["dynamic_j"]) < 0.1 * variant["energy_j"]
    gates = {gate["name"]: gate for gate in device["verdict"]["gates"]}
    assert {gate["status"] for gate in gates.values()} == {"not_measured"}
    assert all("simulated" in gate["reason"] for gate in gates.values())
    assert result.exit_code == 1
    assert "SIMULATED" in (result.path / "report.html").read_text()
    assert json.loads((result.path / "report.json").read_text())["devices"]["cpu"]["simulated"] == device["simulated"]


def test_here_power_is_null_with_the_reason_and_energy_fails_the_gate(tmp_path, monkeypatch):
    """An empty root has no sensor, whatever this machine has."""
    (tmp_path / "board").mkdir()
    monkeypatch.setenv("EDGEKD_AGENT_ROOT", str(tmp_path / "board"))
    monkeypatch.setenv("PATH", "/nowhere")
    result = bench(
        [_linear(tmp_path / "small.onnx", np.eye(4, 3, dtype=np.float32))],
        gates=Gates(require_energy=True),
        measuring=Options(**QUICK),
        out=tmp_path / "run",
        store=tmp_path / "store",
    )
    (variant,) = result.report["devices"]["cpu"]["variants"].values()
    assert variant["energy_j"] is None
    assert "rapl: no /sys/class/powercap" in variant["energy_reason"]
    (gate,) = result.report["devices"]["cpu"]["verdict"]["gates"]
    assert (gate["name"], gate["status"], result.exit_code) == ("require_energy", "not_measured", 1)

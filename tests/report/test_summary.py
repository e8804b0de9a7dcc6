from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.report import build, summary

from .synthetic import CHAIN, INT8

Make = Callable[..., Path]
RUNS = {
    "passed": {"gates": {"min_speedup": 2}},
    "no gates": {},
    "failed": {"gates": {"min_speedup": 20, "max_drop_pp": 3}},
    "not measured": {"gates": {"max_energy_mj": 1}},
    "no variant works": {"variants": {"teacher": CHAIN["teacher"], "int8": replace(INT8, error="no kernel")}},
    "pending": {"gates": {"min_speedup": 2}, "errors": {"cpu": {"kind": "pending", "message": "the bundle waits"}}},
    "simulated": {"runtime": {"name": "tensorrt", "version": "10", "simulated": "a stand-in"}},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_cases_are_red_exactly_where_the_exit_code_is_not_0(make_run: Make, options) -> None:
    report = build.build(make_run(**options))
    bad = [case for case in summary.cases(report) if case.status in ("failed", "error")]
    assert bool(bad) == (build.exit_code(report) != 0)
    assert summary.in_markdown(report)


def test_each_gate_is_a_case_with_its_reason(make_run: Make) -> None:
    report = build.build(make_run(gates={"min_speedup": 20, "max_drop_pp": 3, "max_energy_mj": 1}))
    found = summary.cases(report)
    assert [(case.group, case.name, case.status) for case in found] == [
        ("cpu", "measured", "passed"), ("cpu", "int8: min_speedup", "failed"), ("cpu", "int8: max_drop_pp", "passed"),
        ("cpu", "int8: max_energy_mj", "error"),
    ]  # fmt: skip
    gates = report["devices"]["cpu"]["verdict"]["gates"]
    assert [case.message for case in found[1:]] == [gate["reason"] for gate in gates]


def test_what_was_measured_in_place_of_a_device_decides_nothing(make_run: Make) -> None:
    report = build.build(make_run(gates={"min_speedup": 20}))
    report["devices"]["cpu"]["in_place_of"] = "jetson"
    assert summary.cases(report) == []


def test_the_table_has_the_figures_of_the_report(make_run: Make) -> None:
    text = summary.in_markdown(build.build(make_run(gates={"min_speedup": 2})))
    lines = text.splitlines()
    assert lines[0].startswith("**✓ PASSED  cpu  use int8: 5.0")
    assert lines[2] == "| variant |  | Accuracy | Drop, pp | Agreement | Latency p50 | Speed-up | Size |"
    row = next(line for line in lines if line.startswith("| int8 |")).split(" | ")
    assert row[1:4] == ["recommended", "98.50 % (97.54 to 99.09 %)", "0.50 (0.02 to 0.98)"]
    assert row[-1] == "30.0 kB |"

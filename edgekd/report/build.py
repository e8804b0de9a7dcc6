"""A run directory -> report.json, report.html, and the exit code. Needs nothing but the directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgekd import tasks
from edgekd.artifact import write_text
from edgekd.report import budget, devices, html, roles
from edgekd.report.budget import Budget
from edgekd.report.evidence import Run, read_run
from edgekd.report.precisions import float_counterpart
from edgekd.report.verdict import FAILED, NOT_MEASURED, PASSED, judge
from edgekd.report.why.reading import of_variant

SCHEMA = 1
NOT_REACHED = ("unreachable", "pending")
EXIT_CODES = (130, 2, 3, 1, 4, 0)  # the first that applies


def build(run: Path) -> dict[str, Any]:
    """Compute the content of report.json from the raw samples and outputs of a run.

    Raises:
        UsageError: The folder is no run, or one of another schema version.
        EdgekdError: A file is missing, altered or unreadable; the message names it.
    """
    return of_run(read_run(run))


def of_run(found: Run) -> dict[str, Any]:
    """Compute the content of report.json of a run that was read."""
    content = found.content
    task = tasks.load(content["task"])
    asked = budget.read(content)
    gates = {name: limit for name, limit in (content.get("gates") or {}).items() if limit is not None}
    report = {
        "schema": SCHEMA,
        "edgekd": content["edgekd"],
        "recipe": content["recipe"],
        "run_id": content["run_id"],
        "kind": content["kind"],
        "task": content["task"],
        "metric": task.metric,
        "inputs": content["inputs"],
        "reference": content["reference"],
        "gates": gates,
        "status": PASSED,
        "devices": {name: _device(found, name, task, gates, asked) for name in content["devices"]},
        "budget": None if asked is None else asked.model_dump(mode="json"),
        "stages": content["stages"],
        "provenance": content["provenance"],
    }
    statuses = {device["verdict"]["status"] for device in report["devices"].values() if not device["in_place_of"]}
    report["status"] = next((status for status in (FAILED, NOT_MEASURED) if status in statuses), PASSED)
    clean: dict[str, Any] = _finite(report)
    return clean


def write(run: Path) -> dict[str, Any]:
    """Write report.json and report.html into a run, each atomically, and return the report."""
    report = build(run)
    write_text(run / "report.json", json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(run / "report.html", html.render(report))
    return report


def exit_code(report: dict[str, Any]) -> int:
    """The exit code of a run that came to its report.

    0: all gates passed. 1: a gate failed, or was not measured on a device that was there. 4: a device could not be
    reached, or its measurement is pending. Of several, 1 before 4. A measurement made in place of another device's
    decides nothing: nobody asked for it.
    """
    codes = {_device_code(device) for device in report["devices"].values()}
    return next(code for code in EXIT_CODES if code in codes or code == 0)


def _device_code(device: dict[str, Any]) -> int:
    if device["in_place_of"]:
        return 0
    if device["error"] and device["error"]["kind"] in NOT_REACHED:
        return 4
    return 0 if device["verdict"]["status"] == PASSED else 1


def _device(run: Run, name: str, task: tasks.Task, gates: dict[str, Any], asked: Budget | None) -> dict[str, Any]:
    there = name in run.measurements and not run.content["devices"][name].get("error")
    device = devices.measured(run, name, task) if there else devices.not_measured(run, name)
    reference, variants = run.content["reference"], device["variants"]
    chain, pipeline = roles.chain(variants, reference), run.content["kind"] == "pipeline"
    for own, variant in variants.items():
        among = {name: variants[name] for name in chain} if own in chain else variants
        variant["float_counterpart"] = float_counterpart(own, among, pipeline=pipeline and own in chain)
    for own, variant in variants.items():
        variant["why"] = of_variant(run.measurements[name].content, own, device) if there else []
    points = budget.verdicts(name, device, asked, reference) if asked else {}
    verdict = budget.together(points) if points else judge(device, gates=gates, reference=reference)
    return {**device, "points": points, "verdict": verdict}


def _finite(value: Any) -> Any:
    """A copy fit for strict JSON: what is not a finite number is null (facts and curves may hold a diverged loss)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

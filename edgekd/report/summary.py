"""A run's verdict for continuous integration: each gate a case, and the table of variants as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import budget, markdown, roles, simulation, terminal, units, views
from edgekd.report.cases import Case, Status
from edgekd.report.verdict import FAILED, NOT_MEASURED, PASSED

_STATUS: Mapping[str, Status] = {PASSED: "passed", FAILED: "failed", NOT_MEASURED: "error"}
_COLUMNS = ("Accuracy", "Drop, pp", "Agreement", "Latency p50", "Speed-up", "Size", "Energy")


def cases(report: Mapping[str, Any]) -> list[Case]:
    """Every gate of every device as a case, and whether the device was measured at all.

    What was measured in place of a device decides nothing, and is left out. A gate that could not be measured is an
    error: the exit code counts it too.
    """
    found: list[Case] = []
    for name, device in report["devices"].items():
        if device["in_place_of"]:
            continue
        verdict, error = device["verdict"], device["error"]
        if error or verdict["best"] is None:
            why = f"{error['kind']}: {error['message']}" if error else verdict["why"]
            found.append(Case("measured", name, "error" if error or verdict["status"] != PASSED else "passed", why))
            continue
        found.append(Case("measured", name, "passed", f"{len(device['variants'])} variants, {verdict['why']}"))
        for title, judged in budget.verdicts_of(name, device).items():
            found += [_gate(gate, title, judged) for gate in judged["gates"]]
    return found


def _gate(gate: Mapping[str, Any], device: str, verdict: Mapping[str, Any]) -> Case:
    where = " on validation" if gate["split"] == "validation" else ""
    status = _STATUS[gate["status"]]
    detail = "\n".join([verdict["why"], *verdict["remarks"]]) if status != "passed" else ""
    return Case(f"{verdict['best']}: {gate['name']}", device, status, f"{gate['reason']}{where}", detail)


def in_markdown(report: Mapping[str, Any]) -> str:
    """Return the verdict and the variants of each device."""
    parts = []
    for name, device in report["devices"].items():
        for title, verdict in budget.verdicts_of(name, device).items():
            parts.append(f"**{markdown.escaped(terminal.headline(title, device, verdict).plain)}**")
        parts += [f"**{markdown.escaped(notice)}**" for notice in simulation.notices(device)]
        if device["error"]:
            parts.append(markdown.escaped(device["error"]["message"]))
            continue
        parts.append(_table(report, device))
        remarks = [f"- {markdown.escaped(remark)}" for remark in device["verdict"]["remarks"]]
        parts += ["\n".join(remarks)] if remarks else []
    return "\n\n".join(part.rstrip() for part in parts)


def _table(report: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    shown = [figure for figure in views.figures(device) if figure.head.split(" (")[0] in _COLUMNS]
    rows = []
    for name, variant in device["variants"].items():
        cells = [markdown.escaped(name), markdown.escaped(_role(name, variant, device, report["reference"]))]
        for figure in shown:
            value, ci = figure.value(variant), figure.ci(variant)
            text = units.ABSENT if value is None else figure.text(value)
            cells.append(markdown.escaped(f"{text} ({ci})" if ci else text))
        rows.append(cells)
    return markdown.table(["variant", "", *(figure.head for figure in shown)], rows)


def _role(name: str, variant: Mapping[str, Any], device: Mapping[str, Any], reference: str | None) -> str:
    if name == device["verdict"]["recommended"]:
        return "recommended"
    return "failed here" if variant["error"] else roles.tag(name, variant, reference)

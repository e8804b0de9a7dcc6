"""The table of a device in a terminal: two lines per variant, the figure and below it the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.report import roles, units
from edgekd.report.columns import Column, Line, fitted
from edgekd.report.plain import clean
from edgekd.report.simulation import MARK, all_simulated, energy_simulated

Variant = Mapping[str, Any]


def _span(ci: Sequence[float] | None, scale: float = 1, decimals: int = 2) -> str | None:
    """An interval as "97.5..99.1"; nothing for an interval of no width (the reference against itself)."""
    if ci is None or ci[0] == ci[1]:
        return None
    low, high = (f"{round(bound * scale, decimals) + 0.0:.{decimals}f}" for bound in ci)  # + 0.0: never "-0.0"
    return f"{low}..{high}"


def _energy_span(variant: Variant) -> str | None:
    """The interval of the energy in the unit of its value."""
    joules, ci = variant["energy_j"], variant["energy_j_ci"]
    if not joules:
        return None
    shown = units.energy(joules)
    return _span(ci, float(shown.split()[0]) / joules, units.decimals_of(float(shown.split()[0])))


COLUMNS = (
    Column(
        "accuracy", "95 % CI",
        lambda v: None if v["accuracy"] is None else units.percent(v["accuracy"]),
        lambda v: _span(v["accuracy_ci"], 100, 1),
    ),
    Column(
        "drop pp", "95 % CI",
        lambda v: None if v["drop_pp"] is None else f"{v['drop_pp'] + 0.0:.2f}",
        lambda v: _span(v["drop_pp_ci"], 1, 1),
        gives_way=1,
    ),
    Column(
        "agrees", "",
        lambda v: None if v["agreement_with_teacher"] is None else units.percent(v["agreement_with_teacher"], 1),
        lambda _: None,
        gives_way=3,
    ),
    Column(
        "p50", "p99",
        lambda v: units.duration(v["latency_ns"]["p50"]) if v["latency_ns"] else None,
        lambda v: units.duration(v["latency_ns"]["p99"]) if v["latency_ns"] else None,
    ),
    Column(
        "speed-up", "95 % CI",
        lambda v: None if v["speedup"] is None else units.times(v["speedup"]),
        lambda v: _span(v["speedup_ci"]),
    ),
    Column(
        "size", "MACs",
        lambda v: units.size(v["size_bytes"]) if v["size_bytes"] else None,
        lambda v: units.quantity(v["macs"]) if v["macs"] else None,
    ),
    Column(
        "energy", "95 % CI",
        lambda v: None if v["energy_j"] is None else units.energy(v["energy_j"]),
        _energy_span,
        gives_way=2,
    ),
)  # fmt: skip


def variants_table(
    report: Mapping[str, Any], device: Mapping[str, Any], console: Console, *, ascii_only: bool, indent: int = 0
) -> Table:
    """Return the table of a device, fitted to the console less an indentation.

    A column that no variant fills is left out (a note below the table says why), and so are the least telling ones
    where the console is too narrow for all.
    """
    shown = [column for column in COLUMNS if any(column.value(variant) for variant in device["variants"].values())]
    if energy_simulated(device):
        shown = [replace(column, under=MARK) if column.head == "energy" else column for column in shown]
    lines = [_line(report, device, name) for name in device["variants"]]
    return fitted(
        MARK if all_simulated(device) else "variant", shown, lines, console, ascii_only=ascii_only, indent=indent
    )


def _line(report: Mapping[str, Any], device: Mapping[str, Any], name: str) -> Line:
    style = "bold green" if name == device["verdict"]["recommended"] else ""
    shown = Text.assemble((clean(name), style), (f"\n{_role(report, device, name)}", style or "dim"))
    return Line(shown, lambda _: style, device["variants"][name])


def _role(report: Mapping[str, Any], device: Mapping[str, Any], name: str) -> str:
    verdict = device["verdict"]
    if name == verdict["recommended"]:
        return "● recommended"
    if device["variants"][name]["error"]:
        return "failed here"
    if name == verdict["best"] != report["reference"]:
        return "best so far"
    return roles.tag(name, device["variants"][name], report["reference"])

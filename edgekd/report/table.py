"""The table of a device in a terminal: two lines per variant, the figure and below it the interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.report import roles, units
from edgekd.report.plain import clean, to_ascii

NAME_WIDTH = 24  # longer names fold

Variant = Mapping[str, Any]
Cell = Callable[[Variant], str | None]


@dataclass(frozen=True)
class Column:
    """A column: its two header lines, the two lines of a cell, and how early it gives way in a narrow terminal."""

    head: str
    under: str
    value: Cell
    detail: Cell
    gives_way: int = 0


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
    leaving = sorted((column for column in shown if column.gives_way), key=lambda column: -column.gives_way)
    while True:
        for gap in (1, 0):
            table = _table(report, device, shown, gap, ascii_only=ascii_only)
            if console.measure(table).maximum <= console.width - indent:
                return table
        if not leaving:
            return table
        shown.remove(leaving.pop(0))


def _table(
    report: Mapping[str, Any], device: Mapping[str, Any], columns: Sequence[Column], gap: int, *, ascii_only: bool
) -> Table:
    lines = box.ASCII2 if ascii_only else box.SIMPLE_HEAD
    table = Table(box=lines, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap), header_style="")
    table.add_column(Text("variant", "bold"), overflow="fold", max_width=NAME_WIDTH)
    for column in columns:
        head = Text.assemble((column.head, "bold"), (f"\n{column.under}", "dim"))
        table.add_column(head, justify="right", no_wrap=True)
    for name, variant in device["variants"].items():
        style = "bold green" if name == device["verdict"]["recommended"] else ""
        cells = [
            Text.assemble((column.value(variant) or units.ABSENT, style), (f"\n{column.detail(variant) or ''}", "dim"))
            for column in columns
        ]
        name_cell = Text.assemble((clean(name), style), (f"\n{_role(report, device, name)}", style or "dim"))
        table.add_row(*(to_ascii(cell) if ascii_only else cell for cell in (name_cell, *cells)))
    return table


def _role(report: Mapping[str, Any], device: Mapping[str, Any], name: str) -> str:
    verdict = device["verdict"]
    if name == verdict["recommended"]:
        return "● recommended"
    if device["variants"][name]["error"]:
        return "failed here"
    if name == verdict["best"] != report["reference"]:
        return "best so far"
    return roles.tag(name, device["variants"][name], report["reference"])

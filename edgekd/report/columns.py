"""A table in a terminal whose cells are two lines, a figure and below it what belongs to it; it fits the width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.report import units
from edgekd.report.plain import to_ascii

NAME_WIDTH = 24  # longer names fold

Row = Mapping[str, Any]
Cell = Callable[[Row], str | None]


@dataclass(frozen=True)
class Column:
    """A column: its two header lines, the two lines of a cell, and how early it gives way in a narrow terminal."""

    head: str
    under: str
    value: Cell
    detail: Cell
    gives_way: int = 0


@dataclass(frozen=True)
class Line:
    """A row: its name as it is shown, the style of each column's figure, and where the figures come from."""

    name: Text
    styles: Callable[[int], str]
    row: Row


def fitted(
    what: str, columns: Sequence[Column], lines: Iterable[Line], console: Console, *, ascii_only: bool, indent: int = 0
) -> Table:
    """Return the table, fitted to the console less an indentation.

    Where it is too narrow for all columns, the least telling ones are left out.

    Args:
        what: the head of the names' column.
    """
    shown, rows = list(columns), list(lines)
    leaving = sorted((column for column in shown if column.gives_way), key=lambda column: -column.gives_way)
    while True:
        for gap in (1, 0):
            table = _table(what, shown, rows, gap, ascii_only=ascii_only)
            if console.measure(table).maximum <= console.width - indent:
                return table
        if not leaving:
            return table
        shown.remove(leaving.pop(0))


def _table(what: str, columns: Sequence[Column], lines: Sequence[Line], gap: int, *, ascii_only: bool) -> Table:
    form = box.ASCII2 if ascii_only else box.SIMPLE_HEAD
    table = Table(box=form, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap), header_style="")
    table.add_column(Text(what, "bold"), overflow="fold", max_width=NAME_WIDTH)
    for column in columns:
        head = Text.assemble((column.head, "bold"), (f"\n{column.under}", "dim"))
        table.add_column(to_ascii(head) if ascii_only else head, justify="right", no_wrap=True)
    for line in lines:
        cells = [
            Text.assemble(
                (column.value(line.row) or units.ABSENT, line.styles(index)),
                (f"\n{column.detail(line.row) or ''}", "dim"),
            )
            for index, column in enumerate(columns)
        ]
        table.add_row(*(to_ascii(cell) if ascii_only else cell for cell in (line.name, *cells)))
    return table

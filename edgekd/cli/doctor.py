"""`edgekd doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekd import doctor
from edgekd.cli import display
from edgekd.cli.screen import Screen, shown
from edgekd.doctor import Finding
from edgekd.report.plain import clean
from edgekd.version import __version__

SCHEMA = 1
_MARKS = {"ok": ("+", "green"), "note": ("~", "cyan"), "missing": ("-", "yellow"), "broken": ("!", "bold red")}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@shown("Print what was found as JSON.")
def command(data_dir: Path | None, screen: Screen) -> int:
    """Check this installation: what works, what is missing, what that would give, and how to get it.

    Nothing is changed. The exit code is 1 if something that is installed does not work.
    """
    found = doctor.examine(data_dir)
    broken = any(one.state == "broken" for one in found)
    content = {"schema": SCHEMA, "edgekd": __version__, "verdict": doctor.verdict(found), "ok": not broken}
    display.result(
        screen,
        {**content, "findings": [asdict(one) for one in found]},
        render=lambda console: render(found, console),
        verdict=lambda console: render([one for one in found if one.state == "broken"], console),
    )
    return 1 if broken else 0


def render(findings: Sequence[Finding], console: Console) -> None:
    """Print the verdict, then everything by area."""
    broken = any(one.state == "broken" for one in findings)
    console.print(Text(clean(doctor.verdict(findings)), "bold red" if broken else "bold green"))
    width = max(len(one.name) for one in findings)
    for area, several in groupby(findings, key=lambda one: one.area):
        console.print(Text(f"\n{area}", "bold"))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for one in several:
            mark, style = _MARKS[one.state]
            table.add_row(Text(mark, style), Text(clean(one.name)), Text(clean(one.told)))
            if one.state != "ok":
                for head, text in (("gives", one.gives), ("mend", one.mend)):
                    if text:
                        table.add_row("", "", Text(f"{head}: {clean(text)}", "dim"))
        console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)

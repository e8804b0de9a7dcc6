"""`edgekd report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd import adding
from edgekd.errors import UsageError
from edgekd.report import build, terminal
from edgekd.report.external import add_power


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--add", "results", multiple=True, type=click.Path(path_type=Path), metavar="RESULT.zip",
              help="Complete the run with what a bundle gave on its device; repeat it for several.")  # fmt: skip
@click.option("--power", "readings", multiple=True, metavar="NAME=FILE.csv",
              help="Add what an external power meter read while NAME was measured, lines of `time watts`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables.")
def command(run: Path, results: Sequence[Path], readings: Sequence[str], as_json: bool) -> int:
    """Rebuild report.json and report.html of RUN, a run's folder, from its raw samples."""
    console = Console(stderr=as_json)
    for result in results:
        console.print(adding.add(run, result), soft_wrap=True, markup=False, highlight=False)
    for reading in readings:
        device, equals, file = reading.partition("=")
        if not (device and equals and file):
            raise UsageError(f"--power {reading}: must be NAME=FILE.csv, such as jetson=meter.csv")
        console.print(add_power(run, device, Path(file)), soft_wrap=True, markup=False, highlight=False)
    report = build.write(run)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        terminal.render(report, console)
        console.print(f"\nreport: {run / 'report.html'}", soft_wrap=True, highlight=False)
    return build.exit_code(report)

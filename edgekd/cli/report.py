"""`edgekd report`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from edgekd.report import build, terminal


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables.")
def command(run: Path, as_json: bool) -> int:
    """Rebuild report.json and report.html of RUN, a run's folder, from its raw samples."""
    report = build.write(run)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        console = Console()
        terminal.render(report, console)
        console.print(f"\nreport: {run / 'report.html'}", soft_wrap=True, highlight=False)
    return build.exit_code(report)

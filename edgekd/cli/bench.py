"""`edgekd bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd.benchmark import bench
from edgekd.cli.display import showing
from edgekd.cli.handling import handled
from edgekd.profiles import Handling
from edgekd.report import terminal
from edgekd.stages.measure import Options as Measuring


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="A shipped profile's name or the path of a YAML file.")
@handled
@click.option("--against", type=click.Path(path_type=Path), help="The ONNX file that the others are compared with.")
@click.option(
    "--data", metavar="RECIPE.yaml|SOURCE", help="Real inputs and labels. Default: random inputs, labelled so."
)
@click.option("--quick", is_flag=True, help="A short measurement, for trying things out.")
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path), help="Put the run exactly here. Default: runs/ in the store.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables.")
def command(
    models: Sequence[Path],
    device: str,
    handling: Handling,
    against: Path | None,
    data: str | None,
    quick: bool,
    batch_size: int,
    out: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> int:
    """Measure MODELS, ONNX files with the same inputs, side by side on a device."""
    console = Console(stderr=as_json)
    with showing(console) as show:
        result = bench(
            models, device, handling=handling, against=against, data=data,
            measuring=Measuring(quick=quick, batch_size=batch_size), out=out, data_dir=data_dir, show=show,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result.report, indent=1))
    else:
        terminal.render(dict(result.report), console)
        console.print(f"\nreport: {result.path / 'report.html'}", soft_wrap=True, highlight=False)
    return result.exit_code

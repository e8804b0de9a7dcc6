"""`edgekd bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgekd.benchmark import bench
from edgekd.cli import display
from edgekd.cli.handling import handled
from edgekd.cli.screen import Screen, shown
from edgekd.profiles import Handling
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
@shown("Print report.json instead of tables.")
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
    screen: Screen,
) -> int:
    """Measure MODELS, ONNX files with the same inputs, side by side on a device."""
    with display.working(screen) as show:
        result = bench(
            models, device, handling=handling, against=against, data=data,
            measuring=Measuring(quick=quick, batch_size=batch_size), out=out, data_dir=data_dir, show=show,
        )  # fmt: skip
    display.run(screen, result)
    return result.exit_code

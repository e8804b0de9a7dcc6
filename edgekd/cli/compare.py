"""`edgekd compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd.artifact import write_text
from edgekd.cli import display
from edgekd.cli.baseline import TOLERANCE, as_plain
from edgekd.cli.screen import Screen, shown
from edgekd.cli.summaries import check_target
from edgekd.errors import UsageError
from edgekd.report import drawing, markdown
from edgekd.report.baseline import comparing, plot, table, taking
from edgekd.report.baseline.figures import parse_tolerances
from edgekd.report.baseline.wording import headline


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@TOLERANCE
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="FILE",
              help="Draw what changed: .svg, .png or .pdf.")  # fmt: skip
@click.option(
    "--markdown", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write the tables as Markdown."
)
@shown("Print every change as JSON instead of tables.")
def command(
    runs: Sequence[Path], tolerances: Sequence[str], picture: Path | None, page: Path | None, screen: Screen
) -> int:
    """Say what changed between RUNS, folders of runs: each later one against the first, and what of it is noise."""
    if len(runs) < 2:
        raise UsageError(f"edgekd compare {runs[0]}: name at least two runs")
    given = parse_tolerances(tolerances)
    check_target(picture, "--plot")
    check_target(page, "--markdown")
    if picture and picture.suffix not in drawing.FORMATS:
        raise UsageError(f"--plot {picture}: its name must end in {', '.join(drawing.FORMATS)}")
    first, *later = [taking.take(run) for run in runs]
    names = _names(runs)
    compared = {
        name: comparing.compare(first, one, tolerances=given) for name, one in zip(names[1:], later, strict=True)
    }
    if picture:
        plot.draw(compared, picture)
    if page:
        parts = [
            f"## {markdown.escaped(name)} against {markdown.escaped(names[0])}\n\n{table.in_markdown(one)}\n"
            for name, one in compared.items()
        ]
        write_text(page, "\n".join(parts))

    def render(console: Console) -> None:
        for name, one in compared.items():
            console.print(f"{name} against {names[0]}", style="bold", soft_wrap=True, highlight=False, markup=False)
            table.render(one, console)
            console.print()
        if picture:
            display.lines(console, [f"plot: {picture}"])

    content = {"first": names[0], "runs": {name: as_plain(one) for name, one in compared.items()}}
    brief = [f"{name} against {names[0]}: {headline(one)}" for name, one in compared.items()]
    display.result(screen, content, render, lambda console: display.lines(console, brief))
    return 0


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names where they tell the runs apart, else the paths as they were given."""
    short = [run.absolute().name for run in runs]
    if len(set(short)) == len(runs):
        return short
    given = [str(run) for run in runs]
    if len(set(given)) < len(given):
        raise UsageError("edgekd compare: a run is named twice")
    return given

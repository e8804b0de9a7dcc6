"""`edgekd study`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd import study
from edgekd.cli import display
from edgekd.cli.complaint import complain
from edgekd.cli.screen import Screen, shown
from edgekd.errors import StageError
from edgekd.report.study import table


@click.command()
@click.argument("recipe")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1), help="Trials of each method.")
@click.option("--vary", multiple=True, metavar="KEY=V,V,...",
              help="What methods differ in, such as distill.losses=kd,dkd; repeat it for combinations.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a key of the recipe in all trials; repeat it for several.")  # fmt: skip
@click.option("--margin-pp", default=0.1, show_default=True, type=click.FloatRange(min=0),
              help="Percentage points below which an advantage is not worth having.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Put the study exactly here. Default: runs/ in the store.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@shown("Print results.json instead of a table.")
def command(
    recipe: str,
    seeds: int,
    vary: Sequence[str],
    overrides: Sequence[str],
    margin_pp: float,
    out: Path | None,
    data_dir: Path | None,
    screen: Screen,
) -> int:
    """Say whether the teacher helps: train RECIPE's student with and without it, on several seeds, at equal budget.

    Every trial is kept in the store; an interrupted study goes on where it was.
    """
    with display.working(screen) as show:
        done = study.run(
            recipe, seeds=seeds, vary=vary, overrides=overrides, margin_pp=margin_pp, out=out, data_dir=data_dir,
            show=show,
        )  # fmt: skip

    def render(console: Console) -> None:
        table.render(done.results, console)
        display.lines(console, ["", f"report: {done.path / 'study.html'}"])

    display.result(screen, done.results, render, lambda console: table.verdict(done.results, console))
    if done.failed:
        told = f"{done.failed} trials failed; the others are compared. Run again when the cause is mended"
        return complain("E-STUDY", told, StageError.exit_code)
    return 0

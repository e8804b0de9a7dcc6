"""`edgekd study`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd import study
from edgekd.cli.display import showing
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
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of a table.")
def command(
    recipe: str,
    seeds: int,
    vary: Sequence[str],
    overrides: Sequence[str],
    margin_pp: float,
    out: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> int:
    """Say whether the teacher helps: train RECIPE's student with and without it, on several seeds, at equal budget.

    Every trial is kept in the store; an interrupted study goes on where it was.
    """
    console = Console(stderr=as_json)
    with showing(console) as show:
        done = study.run(
            recipe, seeds=seeds, vary=vary, overrides=overrides, margin_pp=margin_pp, out=out, data_dir=data_dir,
            show=show,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(done.results, indent=1))
    else:
        table.render(dict(done.results), console)
        console.print(f"\nreport: {done.path / 'study.html'}", soft_wrap=True, highlight=False)
    if done.failed:
        raise StageError(f"{done.failed} trials failed; the others are compared. Run again when the cause is mended")
    return 0

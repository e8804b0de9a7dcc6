"""`edgekd search`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from edgekd.cli import display
from edgekd.cli.screen import Screen, shown
from edgekd.errors import UsageError
from edgekd.plan import installed


@click.command()
@click.argument("recipe")
@click.option("--trials", type=click.IntRange(min=1), help="How many in all. Default: search.trials of the recipe.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes on this machine.")
@click.option("--storage", metavar="URL", envvar="EDGEKD_STORAGE",
              help="Where trials are kept; postgresql://... for several machines.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a key of the recipe in all trials; repeat it for several.")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="Put the search exactly here. Default: runs/ in the store."
)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@shown("Print search.json instead of a table.")
def command(
    recipe: str,
    trials: int | None,
    workers: int,
    storage: str | None,
    overrides: Sequence[str],
    out: Path | None,
    data_dir: Path | None,
    screen: Screen,
) -> int:
    """Search what RECIPE's block `search` varies: temperature, losses, learning rate, student, teacher.

    Trials train the student alone, briefly, and are scored on the validation split. Every one is kept: the same command
    goes on where it was, and takes part where others work on the same storage. The best one is left as best.yaml.
    """
    if not installed("optuna"):
        raise UsageError("optuna is not installed, and needed for a search: pip install 'edgekd[search]'")
    search, table = (importlib.import_module(f"edgekd.tuning.{name}") for name in ("search", "table"))
    changes = [*overrides, *([f"search.trials={trials}"] if trials is not None else [])]
    with display.working(screen) as show:
        found = search.run(
            recipe, overrides=changes, workers=workers, storage=storage, out=out, data_dir=data_dir, show=show
        )

    def render(console: Console) -> None:
        table.render(found.results, console)
        display.lines(console, ["", f"best recipe: {found.path / 'best.yaml'}"])

    display.result(screen, found.results, render, lambda console: table.verdict(found.results, console))
    return 0

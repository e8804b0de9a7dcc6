"""`edgekd pipeline`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from edgekd import pipeline
from edgekd.cli import display
from edgekd.cli.handling import handled
from edgekd.cli.screen import Screen, shown
from edgekd.plan import computing
from edgekd.profiles import Handling
from edgekd.recipe import DEFAULT, Recipe
from edgekd.search import budget


@click.command()
@click.argument("recipe", default=DEFAULT)
@click.option("--device", "devices", multiple=True, default=["cpu"], show_default=True, metavar="NAME",
              help="A device to measure on; repeat it for several. See `edgekd device list`.")  # fmt: skip
@handled
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a key of the recipe, such as student.width=8; repeat it for several.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Put the run exactly here. Default: runs/ in the store.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@click.option("--accelerate-config", type=click.Path(path_type=Path), metavar="FILE",
              help="Accelerate's configuration, for training in parts (FSDP, DeepSpeed) under torchrun.")  # fmt: skip
@click.option("--tracking", multiple=True, metavar="NAME[=ADDRESS]",
              help="Follow the run with mlflow or tensorboard, instead of what the recipe says.")  # fmt: skip
@click.option("--plan", "only_plan", is_flag=True, help="Say what is cached, what will run and why; do nothing.")
@shown("Print report.json (or the plan) instead of tables.")
def command(
    recipe: str,
    devices: Sequence[str],
    handling: Handling,
    overrides: Sequence[str],
    out: Path | None,
    data_dir: Path | None,
    accelerate_config: Path | None,
    tracking: Sequence[str],
    only_plan: bool,
    screen: Screen,
) -> int:
    """Run RECIPE, a shipped recipe's name or the path of a YAML file, from teacher to verdict.

    Everything made is kept in the store (.edgekd, or EDGEKD_HOME): a second run makes only what changed, and measures.
    """
    followed = [f"tracking={json.dumps(tracking)}"] if tracking else []
    loaded = Recipe.load(recipe, [*overrides, *followed])
    if only_plan:
        return _plan(loaded, devices, handling, out, data_dir, screen)
    if computing(loaded.compute).rank:  # what it does, the first process tells
        screen = replace(screen, quiet=True)
    with display.working(screen) as show:
        result = budget.run(
            loaded, devices, handling=handling, out=out, data_dir=data_dir, accelerate_config=accelerate_config,
            show=show,
        )  # fmt: skip
    display.run(screen, result)
    return result.exit_code


def _plan(
    recipe: Recipe,
    devices: Sequence[str],
    handling: Handling,
    out: Path | None,
    data_dir: Path | None,
    screen: Screen,
) -> int:
    with display.working(screen) as show:
        prepared = pipeline.prepare(recipe, devices, handling=handling, out=out, data_dir=data_dir, show=show)
        planned = pipeline.plan(prepared)
    rows = [
        {"step": one.step.label, "state": "cached" if one.artifact else "will run", "reason": one.reason}
        for one in planned
    ]
    rows += budget.plan(prepared)
    rows += [
        {"step": f"measure[{name}]", "state": "pending" if place.pending else "will run", "reason": place.told(name)}
        for name, place in prepared.places.items()
    ]
    lines = [f"{row['step']:<24} {row['state']:<9} {row['reason']}" for row in rows]
    cached = sum(row["state"] == "cached" for row in rows)
    display.result(
        screen,
        rows,
        render=lambda console: display.lines(console, lines),
        verdict=lambda console: display.lines(console, [f"{cached} of {len(rows)} steps are cached"]),
    )
    return 0

"""`edgekd recipe`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from edgekd import recipe as recipes
from edgekd.errors import UsageError


@click.group()
def command() -> None:
    """List, show, copy and check recipes."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print names and manuals as JSON.")
def list_(as_json: bool) -> None:
    """List the shipped recipes with the first line of their manuals."""
    manuals = {name: recipes.manual(path) for name, path in recipes.shipped_recipes().items()}
    if as_json:
        click.echo(json.dumps(manuals, indent=1))
        return
    for name, text in manuals.items():
        click.echo(f"{name:<16} {text.splitlines()[0]}")


@command.command()
@click.argument("name", default=recipes.DEFAULT)
@click.option("--resolved", is_flag=True, help="Print every key with its value, defaults too.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key (with --resolved).")
def show(name: str, resolved: bool, overrides: Sequence[str]) -> None:
    """Print a recipe."""
    if overrides and not resolved:
        raise UsageError("--set changes what is resolved: add --resolved")
    if resolved:
        content = recipes.Recipe.load(name, overrides).resolved()
        click.echo(yaml.safe_dump(content, sort_keys=False, default_flow_style=None), nl=False)
        return
    click.echo(recipes.find(name).read_text(encoding="utf-8"), nl=False)


@command.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
def copy(name: str, target: Path) -> None:
    """Copy a shipped recipe to TARGET, a file or a folder, to change it there."""
    click.echo(f"{recipes.copy(name, target)}")


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
def check(names: Sequence[str], overrides: Sequence[str]) -> int:
    """Check recipes and report all their problems at once."""
    failed = False
    for name in names:
        try:
            recipes.Recipe.load(name, overrides)
            click.echo(f"{name}: ok")
        except UsageError as error:
            failed = True
            click.echo(f"error: {error}", err=True)
    return 2 if failed else 0

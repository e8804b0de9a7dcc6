"""`edgekd recipe`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from edgekd import error_codes
from edgekd import recipe as recipes
from edgekd.cli.complaint import complain
from edgekd.cli.screen import Screen, shown
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
@click.argument("name", default=recipes.DEFAULT)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@click.option("--json", "as_json", is_flag=True, help="Print the layers as JSON.")
def layers(name: str, overrides: Sequence[str], data_dir: Path | None, as_json: bool) -> None:
    """List the named layers of a recipe's networks, with what they are given and give for one sample.

    A loss on features takes these names; behind one, ":input" means what the layer is given.
    """
    # The other commands of this group answer at once: they load nothing that reads networks.
    making = importlib.import_module("edgekd.making")
    found = making.layers(recipes.Recipe.load(name, overrides), data_dir)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for role, listed in found.items():
        click.echo(f"{role}" + ("" if listed else ": an ONNX file, of which only the answers are known"))
        for layer in listed:
            given, gives = (" x ".join(map(str, layer[key])) for key in ("given", "shape"))
            click.echo(f"  {layer['name']:<28} {layer['kind']:<20} {given:>14}  ->  {gives}")


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@shown("Print what is wrong with each as JSON.")
def check(names: Sequence[str], overrides: Sequence[str], screen: Screen) -> int:
    """Check recipes, with what they let a search vary, and report all their problems at once."""
    found: dict[str, dict[str, str] | None] = {}
    for name in names:
        try:
            if recipes.Recipe.load(name, overrides).search is not None:
                variations = importlib.import_module("edgekd.tuning.variations")  # which few recipes need
                variations.Variations(variations.written(name, tuple(overrides))).check()
            found[name] = None
        except UsageError as error:
            found[name] = {"code": error_codes.code(error), "message": str(error)}
    if screen.as_json:
        click.echo(json.dumps(found, indent=1))
        return UsageError.exit_code if any(found.values()) else 0
    for name, problem in found.items():
        if problem:
            complain(problem["code"], problem["message"], UsageError.exit_code)
        elif not screen.quiet:
            click.echo(f"{name}: ok")
    return UsageError.exit_code if any(found.values()) else 0

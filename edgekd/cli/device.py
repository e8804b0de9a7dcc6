"""`edgekd device`."""

from __future__ import annotations

import json

import click
import yaml

from edgekd import device, profiles


@click.group()
def command() -> None:
    """List and show device profiles."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print names and descriptions as JSON.")
def list_(as_json: bool) -> None:
    """List the shipped device profiles."""
    found = {name: profiles.load_device(name).description for name in profiles.shipped_devices()}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, description in found.items():
        click.echo(f"{name:<16} {description}")


@command.command()
@click.argument("name")
@click.option("--resolved", is_flag=True, help="Print every key with its value, and the scheme for this processor.")
def show(name: str, resolved: bool) -> None:
    """Print a device profile, a shipped one's name or the path of a YAML file."""
    if resolved:
        profile = profiles.load_device(name)
        content = profile.model_dump(mode="json")
        content["scheme_here"] = device.scheme(profile.quantization).model_dump(mode="json")
        click.echo(yaml.safe_dump(content, sort_keys=False, default_flow_style=None), nl=False)
        return
    click.echo(profiles.find(name).read_text(encoding="utf-8"), nl=False)

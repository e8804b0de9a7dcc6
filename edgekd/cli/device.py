"""`edgekd device`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

import click
import yaml

from edgekd import device, profiles
from edgekd.cli.handling import AT
from edgekd.cli.screen import Screen, shown


@click.group()
def command() -> None:
    """List and show device profiles, and probe devices."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print names and descriptions as JSON.")
def list_(as_json: bool) -> None:
    """List the device profiles, shipped ones and your own."""
    known = profiles.shipped_devices() | profiles.user_devices()
    found = {name: profiles.load_device(name).description for name in known}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, description in found.items():
        click.echo(f"{name:<22} {description}")


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


@command.command()
@click.argument("name")
@AT
@shown("Print what was found as JSON.")
def probe(name: str, at: Sequence[str], screen: Screen) -> int:
    """Tell what the device NAME is, what edgekd can measure there, and what to mend; nothing on it is changed."""
    # The other commands of this group answer at once: they load nothing that talks to devices.
    modules = ("cli.display", "dispatch.placing", "dispatch.probing")
    display, placing, probing = (importlib.import_module(f"edgekd.{module}") for module in modules)
    (profile,) = profiles.load_devices([name], at).values()
    found = placing.probe(name, profile)
    asked = {"backend": profile.backend, "meter": profile.power.meter}
    display.result(
        screen,
        found,
        render=lambda console: probing.render(found, console, **asked),
        verdict=lambda console: probing.verdict(found, console, **asked),
    )
    return 0

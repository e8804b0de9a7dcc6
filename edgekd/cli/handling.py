"""The options of commands that measure devices: how they are reached, and what may be done there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from edgekd.profiles import Handling

AT = click.option(
    "--at", multiple=True, metavar="NAME=USER@HOST",
    help="Where a device is reached over ssh, such as jetson=nvidia@192.168.55.1; repeat it for several.",
)  # fmt: skip
_OPTIONS = (
    AT,
    click.option("--bundle", is_flag=True, help="Measure nothing now: leave a zip for each device, to be run there."),
    click.option("--keep", is_flag=True, help="Leave what was copied to devices over ssh there."),
    click.option(
        "--lock-clocks", is_flag=True,
        help="Let a Jetson's clocks be locked while it is measured (jetson_clocks), and set them back.",
    ),
)  # fmt: skip


def handled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, as one argument `handling`."""

    @wraps(function)
    def command(at: Sequence[str], bundle: bool, keep: bool, lock_clocks: bool, **others: Any) -> Any:
        return function(handling=Handling(at, bundle, keep, lock_clocks), **others)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command

"""What a command was asked to show. Every command that works has these three options.

`--quiet` leaves the verdict and errors, `--verbose` adds why and how long, `--json` makes the result one JSON document.
The result goes to standard output; progress, remarks and errors go to standard error (but for an error under `--json`,
which is the one document then).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click


@dataclass(frozen=True)
class Screen:
    """What was asked to be shown."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


def shown(json_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options, as one argument `screen`.

    Args:
        json_help: what `--json` says of itself.
    """
    options = (
        click.option("-q", "--quiet", is_flag=True, help="Print only the verdict and errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more of what is done, and why."),
        click.option("--json", "as_json", is_flag=True, help=json_help),
    )

    def give(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(quiet: bool, verbose: bool, as_json: bool, **others: Any) -> Any:
            if quiet and verbose:
                raise click.UsageError("--quiet and --verbose exclude each other", click.get_current_context())
            return function(screen=Screen(quiet, verbose, as_json), **others)

        for option in reversed(options):
            command = option(command)
        return command

    return give

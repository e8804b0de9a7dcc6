"""What a command was asked to show. Every command that works has these three options.

`--quiet` leaves the verdict and errors, `--verbose` adds why and how long, `--json` makes the result one JSON document.
The result goes to standard output; progress, remarks and errors go to standard error (but for an error under `--json`,
which is the one document then).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

STDOUT = "-"
"""What stands for the standard output where a file may be named."""


@dataclass(frozen=True)
class Screen:
    """What was asked to be shown."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    json_file: Path | None = None
    """Write the JSON document here, beside what is printed."""


def shown(json_help: str, *, to_file: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options, as one argument `screen`.

    Args:
        json_help: what `--json` says of itself.
        to_file: whether `--json` may be followed by a file.
    """
    kind: dict[str, Any] = (
        {"flag_value": STDOUT, "is_flag": False, "metavar": "[FILE]"} if to_file else {"is_flag": True}
    )
    options = (
        click.option("-q", "--quiet", is_flag=True, help="Print only the verdict and errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more of what is done, and why."),
        click.option("--json", "as_json", help=json_help, **kind),
    )

    def give(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(quiet: bool, verbose: bool, as_json: bool | str | None, **others: Any) -> Any:
            if quiet and verbose:
                raise click.UsageError("--quiet and --verbose exclude each other", click.get_current_context())
            file = Path(as_json) if isinstance(as_json, str) and as_json != STDOUT else None
            return function(screen=Screen(quiet, verbose, bool(as_json) and file is None, file), **others)

        for option in reversed(options):
            command = option(command)
        return command

    return give

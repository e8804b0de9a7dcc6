"""How an error is told: one line that starts with its code, or one JSON document."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekd.log import without_secrets


def complain(code: str, message: str, exit_code: int, *, log: Path | None = None, as_json: bool = False) -> int:
    """Tell an error, and return its exit code.

    Args:
        code: such as "E-DATA" (docs/errors.md).
        log: what the run that failed has logged.
        as_json: print {"error": {"code", "message", "exit_code", "log"}} on standard output.
    """
    message = without_secrets(message)
    if as_json:
        error = {"code": code, "message": message, "exit_code": exit_code, "log": str(log) if log else None}
        click.echo(json.dumps({"error": error}, indent=1))
        return exit_code
    click.echo(f"error[{code}]: {message}", err=True)
    if log is not None:
        click.echo(f"log: {log}", err=True)
    return exit_code

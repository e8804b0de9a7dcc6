"""`edgekd cache`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from edgekd import cleaning
from edgekd.artifact import Store, default_root, open_store
from edgekd.cleaning import Entry
from edgekd.errors import UsageError


@click.group()
def command() -> None:
    """List, verify and clean the store (.edgekd, or EDGEKD_HOME)."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def ls(as_json: bool) -> None:
    """List what is in the store, the newest first."""
    found = list(cleaning.entries(_store()))
    if as_json:
        click.echo(json.dumps(_rows(found), indent=1))
        return
    for entry in found:
        used = datetime.fromtimestamp(entry.used_at).astimezone()
        click.echo(f"{entry.kind:<10} {used:%Y-%m-%d %H:%M} {entry.size_bytes / 1e6:9.2f} MB  {entry.path.name}")
    click.echo(f"{len(found)} entries, {sum(entry.size_bytes for entry in found) / 1e6:.1f} MB in {default_root()}")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print what is corrupted as JSON.")
def verify(as_json: bool) -> int:
    """Check every artifact against its checksums; exit code 3 if one is corrupted (the next run makes it again)."""
    store = _store()
    found = cleaning.problems(store)
    if as_json:
        click.echo(json.dumps({"checked": len(cleaning.artifacts(store)), "corrupted": found}, indent=1))
        return 3 if found else 0
    for name, problem in found.items():
        click.echo(f"corrupted: {name}: {problem}", err=True)
    click.echo(f"{len(cleaning.artifacts(store))} artifacts checked, {len(found)} corrupted")
    return 3 if found else 0


@command.command()
@click.option("--older-than", default=30.0, show_default=True, metavar="DAYS", type=click.FloatRange(min=0),
              help="Remove what nobody used for so many days.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print what went as JSON.")
def gc(older_than: float, dry_run: bool, as_json: bool) -> None:
    """Remove old artifacts and logs, interrupted work, and what was set aside. Runs and their reports stay."""
    store = _store()
    gone = [entry for entry in cleaning.removable(store, older_than) if dry_run or cleaning.remove(store, entry)]
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "removed": _rows(gone)}, indent=1))
        return
    for entry in gone:
        click.echo(f"{'would remove' if dry_run else 'removed'} {entry.kind} {entry.path.name}")
    click.echo(f"{len(gone)} entries, {sum(entry.size_bytes for entry in gone) / 1e6:.1f} MB")


def _rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{"kind": e.kind, "name": e.path.name, "size_bytes": e.size_bytes, "used_at": e.used_at} for e in entries]


def _store() -> Store:
    """Return the store, which is not made just to be looked at."""
    root = default_root()
    if not root.is_dir():
        raise UsageError(f"there is no store {root}; go where one is, or set EDGEKD_HOME")
    return open_store(root)

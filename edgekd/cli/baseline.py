"""`edgekd baseline`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from edgekd.cli import display
from edgekd.cli.screen import Screen, shown
from edgekd.cli.summaries import Summaries, check_target, summarised
from edgekd.errors import UsageError
from edgekd.report.baseline import comparing, snapshot, table, taking, wording
from edgekd.report.baseline.figures import parse_tolerances
from edgekd.report.plain import clean

TOLERANCE = click.option(
    "--tolerance", "tolerances", multiple=True, metavar="FIGURE=AMOUNT",
    help="How much worse a figure may be: accuracy=0.5 (percentage points), speedup=10 (percent); repeat it.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Keep the figures of a run in a file, and check later runs against it."""


def _arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """RUN, a run's folder, and FILE, the baseline."""
    for name in ("file", "run"):
        function = click.argument(name, type=click.Path(path_type=Path))(function)
    return function


@command.command()
@_arguments
@TOLERANCE
@shown("Print the baseline as JSON.")
def write(run: Path, file: Path, tolerances: Sequence[str], screen: Screen) -> int:
    """Keep the figures of RUN in FILE, a JSON file for git.

    A FILE that is there is replaced, but for its tolerances, and what changed is shown.
    """
    given = parse_tolerances(tolerances)
    check_target(file, "FILE")
    old = snapshot.read_old(file)
    found = taking.take(run)
    taking.write_checked(found)
    found = found.model_copy(update={"tolerances": {**(old.tolerances if old else {}), **given}})
    snapshot.write(found, file)
    figures = sum(len(figures) for device in found.devices.values() for figures in device.variants.values())
    told = f"baseline: {file}, {figures} figures of {found.run}"

    def render(console: Console) -> None:
        if old is not None:
            table.render(comparing.compare(old, found), console)
        display.lines(console, [told])

    display.result(screen, found.model_dump(mode="json"), render, lambda console: display.lines(console, [told]))
    return 0


@command.command()
@_arguments
@TOLERANCE
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Check only this device; repeat it.")
@summarised
@shown("Print every change as JSON instead of tables.")
def check(
    run: Path, file: Path, tolerances: Sequence[str], devices: Sequence[str], summaries: Summaries, screen: Screen
) -> int:
    """Check RUN against the baseline FILE: exit code 1 where a figure is worse by more than noise and tolerance."""
    given = parse_tolerances(tolerances)
    before = snapshot.read(file)
    unknown = [name for name in devices if name not in before.devices]
    if unknown:
        raise UsageError(f"--device {unknown[0]}: the baseline has {', '.join(before.devices)}")
    after = taking.take(run)
    found = comparing.compare(before, after, tolerances=given, devices=devices)
    if found.mismatches:
        raise UsageError(_mismatched(run, file, found.mismatches))
    code = exit_code(found)
    summaries.write(wording.cases(found), title="edgekd baseline check", lead=table.in_markdown(found))

    def verdict(console: Console) -> None:
        word, style = {0: ("PASSED", "bold green"), 1: ("FAILED", "bold red"), 4: ("PENDING", "bold yellow")}[code]
        console.print(word, style=style)

    def render(console: Console) -> None:
        table.render(found, console)
        verdict(console)
        if code == 1:
            display.lines(
                console, [f"if the change is meant, write the baseline anew: edgekd baseline write {run} {file}"]
            )

    display.result(screen, {"exit_code": code, **as_plain(found)}, render, verdict)
    return code


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def show(files: Sequence[Path]) -> int:
    """Print the figures that are kept in FILES."""
    console = Console()
    for file in files:
        found = snapshot.read(file)
        console.print(f"{file}: {found.run}", style="bold", soft_wrap=True, highlight=False, markup=False)
        for line in wording.kept(found):
            console.print(f"  {clean(line)}", soft_wrap=True, highlight=False, markup=False)
    return 0


def exit_code(comparison: comparing.Comparison) -> int:
    """1: a figure is worse by more than is allowed, or missing. 4: a device was not reached yet. 0: neither."""
    bad = [change for change in comparison.changes if change.outcome in wording.BAD]
    return 1 if any(not change.pending for change in bad) else 4 if bad else 0


def as_plain(comparison: comparing.Comparison) -> dict[str, Any]:
    """A comparison as JSON takes it; a bound without end is null."""
    content = asdict(comparison)
    for change in content["changes"]:
        if change["ci"]:
            change["ci"] = [bound if abs(bound) < 1e15 else None for bound in change["ci"]]
    return content


def _mismatched(run: Path, file: Path, mismatches: Sequence[str]) -> str:
    return "\n  ".join([
        f"{run} is not a run that {file} is a baseline of:", *mismatches,
        f"If the change is meant, write the baseline anew: edgekd baseline write {run} {file}",
    ])  # fmt: skip

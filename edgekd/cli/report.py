"""`edgekd report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from edgekd import adding
from edgekd.cli import display
from edgekd.cli.screen import Screen, shown
from edgekd.cli.summaries import Summaries, summarised
from edgekd.errors import EdgekdError, UsageError
from edgekd.report import build, pictures, summary
from edgekd.report.external import add_power


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--add", "results", multiple=True, type=click.Path(path_type=Path), metavar="RESULT.zip",
              help="Complete the run with what a bundle gave on its device; repeat it for several.")  # fmt: skip
@click.option("--power", "readings", multiple=True, metavar="NAME=FILE.csv",
              help="Add what an external power meter read while NAME was measured, lines of `time watts`.")  # fmt: skip
@click.option("--plots", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Write every plot of the report into this folder, as PNG and SVG.")  # fmt: skip
@summarised
@shown("Print report.json instead of tables.")
def command(
    run: Path, results: Sequence[Path], readings: Sequence[str], folder: Path | None, summaries: Summaries,
    screen: Screen,
) -> int:  # fmt: skip
    """Rebuild report.json and report.html of RUN, a run's folder, from its raw samples."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--plots {folder} is a file; name a folder")
    pairs = [_pair(reading) for reading in readings]
    told = 0
    try:
        for text in _added(run, results, pairs):
            display.say(screen, text)
            told += 1
    except EdgekdError:
        if told:  # what was added before counts, and the report must say so
            build.write(run)
        raise
    report = build.write(run)
    if folder is not None:
        files = pictures.write(report, folder)
        display.say(screen, f"{len(files) // len(pictures.SUFFIXES)} plots, each as PNG and SVG, in {folder}")
    summaries.write(summary.cases(report), title="edgekd report", lead=summary.in_markdown(report))
    display.report(screen, report, run)
    return build.exit_code(report)


def _pair(reading: str) -> tuple[str, Path]:
    device, equals, file = reading.partition("=")
    if not (device and equals and file):
        raise UsageError(f"--power {reading}: must be NAME=FILE.csv, such as jetson=meter.csv")
    return device, Path(file)


def _added(run: Path, results: Sequence[Path], readings: Sequence[tuple[str, Path]]) -> Iterator[str]:
    """Add one after the other, and yield what was done."""
    yield from (adding.add(run, result) for result in results)
    yield from (add_power(run, device, file) for device, file in readings)

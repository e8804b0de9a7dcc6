"""How it is shown: progress bars on a terminal, plain lines elsewhere, and the results of runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from edgekd import stage
from edgekd.artifact import write_text
from edgekd.cli.screen import Screen
from edgekd.making import Show
from edgekd.pipeline import Result
from edgekd.report import terminal

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LINES_VERBOSE = 5.0


@contextmanager
def working(screen: Screen) -> Iterator[Show]:
    """Yield what a run reports to; standard error shows it."""
    with showing(Console(stderr=True), quiet=screen.quiet, verbose=screen.verbose) as show:
        yield show


def say(screen: Screen, text: str) -> None:
    """Show a line beside the result."""
    if not screen.quiet:
        _line(Console(stderr=True), text)


def result(screen: Screen, content: Any, render: Callable[[Console], None], verdict: Callable[[Console], None]) -> None:
    """Print a result: as JSON, in full, or only its verdict."""
    if screen.json_file is not None:
        write_text(screen.json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")
    if screen.as_json:
        click.echo(json.dumps(content, indent=1, allow_nan=False))
    else:
        (verdict if screen.quiet else render)(Console())


def report(screen: Screen, content: Mapping[str, Any], folder: Path) -> None:
    """Print a run's report."""

    def render(console: Console) -> None:
        terminal.render(content, console)
        lines(console, ["", f"report: {folder / 'report.html'}"])

    result(screen, content, render, lambda console: terminal.verdict(content, console))


def run(screen: Screen, done: Result) -> None:
    """Print what a finished run found."""
    report(screen, done.report, done.path)


def lines(console: Console, texts: Iterable[str]) -> None:
    """Print lines as they are: not wrapped, not coloured."""
    for text in texts:
        _line(console, text)


@contextmanager
def showing(console: Console, *, quiet: bool = False, verbose: bool = False) -> Iterator[Show]:
    """Yield what a run reports to."""
    if quiet:
        yield Show()
        return
    pause = SECONDS_BETWEEN_LINES_VERBOSE if verbose else SECONDS_BETWEEN_LINES
    note = _notes(console) if verbose else Show().note
    if console.is_terminal:
        with _bars(console) as progress:
            yield Show(say=lambda text: _line(progress.console, text), working=_Bar(progress).working, note=note)
    else:
        yield Show(
            say=lambda text: _line(console, text),
            working=lambda title: _now_and_then(console, title, pause),
            note=note,
        )


def _bars(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


class _Bar:
    """One bar for whatever is at work; in each thread, because several devices are measured at once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[int, TaskID] = {}

    def working(self, title: str) -> stage.Progress:
        thread = threading.get_ident()
        if thread in self.tasks:
            self.progress.remove_task(self.tasks[thread])
        task = self.tasks[thread] = self.progress.add_task(title, total=None, text="")

        def update(done: int, total: int, text: str) -> None:
            self.progress.update(task, completed=done, total=total, text=text)

        return update


def _now_and_then(console: Console, title: str, pause: float) -> stage.Progress:
    """Return a progress that prints a line now and then: a log must show that long work is alive."""
    last = time.monotonic()

    def update(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= pause:
            last = time.monotonic()
            _line(console, f"{title:<24} {done}/{total}  {text}")

    return update


def _notes(console: Console) -> Callable[[str, Mapping[str, Any]], None]:
    def note(event: str, fields: Mapping[str, Any]) -> None:
        _line(console, f"  {event}: {', '.join(f'{name} {value}' for name, value in fields.items())}")

    return note


def _line(console: Console, text: str) -> None:
    """Print one line as it is: not wrapped, not coloured."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)

"""What a run looks like: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from edgekd import stage
from edgekd.making import Show

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def showing(console: Console, *, quiet: bool = False) -> Iterator[Show]:
    """Yield what a run reports to."""
    if quiet:
        yield Show()
    elif console.is_terminal:
        with _bars(console) as progress:
            yield Show(say=lambda text: _line(progress.console, text), working=_Bar(progress).working)
    else:
        yield Show(say=lambda text: _line(console, text), working=lambda title: _lines(console, title))


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


def _lines(console: Console, title: str) -> stage.Progress:
    """Return a progress that prints a line now and then: a log must show that long work is alive."""
    last = time.monotonic()

    def update(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            _line(console, f"{title:<24} {done}/{total}  {text}")

    return update


def _line(console: Console, text: str) -> None:
    """Print one line as it is: not wrapped, not coloured."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)

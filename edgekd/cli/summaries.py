"""The options of commands whose result continuous integration shows: `--junit FILE` and `--markdown FILE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from edgekd.artifact import write_text
from edgekd.errors import UsageError
from edgekd.report import junit, markdown
from edgekd.report.cases import Case


@dataclass(frozen=True)
class Summaries:
    """Where to write the cases of a command; None: nowhere."""

    junit: Path | None
    markdown: Path | None

    def write(self, cases: Sequence[Case], *, title: str, lead: str = "") -> None:
        """Write the files that were asked for, each whole or not at all.

        Args:
            lead: Markdown above the tables of cases, taken as it is.
        """
        if self.junit:
            write_text(self.junit, junit.render(cases, title=title))
        if self.markdown:
            write_text(self.markdown, markdown.render(cases, title=title, lead=lead))


_OPTIONS = (
    click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the result as JUnit XML too."),
    click.option(
        "--markdown", type=click.Path(path_type=Path), metavar="FILE",
        help="Write the result as Markdown too, for the summary of a job.",
    ),
)  # fmt: skip


def summarised(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, as one argument `summaries`; that they can be written is checked before any work."""

    @wraps(function)
    def command(junit: Path | None, markdown: Path | None, **others: Any) -> Any:
        check_target(junit, "--junit")
        check_target(markdown, "--markdown")
        return function(summaries=Summaries(junit, markdown), **others)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_target(path: Path | None, option: str) -> None:
    """Refuse a file that could not be written.

    Raises:
        UsageError: with the reason.
    """
    if path is not None and path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it, or name another place")

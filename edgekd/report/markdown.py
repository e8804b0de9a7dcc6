"""Cases as Markdown for the summary of a job (GitHub's step summary) or a comment on a change: what failed comes first.

Names and messages may come from anywhere, so nothing of them is taken for Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekd.report.cases import STATUSES, Case, Status, counted, grouped
from edgekd.report.plain import clean

MARKS: dict[Status, str] = {"passed": "✅", "failed": "❌", "skipped": "⏭️", "error": "⚠️"}
_WORDS: dict[Status, str] = {"passed": "passed", "failed": "failed", "skipped": "skipped", "error": "not checked"}
_WORST_FIRST: tuple[Status, ...] = ("failed", "error", "passed", "skipped")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$!])")
_LONGEST = 1000  # characters of a cell
_MOST = 50_000  # characters of details in all: GitHub refuses a summary above 1 MiB


def render(cases: Sequence[Case], *, title: str, lead: str = "") -> str:
    """Return a section: the count of each status, what did not pass, then all cases of each group, folded.

    Args:
        title: Its heading, plain text.
        lead: Markdown between the count and the tables, such as a table of figures; it is taken as it is.
    """
    count = counted(cases)
    worst: Status = next((status for status in _WORST_FIRST if count[status]), "skipped")
    told = ", ".join(f"{count[status]} {_WORDS[status]}" for status in STATUSES if count[status]) or "nothing to check"
    parts = [f"## {MARKS[worst]} {escaped(title)}", told]
    bad = [case for case in cases if case.status in ("failed", "error")]
    if bad:
        parts.append(table(["", "of", "what", "why"], [[MARKS[c.status], *map(escaped, _cells(c))] for c in bad]))
    parts += [lead] if lead else []
    parts += _details(bad)
    parts += [_all(group, own) for group, own in grouped(cases).items()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; head and cells are Markdown already, without line breaks (`escaped` makes them so)."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def escaped(text: object) -> str:
    """Any text as one line that shows exactly it, in a table too."""
    line = clean(text)
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;"))


def folded(summary: str, content: str) -> str:
    """Return Markdown that is shown on a click; the summary is plain text."""
    shown = re.sub("[<>]", lambda found: {"<": "&lt;", ">": "&gt;"}[found[0]], clean(summary).replace("&", "&amp;"))
    return f"<details><summary>{shown}</summary>\n\n{content.rstrip()}\n\n</details>"


def verbatim(text: str) -> str:
    """Return text as a block of code, whatever is in it."""
    lines = "\n".join(clean(line) for line in text.splitlines())
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
    return f"{fence}text\n{lines}\n{fence}"


def _cells(case: Case) -> tuple[str, str, str]:
    return case.group, case.name, case.message


def _details(cases: Sequence[Case]) -> list[str]:
    found, left = [], _MOST
    for case in cases:
        if case.detail:
            shown = case.detail[:left]
            found.append(folded(f"{case.group}: {case.name}", verbatim(shown)))
            left -= len(shown)
        if left <= 0:
            return [*found, "More details are in the JUnit file."]
    return found


def _all(group: str, cases: Sequence[Case]) -> str:
    rows = [[MARKS[case.status], escaped(case.name), escaped(case.message)] for case in cases]
    return folded(
        f"{group}: {'the check' if len(cases) == 1 else f'all {len(cases)} checks'}",
        table(["", "what", "result"], rows),
    )

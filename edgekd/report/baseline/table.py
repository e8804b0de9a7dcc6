"""What changed as a table: in a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.report import markdown
from edgekd.report.baseline.comparing import Change, Comparison, Outcome
from edgekd.report.baseline.figures import KINDS
from edgekd.report.baseline.wording import MARKS, MEANINGS, by_importance, headline, moved, sentence, values
from edgekd.report.plain import clean, to_ascii

_STYLES: dict[Outcome, str] = {"failed": "bold red", "missing": "bold red", "worse": "yellow", "better": "green"}
_NOTES = 12  # that are shown
_HEAD = ("variant", "figure", "before", "now", "change, interval")


def render(comparison: Comparison, console: Console) -> None:
    """Print what changed, worst first, then what was not compared, then what else is different."""
    ascii_only = not console.encoding.lower().startswith("utf")

    def show(line: str, style: str = "") -> None:
        text = Text(clean(line), style)
        console.print(to_ascii(text) if ascii_only else text, highlight=False, soft_wrap=True)

    for device, changes in _by_device(comparison).items():
        rows = [change for change in changes if change.worsening is not None and change.outcome != "same"]
        show(device, "bold")
        if rows:
            console.print(_table(rows, ascii_only=ascii_only), highlight=False)
        for change in changes:
            if change.worsening is None:
                show(f"{MARKS[change.outcome]} {_who(change)}{sentence(change)}", _STYLES.get(change.outcome, "dim"))
        same = sum(change.outcome == "same" for change in changes)
        if same:
            show(f"= {same} figure{'s are' if same > 1 else ' is'} the same", "dim")
    for note in [*comparison.mismatches, *_shortened(comparison.notes)]:
        show(f"! {note}", "dim")
    show(f"{headline(comparison)}; {legend(comparison)}", "dim")


def legend(comparison: Comparison) -> str:
    """What the intervals are."""
    return f"the intervals hold together with 95 % confidence ({100 * comparison.confidence:.4g} % each)"


def in_markdown(comparison: Comparison) -> str:
    """Return a section for each device: its table, then what else is different."""
    parts = []
    for device, changes in _by_device(comparison).items():
        rows = [
            [
                f"`{MARKS[c.outcome]}`",
                *(markdown.escaped(cell) for cell in (c.variant, *_cells(c))),
                MEANINGS[c.outcome],
            ]
            for c in changes
            if c.outcome != "same"
        ]
        parts.append(f"**{markdown.escaped(device)}**")
        parts.append(markdown.table(["", *_HEAD, "which is"], rows) if rows else "Nothing changed.")
    notes = [f"- {markdown.escaped(note)}" for note in (*comparison.mismatches, *_shortened(comparison.notes))]
    parts += ["Also different:\n\n" + "\n".join(notes)] if notes else []
    return "\n\n".join(part.rstrip() for part in (*parts, f"Here {legend(comparison)}."))


def _by_device(comparison: Comparison) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in by_importance(comparison.changes):
        found.setdefault(change.device, []).append(change)
    return found


def _table(rows: Sequence[Change], *, ascii_only: bool) -> Table:
    table = Table(
        box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for head in _HEAD:
        table.add_column(head, overflow="fold", justify="right" if head in ("before", "now") else "left")
    for change in rows:
        style = _STYLES.get(change.outcome, "")
        cells = [Text(clean(cell), style) for cell in (MARKS[change.outcome], change.variant, *_cells(change))]
        table.add_row(*(to_ascii(cell) if ascii_only else cell for cell in cells))
    return table


def _cells(change: Change) -> tuple[str, str, str, str]:
    figure = KINDS[change.figure].label if change.figure else ""
    return (figure, *values(change), moved(change) or change.why)


def _who(change: Change) -> str:
    parts = (change.variant, KINDS[change.figure].label if change.figure else "")
    told = " ".join(part for part in parts if part)
    return f"{told}: " if told else ""


def _shortened(notes: Sequence[str]) -> list[str]:
    more = len(notes) - _NOTES
    return [*notes[:_NOTES], *([f"and {more} more differences (all of them: --json)"] if more > 0 else [])]

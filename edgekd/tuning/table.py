"""A search in a terminal: the answer, the best trials, and which values matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edgekd.report.plain import clean
from edgekd.tuning.variations import named, told

SHOWN = 10


def render(results: Mapping[str, Any], console: Console) -> None:
    """Print a search."""
    counts = results["counts"]
    trials = {row["number"]: row for row in results["trials"]}
    best, first = trials[results["best"]], trials.get(results["as_it_is"])
    console.print()
    verdict(results, console)
    console.print(
        f"{len(trials)} trials of {results['epochs']} epochs: {counts['done']} done, {counts['stopped']} stopped early "
        f"or not trained, {counts['failed']} failed\n",
        highlight=False,
        style="dim",
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("trial", "validation", "MACs", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")
    names = named({path: None for row in results["trials"] for path in row["values"]})
    done = [row for row in results["trials"] if row["validation"] is not None]
    ranked = sorted(done, key=lambda row: -row["validation"])[:SHOWN]
    for row in ranked + ([first] if first and first not in ranked else []):
        values = {names[path]: value for path, value in row["values"].items()}
        text = "the recipe as it is" if row["as_it_is"] else clean(told(values))
        figures = (f"{row['number']}", f"{row['validation']:.4f}", f"{row['macs']:,}", f"{row['parameters']:,}")
        table.add_row(*figures, text, style="bold" if row is best else None)
    console.print(table, highlight=False)
    importances = results["importances"]
    shares = ", ".join(f"{path} {share:.0%}" for path, share in (importances["shares"] or {}).items())
    console.print(f"\nwhat matters: {clean(shares or importances['why'])}", highlight=False, soft_wrap=True)


def verdict(results: Mapping[str, Any], console: Console) -> None:
    """Print the best trial, and whether it is better than the recipe as it is."""
    trials = {row["number"]: row for row in results["trials"]}
    told = headline(trials[results["best"]], trials.get(results["as_it_is"]))
    console.print(f"[bold]{told}[/] {clean(results['comparison']['text'])}", highlight=False)


def headline(best: Mapping[str, Any], first: Mapping[str, Any] | None) -> str:
    """Return the answer in one sentence."""
    if best["as_it_is"]:
        return f"The recipe as it is, validation {best['validation']:.4f}:"
    own = f" (the recipe as it is: {first['validation']:.4f})" if first else ""
    return f"Trial {best['number']}, validation {best['validation']:.4f}{own}:"

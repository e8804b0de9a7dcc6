"""A study's results in a terminal and as CSV: one row per method, the baseline first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edgekd.report import units
from edgekd.report.columns import Column, Line, Row, fitted
from edgekd.report.plain import clean
from edgekd.report.study.wording import STATUS, confidence, grounds, how, networks, pp, signed
from edgekd.report.terminal import MARKS, STYLES, show

_INDENT = 2
_CSV_COLUMNS = (
    *("method", "verdict", "why", "seeds", "mean", "std", "difference_pp", "ci_low_pp", "ci_high_pp"),
    *("verdict_ci_low_pp", "verdict_ci_high_pp", "wins", "ties", "losses", "seconds", "changes"),
)

Results = Mapping[str, Any]


def csv_text(results: Results) -> str:
    """The table as CSV: scores are fractions, differences percentage points; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerow(_csv_row(results["baseline"]))
    writer.writerows(_csv_row(row) for row in results["methods"])
    return text.getvalue()


def _csv_row(row: Row) -> dict[str, Any]:
    low, high = row.get("ci_pp") or (None, None)
    verdict_low, verdict_high = row.get("verdict_ci_pp") or (None, None)
    changes = "; ".join(f"{key}={json.dumps(value)}" for key, value in row.get("changes", {}).items())
    return {
        **{key: row.get(key) for key in _CSV_COLUMNS},
        "method": clean(row["name"]),
        "seeds": " ".join(map(str, row.get("seeds", ()))),
        "ci_low_pp": low,
        "ci_high_pp": high,
        "verdict_ci_low_pp": verdict_low,
        "verdict_ci_high_pp": verdict_high,
        "changes": changes,
    }


def render(results: Results, console: Console) -> None:
    """Print a study: the answer, the table, and what to know about it."""
    ascii_only = not console.encoding.lower().startswith("utf")
    show(Text(results["headline"], "bold"), console)
    console.print()
    lines = map(_line, (results["baseline"], *results["methods"]))
    table = fitted("method", _columns(results), lines, console, ascii_only=ascii_only, indent=_INDENT)
    console.print(Padding(table, (0, 0, 0, _INDENT), expand=False), highlight=False)
    console.print()
    _show_grounds(results, console)
    for remark in results["remarks"]:
        show(Text.assemble(("! ", "bold yellow"), remark), console, _INDENT)
    for line in (how(results), networks(results)):
        show(Text(line, "dim"), console, _INDENT)


def verdict(results: Results, console: Console) -> None:
    """Print the answer and what each verdict rests on."""
    show(Text(results["headline"], "bold"), console)
    _show_grounds(results, console)


def _show_grounds(results: Results, console: Console) -> None:
    for found, why, names in grounds(results):
        show(Text.assemble((_verdict(found), STYLES[STATUS[found]]), f" {', '.join(names)}: {why}"), console, _INDENT)


def _columns(results: Results) -> tuple[Column, ...]:
    return (
        Column(
            "verdict", f"{confidence(results['verdict_confidence'])} CI",
            lambda row: _verdict(row["verdict"]) if "verdict" in row else "baseline",
            lambda row: _span(row.get("verdict_ci_pp")),
        ),
        Column(
            "difference pp", "95 % CI",
            lambda row: None if row.get("difference_pp") is None else signed(row["difference_pp"]),
            lambda row: _span(row.get("ci_pp")),
        ),
        Column(
            results["metric"], "± std",
            lambda row: None if row["mean"] is None else units.percent(row["mean"]),
            lambda row: None if row["std"] is None else f"± {100 * row['std']:.2f}",
        ),
        Column(
            "wins", "of seeds",
            lambda row: str(row["wins"]) if row.get("seeds") else None,
            lambda row: f"of {len(row['seeds'])}" if row.get("seeds") else None,
            gives_way=1,
        ),
        Column(
            "time", "per trial",
            lambda row: None if row["seconds"] is None else units.duration(1e9 * row["seconds"]),
            lambda _: None,
            gives_way=2,
        ),
    )  # fmt: skip


def _verdict(verdict: str) -> str:
    return f"{MARKS[STATUS[verdict]]} {verdict}"


def _span(ci: tuple[float, float] | None) -> str | None:
    return None if ci is None else f"{pp(ci[0])}..{pp(ci[1])}"


def _line(row: Row) -> Line:
    style = STYLES[STATUS[row["verdict"]]] if "verdict" in row else "bold"
    return Line(Text.assemble((clean(row["name"]), "bold"), "\n"), lambda index: "" if index else style, row)

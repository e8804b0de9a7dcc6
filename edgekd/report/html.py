"""report.html: one self-contained page of a report. It makes no network request, and says so to the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from edgekd.report import (
    budget,
    classes,
    gain,
    learning,
    palette,
    repairs,
    roles,
    simulation,
    sparse,
    units,
    views,
    wording,
)
from edgekd.report.precisions import executed

_HERE = Path(__file__).resolve().parent
_ASSETS = ("report.css", "chart.umd.min.js", "report.js")


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report, with styles, scripts and the whole report.json inside."""
    return _template().render(
        report=report,
        data=embedded(report),
        lessons=learning.lessons(report),
        choice=learning.choice(report),
        budget=budget,
        repairs=repairs.sentences(report),
        classes=classes,
        gain=gain,
        palette=palette,
        roles=roles,
        simulation=simulation,
        sparse=sparse,
        views=views,
        wording=wording,
        executed=executed,
        assets={name: Markup(_asset(name)) for name in _ASSETS},  # noqa: S704 - our own files
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": units.duration,
        "size": units.size,
        "quantity": units.quantity,
        "energy": units.energy,
        "power": units.power,
        "times": units.times,
        "percent": units.percent,
        "number": units.number,
        "pp": lambda value: f"{value + 0.0:+.2f}",
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    return environment.get_template("template.html.jinja")


def embedded(report: Mapping[str, Any]) -> Markup:
    """The report as JSON that may stand in a script element: no character in it can end the element or open a tag."""
    text = json.dumps(report, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - escaped just above


def _asset(name: str) -> str:
    """A file to inline, without its reference to a source map (which a browser's tools would try to fetch)."""
    text = (_HERE / "assets" / name).read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("//# sourceMappingURL="))

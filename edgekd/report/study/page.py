"""study.html, one self-contained page without a script, and study.svg, its forest plot alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgekd.report import units
from edgekd.report.plain import clean
from edgekd.report.study import forest, wording
from edgekd.report.study.comparing import BEATS, DOES_NOT_BEAT, INCONCLUSIVE
from edgekd.report.terminal import MARKS
from edgekd.report.views import flat

_HERE = Path(__file__).resolve().parent
_CSS = _HERE.parent / "assets" / "report.css"


def render(results: Mapping[str, Any]) -> str:
    """Return the page of a study's results."""
    counts = {
        verdict: sum(row["verdict"] == verdict for row in results["methods"])
        for verdict in (BEATS, DOES_NOT_BEAT, INCONCLUSIVE)
    }
    overall = next((verdict for verdict in (BEATS, INCONCLUSIVE, DOES_NOT_BEAT) if counts[verdict]), INCONCLUSIVE)
    told = ("command", "recipe")  # shown as text of their own
    return _environment().get_template("page.html.jinja").render(
        **_shared(results),
        counts=counts,
        overall=wording.STATUS[overall],
        css=_file(_CSS),
        forest_css=_file(_HERE / "forest.css"),
        plots=[forest.plot(results, layout) for layout in (forest.WIDE, forest.NARROW)],
        grounds=wording.grounds(results),
        how=wording.how(results),
        provenance={key: value for key, value in results["provenance"].items() if key not in told},
        status=wording.STATUS,
        marks=MARKS,
        flat=flat,
        confidence=wording.confidence,
    )  # fmt: skip


def svg(results: Mapping[str, Any]) -> str:
    """Return the forest plot as a file of its own; it follows the light or dark scheme of whoever shows it."""
    light, dark = (Markup(colours) for colours in _colours())  # noqa: S704 - from our own file
    return _environment().get_template("study.svg.jinja").render(
        **_shared(results),
        plot=forest.plot(results, forest.WIDE),
        css=_file(_HERE / "forest.css"),
        light=light,
        dark=dark,
        title=clean(results["recipe"] or "study"),
    )  # fmt: skip


def changes(content: Mapping[str, Any]) -> str:
    """What a method changes in the recipe: "distill.losses=kd, student.epochs=3"."""
    shown = []
    for key, value in content.items():
        values = value if isinstance(value, list) else [value]
        told = ",".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values)
        shown.append(clean(f"{key}={told}"))
    return ", ".join(shown)


def unbroken(text: str) -> str:
    """A sentence whose figures no line break parts: "0.42 pp [0.20, 0.64]"."""
    return re.sub(r"(?<=\d) pp \[(\S+) (\S+\])", "\u00a0pp [\\1\u00a0\\2", text)


def _shared(results: Mapping[str, Any]) -> dict[str, Any]:
    level = wording.confidence(results["verdict_confidence"])
    thin = f", thin lines {level} intervals, which the verdicts rest on" if level != "95 %" else ""
    legend = (
        f"Thick lines are 95 % intervals{thin}; dots below are single seeds; "
        f"the band ends at the margin of {results['margin_pp']:g} pp"
    )
    return {
        "results": results,
        "baseline": wording.rival(results),
        "legend": legend,
        "description": f"{results['headline']} One row per method, best first. {legend}.",
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "clean": clean,
        "duration": units.duration,
        "quantity": units.quantity,
        "pp": wording.pp,
        "signed": wording.signed,
        "share": lambda value: units.ABSENT if value is None else units.percent(value),
        "changes": changes,
        "unbroken": unbroken,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    return environment


def _colours() -> tuple[str, str]:
    """The light and the dark variables of the report's style sheet."""
    light, dark = re.findall(r":root \{([^}]*)\}", _CSS.read_text(encoding="utf-8"))[:2]
    return " ".join(light.split()), " ".join(dark.split())


def _file(path: Path) -> Markup:
    return Markup(path.read_text(encoding="utf-8"))  # noqa: S704 - our own files

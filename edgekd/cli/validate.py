"""`edgekd validate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from edgekd.acceptance import validate
from edgekd.cli import display
from edgekd.cli.handling import handled
from edgekd.cli.screen import Screen, shown
from edgekd.cli.summaries import Summaries, check_target, summarised
from edgekd.errors import UsageError
from edgekd.profiles import Handling
from edgekd.recipe import Gates
from edgekd.report import markdown
from edgekd.report.plain import clean
from edgekd.validation.results import bisection, cases, figure, name, told, verdict

_STYLES = {"passed": "bold green", "failed": "bold red"}


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", required=True, metavar="REFERENCE",
              help="The ONNX file that the models must do the work of, or a recipe: its teacher.")  # fmt: skip
@click.option("--data", metavar="RECIPE|FILE.npz|FOLDER",
              help="Real inputs, and labels for accuracy. Default: random inputs, labelled so.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), help="How many at most. Default: all of the test split.")
@click.option("--max-drop-pp", type=click.FloatRange(min=0, max=100),
              help="Percentage points of accuracy that may be lost.")  # fmt: skip
@click.option("--tolerance", "tolerances", multiple=True, metavar="PRECISION|NAME=VALUE|off",
              help="How far answers may differ. Default: by the model's precision; repeat it for several.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8", "int4"]),
              help="What the models are to be in; another one fails.")  # fmt: skip
@click.option("--max-size-mb", type=click.FloatRange(min=0, min_open=True), help="Of a file with its weights.")
@click.option("--device", help="A profile's name or file. Default: ONNX Runtime on this machine.")
@click.option("--min-speedup", type=click.FloatRange(min=0, min_open=True),
              help="Measure latency too: how many times faster than the reference.")  # fmt: skip
@click.option("--max-p50-ms", type=click.FloatRange(min=0, min_open=True), help="Measure latency too: its median.")
@click.option(
    "--max-p99-ms", type=click.FloatRange(min=0, min_open=True), help="Measure latency too: its 99th percentile."
)
@click.option("--quick", is_flag=True, help="A short measurement of latency.")
@handled
@click.option("--bisect", is_flag=True, help="Find the first node that departs, where the answers do.")
@summarised
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@shown("Print JSON instead of text, or write it into FILE.", to_file=True)
def command(
    models: Sequence[Path],
    against: str,
    data: str | None,
    samples: int | None,
    max_drop_pp: float | None,
    tolerances: Sequence[str],
    precision: str | None,
    max_size_mb: float | None,
    device: str | None,
    min_speedup: float | None,
    max_p50_ms: float | None,
    max_p99_ms: float | None,
    quick: bool,
    handling: Handling,
    bisect: bool,
    summaries: Summaries,
    data_dir: Path | None,
    screen: Screen,
) -> int:
    """Check MODELS, ONNX files, before they are shipped: each is sound, and does what its reference does."""
    _check_json(screen.json_file)
    gates = Gates(max_size_mb=max_size_mb, min_speedup=min_speedup, max_p50_ms=max_p50_ms, max_p99_ms=max_p99_ms)
    with display.working(screen) as show:
        found = validate(
            models, against, data=data, samples=samples, tolerances=tolerances, precision=precision,
            max_drop_pp=max_drop_pp, gates=gates, device=device, handling=handling, bisect=bisect, quick=quick,
            data_dir=data_dir, show=show,
        )  # fmt: skip
    lead = markdown.escaped(f"Compared {verdict(found.content)}.")
    summaries.write(cases(found.content), title="edgekd validate", lead=lead)
    display.result(
        screen, found.content, lambda console: render(found.content, console),
        lambda console: render_verdict(found.content, console),
    )  # fmt: skip
    return found.exit_code


def _check_json(path: Path | None) -> None:
    """Refuse a file that could not be written, or is a model: `--json model.onnx` takes what follows it."""
    check_target(path, "--json")
    if path is not None and path.suffix == ".onnx":
        raise UsageError(f"--json {path} would write over a model; name another file, or put --json at the end")


def render_verdict(found: Mapping[str, Any], console: Console) -> None:
    """Print a line for each model, and what failed."""
    for model in found["models"]:
        _head(model, console)
        for check in model["checks"]:
            if check["fails"]:
                display.lines(console, [clean(f"  x {name(check)} {_word(check)}: {told(check)}")])


def render(found: Mapping[str, Any], console: Console) -> None:
    """Print a validation: for each model the verdict, what failed and what to do, then what else is known."""

    def line(text: str, style: str | None = None) -> None:
        console.print(clean(text), style=style, soft_wrap=True, markup=False, highlight=False)

    for model in found["models"]:
        _head(model, console)
        line(f"  {verdict(found)}", None if found["inputs"] != "random" else "yellow")
        if model["same_network"] is False:
            line("  another network than its reference: differences are told, and have no limits", "yellow")
        for check in model["checks"]:
            if check["fails"]:
                _failure(check, line)
        for text in bisection(model["bisection"]) if model["bisection"] else ():
            line(f"  {text}")
        _rest(model["checks"], line)


def _head(model: Mapping[str, Any], console: Console) -> None:
    text = f"{model['status'].upper()}  {model['model']}  {model['precision'] or ''}"
    style = _STYLES[model["status"]]
    console.print(clean(text), style=style, soft_wrap=True, markup=False, highlight=False)


def _word(check: Mapping[str, Any]) -> str:
    return str(check["status"]).replace("_", " ")


def _failure(check: Mapping[str, Any], line: Callable[..., None]) -> None:
    line(f"  x {name(check)} {_word(check)}: {told(check)}", "red")
    if check["remedy"]:
        line(f"      {check['remedy']}")


def _rest(checks: Sequence[Mapping[str, Any]], line: Callable[..., None]) -> None:
    """Print what passed with its figures, and why other checks were not made, each reason once."""
    passed = [check for check in checks if check["status"] == "passed"]
    shown = [check for check in passed if check["limit"] is not None and figure(check)]
    for check in shown:
        line(f"    {name(check)}: {figure(check)}")
    plain = [check["id"] for check in passed if check not in shown]
    if plain:
        line(f"    passed too: {', '.join(dict.fromkeys(plain))}", "dim")
    reasons: dict[str, list[str]] = {}
    for check in checks:
        if check["status"] in ("skipped", "not_measured") and not check["fails"]:
            value = figure(check)
            reason = f"{check['message']}{f': {value}' if value else ''}"
            reasons.setdefault(f"{_word(check)}: {reason}", []).append(name(check))
    for reason, names in reasons.items():
        line(f"    {', '.join(dict.fromkeys(names))} {reason}", "dim")

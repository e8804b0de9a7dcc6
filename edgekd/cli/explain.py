"""`edgekd explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from edgekd.cli import display
from edgekd.cli.handling import AT
from edgekd.cli.screen import Screen, shown
from edgekd.explanation import explain
from edgekd.profiles import Handling
from edgekd.report import units
from edgekd.report.plain import clean

_LAYERS = 10
_NODES = 4
_NOTHING = "Nothing was found that keeps this model from being faster here."


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="A shipped profile's name or the path of a YAML file.")
@AT
@click.option("--against", type=click.Path(path_type=Path), help="The float ONNX file that MODEL was quantized from.")
@click.option(
    "--data", metavar="RECIPE.yaml|SOURCE",
    help="Real inputs: a recipe, a data source, or an .npz with an array for each input. Default: random inputs.",
)  # fmt: skip
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="EDGEKD_DATA", help="Where data sets lie.")
@shown("Print JSON instead of tables.")
def command(
    model: Path,
    device: str,
    at: Sequence[str],
    against: Path | None,
    data: str | None,
    batch_size: int,
    data_dir: Path | None,
    screen: Screen,
) -> int:
    """Say why MODEL, an ONNX file, is as slow or as inexact as it is on a device, layer by layer."""
    with display.working(screen) as show:
        found = explain(
            model, device, handling=Handling(at), against=against, data=data, batch_size=batch_size,
            data_dir=data_dir, show=show,
        )  # fmt: skip
    display.result(screen, found, lambda console: render(found, console), lambda console: verdict(found, console))
    return 0


def render(found: Mapping[str, Any], console: Console) -> None:
    """Print an explanation: what ran, where the time goes, and what was found."""
    for line in _summary(found):
        console.print(clean(line), highlight=False, soft_wrap=True, markup=False)
    console.print(_layers(found))
    for number, finding in enumerate(found["findings"], 1):
        console.print(f"\n{number}. {_head(finding)}", style="bold", highlight=False, soft_wrap=True)
        for line in (f"{_sentence(finding['text'])}", *_where(finding["where"]), f"Mend: {finding['mend']}."):
            console.print(f"   {clean(line)}", highlight=False, soft_wrap=True, markup=False)
    if not found["findings"]:
        console.print(_NOTHING, highlight=False)


def verdict(found: Mapping[str, Any], console: Console) -> None:
    """Print what was found, a line each."""
    for line in [_head(finding) for finding in found["findings"]] or [_NOTHING]:
        console.print(clean(line), highlight=False, soft_wrap=True, markup=False)


def _head(finding: Mapping[str, Any]) -> str:
    cost = finding["time_share"]
    told = f"{cost:.0%} of the layers' time" if cost is not None else finding["reason"]
    return f"{finding['cause']}: {told}"


def _summary(found: Mapping[str, Any]) -> list[str]:
    runtime, latency, roofline = found["runtime"], found["latency"], found["roofline"]
    inputs = "random inputs" if found["inputs"] == "random" else f"inputs of {found['inputs']}"
    lines = [f"{found['model']} on {found['device']} ({runtime['name']} {runtime['version']}, {inputs})"]
    lines += [f"SIMULATED: {reason}" for reason in found["simulated"]]
    p50 = f"p50 {units.duration(latency['p50_ns'])}"
    if latency["speedup"] is not None:
        p50 += f"; its float origin {units.duration(latency['float_p50_ns'])}: {units.times(latency['speedup'])}"
    lines.append(p50)
    for precision, part in found["precision"].items():
        time = "no time" if part["time_share"] is None else f"{part['time_share']:.0%} of the time"
        lines.append(f"{part['layers']} computing layers in {precision}: {time}")
    for precision, peak in roofline["peak_macs_per_s"].items():
        share = roofline["share"][precision]
        reached = "" if share is None else f"; the model reaches {share:.0%} of that"
        lines.append(f"measured peak in {precision}: {peak / 1e9:.1f} GMAC/s, a benchmark beside it{reached}")
    if roofline["reason"]:
        lines.append(f"peak: {roofline['reason']}")
    if found["times_reason"]:
        lines.append(f"times of layers: {found['times_reason']}")
    return lines


def _layers(found: Mapping[str, Any]) -> Table:
    """Return the slowest layers, with the SQNR of those that were compared."""
    slowest = sorted(found["layers"], key=lambda layer: layer["share"] or 0.0, reverse=True)[:_LAYERS]
    table = Table(title=f"The {len(slowest)} slowest of {len(found['layers'])} executed layers", title_justify="left")
    for head in ("layer", "type", "precision"):
        table.add_column(head)
    for head in ("median", "share", "SQNR"):
        table.add_column(head, justify="right")
    for layer in slowest:
        sqnr = next((found["sqnr_db"][node] for node in layer["nodes"] if found["sqnr_db"].get(node) is not None), None)
        table.add_row(
            clean(layer["name"]), clean(layer["type"]), clean(layer["precision"]),
            "–" if layer["median_ns"] is None else units.duration(layer["median_ns"]),
            "–" if layer["share"] is None else f"{layer['share']:.1%}",
            "–" if sqnr is None or not layer["computes"] else f"{sqnr:.1f} dB",
        )  # fmt: skip
    return table


def _where(nodes: Sequence[str]) -> list[str]:
    if not nodes:
        return []
    more = f" and {len(nodes) - _NODES} more" if len(nodes) > _NODES else ""
    return [f"Where: {', '.join(nodes[:_NODES])}{more}"]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."

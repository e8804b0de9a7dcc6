"""The report in a terminal: the verdict first, then what it rests on. Reads well at 80 columns and in a CI log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edgekd.report import gain, learning, units
from edgekd.report.plain import clean, to_ascii
from edgekd.report.table import variants_table

STYLES = {"passed": "bold green", "failed": "bold red", "not_measured": "bold yellow"}
WORDS = {"passed": "PASSED", "failed": "FAILED", "not_measured": "NOT MEASURED"}
MARKS = {"passed": "✓", "failed": "✗", "not_measured": "?"}


def render(report: Mapping[str, Any], console: Console) -> None:
    """Print a report: per device the verdict, its gates, the table of variants, and what to know about it."""
    ascii_only = not console.encoding.lower().startswith("utf")

    def show(text: Text, indent: int = 0) -> None:
        for line in (to_ascii(text) if ascii_only else text).wrap(console, console.width - indent):
            line.rstrip()
            line.pad_left(indent)
            console.print(line, highlight=False, no_wrap=True)

    for name, device in report["devices"].items():
        show(_headline(name, device))
        for line in _grounds(device["verdict"]):
            show(line, indent=2)
        console.print()
        if any(variant["latency_ns"] or variant["samples"] is not None for variant in device["variants"].values()):
            table = variants_table(report, device, console, ascii_only=ascii_only, indent=2)
            console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)
            console.print()
            for line in _notes(report, device):
                show(line, indent=2)
            console.print()
    choice = learning.choice(report)
    if choice:
        show(Text(clean(choice.sentence), "dim"))


def _headline(name: str, device: Mapping[str, Any]) -> Text:
    """One line that answers: did it pass, on what, and which variant to use."""
    verdict = device["verdict"]
    status = verdict["status"]
    line = Text.assemble((f"{MARKS[status]} {WORDS[status]}", STYLES[status]), "  ", (clean(name), "bold"), "  ")
    chosen = verdict["recommended"]
    if chosen is None:
        best = verdict["best"]
        return line.append(f"no variant to recommend{f'; best so far: {clean(best)}' if best else ''}")
    variant = device["variants"][chosen]
    facts = []
    if variant["speedup"] is not None:
        faster = variant["speedup"] >= 1
        facts.append(f"{units.times(variant['speedup'])} {'faster' if faster else 'the speed'}")
    if variant["drop_pp"] is not None:
        facts.append(f"{_drop(variant['drop_pp'])}")
    if variant["size_bytes"]:
        facts.append(units.size(variant["size_bytes"]))
    return line.append("use ").append(clean(chosen), "bold").append(f": {', '.join(facts)}" if facts else "")


def _drop(drop_pp: float) -> str:
    """A drop in words; a negative one is a gain."""
    if abs(drop_pp) < 0.005:
        return "no accuracy lost"
    return f"{drop_pp:.2f} pp lost" if drop_pp > 0 else f"{-drop_pp:.2f} pp gained"


def _grounds(verdict: Mapping[str, Any]) -> list[Text]:
    """The gates with their limits, and why this variant (or none)."""
    lines = []
    if verdict["best"] is not None:
        for gate in verdict["gates"]:
            where = " on validation" if gate["split"] == "validation" else ""
            mark = (MARKS[gate["status"]], STYLES[gate["status"]])
            lines.append(Text.assemble(mark, f" {clean(gate['reason'])}{where}"))
    return [*lines, Text(clean(verdict["why"]), "dim")]


def _notes(report: Mapping[str, Any], device: Mapping[str, Any]) -> list[Text]:
    """Why the other candidates were not chosen, then everything a reader must know to trust the table."""
    verdict = device["verdict"]
    lines = [
        Text.assemble((clean(candidate["name"]), "bold"), f": {clean(candidate['reason'])}")
        for candidate in verdict["candidates"]
        if candidate["status"] in ("passed", "missed", "error")
    ]
    lines += [Text.assemble(("! ", "bold yellow"), clean(remark)) for remark in verdict["remarks"]]
    worth = gain.sentence(device)
    lines += [Text(f"{worth} (one seed; `edgekd study` tells more)")] if worth else []
    lines += [Text(clean(line), "dim") for line in (*_noise(device), *_absent(device), _conditions(report, device))]
    return lines


def _noise(device: Mapping[str, Any]) -> list[str]:
    floor = device["noise_floor"]
    if not floor:
        return []
    ratio = f"{floor['ratio']:.3f}x {units.interval(floor['ci'], decimals=3)}"
    return [f"noise floor {floor['floor']:.1%}: {floor['of']} timed against itself gave {ratio}"]


def _absent(device: Mapping[str, Any]) -> list[str]:
    """One line per figure that is missing, with the reason (each reason once)."""
    lines: list[str] = []
    for key, label in (("accuracy", "accuracy"), ("latency_ns", "latency"), ("energy_j", "energy")):
        for variant in device["variants"].values():
            reason = variant["energy_reason"] if key == "energy_j" else variant["reasons"].get(key)
            line = f"{label} not measured: {reason}"
            if reason and reason != variant["error"] and line not in lines:
                lines.append(line)
    return lines


def _conditions(report: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    runtime = device["runtime"] or {}
    cores = ", ".join(str(core) for core in device["cores"] or []) or "not pinned"
    inputs = "random inputs" if report["inputs"] == "random" else "real inputs"
    return f"{runtime.get('name')} {runtime.get('version')}, batch {device['batch_size']}, core {cores}, {inputs}"

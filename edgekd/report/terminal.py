"""The report in a terminal: the verdict first, then what it rests on. Reads well at 80 columns and in a CI log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edgekd.report import budget, gain, learning, repairs, sparse, units, views, wording
from edgekd.report.plain import clean, to_ascii
from edgekd.report.simulation import notices
from edgekd.report.table import variants_table

STYLES = {"passed": "bold green", "failed": "bold red", "not_measured": "bold yellow"}
WORDS = {"passed": "PASSED", "failed": "FAILED", "not_measured": "NOT MEASURED"}
ABSENT = {"pending": "PENDING", "unreachable": "NOT REACHED"}
MARKS = {"passed": "✓", "failed": "✗", "not_measured": "?"}


def render(report: Mapping[str, Any], console: Console) -> None:
    """Print a report: per device the verdict, its gates, the table of variants, and what to know about it."""
    ascii_only = not console.encoding.lower().startswith("utf")
    for name, device in report["devices"].items():
        _show_verdict(name, device, console)
        console.print()
        if any(variant["latency_ns"] or variant["samples"] is not None for variant in device["variants"].values()):
            table = variants_table(report, device, console, ascii_only=ascii_only, indent=2)
            console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)
            console.print()
            for line in _notes(report, device):
                show(line, console, indent=2)
            console.print()
    choice = learning.choice(report)
    if choice:
        show(Text(clean(choice.sentence), "dim"), console)
    for point, found in (report.get("budget") or {"points": {}})["points"].items():
        show(Text(clean(f"{point}, as a recipe: {budget.recipe_line(found)}"), "dim"), console)
    for sentence in repairs.sentences(report):
        show(Text(clean(sentence), "dim"), console)


def verdict(report: Mapping[str, Any], console: Console) -> None:
    """Print per device whether it passed, what to use, and its gates."""
    for name, device in report["devices"].items():
        _show_verdict(name, device, console)


def show(text: Text, console: Console, indent: int = 0) -> None:
    """Print a text wrapped and indented, in ASCII where the console takes nothing else."""
    ascii_only = not console.encoding.lower().startswith("utf")
    for line in (to_ascii(text) if ascii_only else text).wrap(console, console.width - indent):
        line.rstrip()
        line.pad_left(indent)
        console.print(line, highlight=False, no_wrap=True)


def _show_verdict(name: str, device: Mapping[str, Any], console: Console) -> None:
    for title, verdict in budget.verdicts_of(name, device).items():
        show(headline(title, device, verdict), console)
        for notice in notices(device):
            show(Text(clean(notice), "bold reverse yellow"), console, indent=2)
        for line in _grounds(device, verdict):
            show(line, console, indent=2)


def headline(name: str, device: Mapping[str, Any], verdict: Mapping[str, Any]) -> Text:
    """One line that answers: did it pass, on what, and which variant to use."""
    status = verdict["status"]
    word = ABSENT.get(device["error"]["kind"], WORDS[status]) if device["error"] else WORDS[status]
    line = Text.assemble((f"{MARKS[status]} {word}", STYLES[status]), "  ", (clean(name), "bold"), "  ")
    if device["error"]:
        return line.append("no figures of this device; what was made is kept")
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


def _grounds(device: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[Text]:
    """The gates with their limits, and why this variant (or none)."""
    lines = []
    if device["error"]:
        return [Text(clean(line)) for line in (device["error"]["message"], *views.next_steps(device))]
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
    lines += [Text(clean(line)) for line in (*sparse.sentences(device, report["reference"]), *_energy(report, device))]
    lines += [
        Text(clean(line), "dim")
        for line in (*_gpu(device), *_noise(device), *_absent(device), _conditions(report, device))
    ]
    return lines


def _energy(report: Mapping[str, Any], device: Mapping[str, Any]) -> list[str]:
    """What the energy figures of the table count, and how the variants compare."""
    found = [wording.metered(device), wording.compared(device, report["reference"])]
    return [line for line in found if line] + (wording.doubtful(device) if wording.has_energy(device) else [])


def _noise(device: Mapping[str, Any]) -> list[str]:
    floor = device["noise_floor"]
    if not floor:
        return []
    ratio = f"{floor['ratio']:.3f}x {units.interval(floor['ci'], decimals=3)}"
    return [f"noise floor {floor['floor']:.1%}: {floor['of']} timed against itself gave {ratio}"]


def _gpu(device: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} {units.duration(variant['gpu_ns']['p50'])} of {units.duration(variant['gpu_ns']['host_p50'])}"
        for name, variant in device["variants"].items()
        if variant["gpu_ns"] and variant["gpu_ns"]["host_p50"]
    ]
    return [f"p50 on the GPU's own clock, of the host's around it: {', '.join(found)}"] if found else []


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

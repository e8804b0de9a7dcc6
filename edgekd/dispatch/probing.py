"""What a device's agent said of its device, for people at the host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekd.agent import PROTOCOL
from edgekd.agent.abilities import ENERGY, ROOM
from edgekd.agent.probe_text import label, shown
from edgekd.dispatch.hearing import plain
from edgekd.errors import StageError

SECONDS = 180.0
"""So long may a probe take: a slow board imports each runtime and waits for each meter."""
_KEYS = {
    "protocol": int, "environment": dict, "isa": dict, "backends": dict, "sections": dict, "can": list, "cannot": list,
}  # fmt: skip


def read(output: str) -> dict[str, Any]:
    """Return what `agent.pyz probe --json` printed, perhaps between lines of a login shell.

    Raises:
        StageError: it is no probe, or that of another version.
    """
    try:
        probe, _ = json.JSONDecoder().raw_decode(output, max(0, f"\n{output}".find("\n{\n")))
    except (ValueError, RecursionError):
        probe = None
    if not isinstance(probe, dict) or not all(isinstance(probe.get(key), kind) for key, kind in _KEYS.items()):
        raise StageError(f"the device's answer is no probe: {plain(output.strip()[:200]) or 'it said nothing'}")
    if probe["protocol"] != PROTOCOL:
        raise StageError(
            f"the agent there speaks protocol {probe['protocol']}, this one {PROTOCOL}: use the same version of edgekd"
        )
    return probe


def obstacles(probe: Mapping[str, Any], backend: str, meter: str = "auto") -> list[dict[str, str]]:
    """Return what of a probe's "cannot" is in the way of a device profile: first what keeps it from measuring at all.

    Args:
        backend: the profile's backend.
        meter: its power meter; nothing is missing where it is "none" or "external".
    """
    topics = [backend, ROOM, *([] if meter in ("none", "external") else [ENERGY])]
    found = [entry for topic in topics for entry in probe["cannot"] if entry["topic"] == topic]
    if backend not in probe.get("backends", {}):
        lack = {"topic": backend, "what": f"measure with {backend}", "why": "the agent there has no such backend"}
        found.insert(0, {**lack, "mend": f"use one of {', '.join(probe.get('backends', {}))} in the device profile"})
    return found


def render(probe: Mapping[str, Any], console: Console, *, backend: str | None = None, meter: str = "auto") -> None:
    """Print a probe: the verdict for a profile's backend, what the device is, what edgekd can and cannot do there."""
    blocking = [] if backend is None else obstacles(probe, backend, meter)
    if backend is None:
        _simulation(probe, console)
    else:
        verdict(probe, console, backend=backend, meter=meter)
        console.print()
    width = max((len(label(name)) for facts in probe["sections"].values() for name in facts), default=0)
    for section, facts in probe["sections"].items():
        console.print(Text(plain(section), "bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in facts.items():
            table.add_row(plain(label(name)), Text(plain(shown(name, fact)), "dim" if "unavailable" in fact else ""))
        console.print(Padding(table, (0, 0, 1, 2), expand=False), highlight=False)
    for sentence in probe["can"]:
        _item(console, "+", "green", f"can {sentence}")
    others = [entry for entry in probe["cannot"] if entry not in blocking]
    for entry in [*blocking, *others]:
        _item(console, "-", "red" if entry in blocking else "yellow", f"cannot {entry['what']}: {entry['why']}")
        _item(console, " ", "", f"mend: {entry['mend']}")


def verdict(probe: Mapping[str, Any], console: Console, *, backend: str, meter: str = "auto") -> None:
    """Print whether a device is ready to measure."""
    _simulation(probe, console)
    console.print(_headline(backend, obstacles(probe, backend, meter)))


def _simulation(probe: Mapping[str, Any], console: Console) -> None:
    if probe.get("simulated"):
        console.print(Text(f"SIMULATED: {plain(probe['simulated'])}", "bold yellow"))


def _headline(backend: str, blocking: list[dict[str, str]]) -> Text:
    if any(entry["topic"] == backend for entry in blocking):
        return Text(f"not ready: {plain(backend)} does not run there", "bold red")
    lacks = "; ".join(f"cannot {plain(entry['what'])}" for entry in blocking)
    return Text(f"ready to measure with {plain(backend)}", "bold green").append(
        f", but {lacks}" if lacks else "", "yellow"
    )


def _item(console: Console, mark: str, style: str, sentence: str) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_row(Text(mark, style), Text(plain(sentence)))
    console.print(table, highlight=False)

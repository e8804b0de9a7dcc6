"""A probe for people, as plain text."""

from __future__ import annotations

import textwrap
from typing import Any, Callable, Dict, List, Mapping, Tuple

_WIDTH = 110
_UNITS: Dict[str, Tuple[str, Callable[[float], str]]] = {
    "_bytes": ("", lambda value: "%.1f GB" % (value / 1e9)),
    "_seconds": ("", lambda value: "%.1f h" % (value / 3600)),
    "_mhz": (" MHz", lambda value: "%.0f" % value),
    "_c": (" degC", lambda value: "%.1f" % value),
}
_PLAIN: Tuple[str, Callable[[float], str]] = ("", lambda value: "%g" % value)


def text(told: Mapping[str, Any]) -> str:
    """Return a probe's result in sections, aligned."""
    lines: List[str] = []
    if told["simulated"]:
        lines += ["SIMULATED: %s" % told["simulated"], ""]
    width = max(len(label(name)) for facts in told["sections"].values() for name in facts)
    for section, facts in told["sections"].items():
        lines.append(section)
        for name, fact in facts.items():
            lines += _wrapped("  %s  " % label(name).ljust(width), shown(name, fact))
        lines.append("")
    lines.append("edgekd can, on this device")
    for sentence in told["can"] or ["nothing yet"]:
        lines += _wrapped("  + ", sentence)
    lines += ["", "edgekd cannot"] if told["cannot"] else []
    for entry in told["cannot"]:
        lines += _wrapped("  - ", "%s: %s" % (entry["what"], entry["why"]))
        lines += _wrapped("    mend: ", entry["mend"])
    return "\n".join(lines)


def label(name: str) -> str:
    """Return a fact's name without its unit: "frequency_limits_mhz" is "frequency limits"."""
    return name[: len(name) - len(_unit(name))].replace("_", " ")


def shown(name: str, fact: Mapping[str, Any]) -> str:
    """Return a fact's value with its unit, or why there is none."""
    if "unavailable" in fact:
        return "unavailable: %s" % str(fact["unavailable"])
    suffix, number = _UNITS.get(_unit(name), _PLAIN)
    return "%s%s" % (_value(fact["value"], number), suffix)


def _unit(name: str) -> str:
    return next((unit for unit in _UNITS if name.endswith(unit)), "")


def _value(value: Any, number: Callable[[float], str]) -> str:
    if isinstance(value, dict):
        return ", ".join("%s %s" % (key, _value(one, number)) for key, one in _grouped(value).items())
    if isinstance(value, (list, tuple)):
        return " ".join(_value(one, number) for one in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return str(value)


def _grouped(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the values with neighbours that are equal as one: cpu0-cpu5."""
    groups: List[Tuple[str, str, Any]] = []
    for key, value in values.items():
        core = key.startswith("cpu") and key[3:].isdigit()
        if core and groups and groups[-1][2] == value and groups[-1][1].startswith("cpu"):
            groups[-1] = (groups[-1][0], key, value)
        else:
            groups.append((key, key, value))
    return {first if first == last else "%s-%s" % (first, last): value for first, last, value in groups}


def _wrapped(head: str, content: str) -> List[str]:
    """Return lines that start with a head, the others indented as far."""
    lines = [
        part
        for line in content.splitlines()
        for part in textwrap.wrap(line, _WIDTH - len(head), break_on_hyphens=False) or [""]
    ]
    return [(head if index == 0 else " " * len(head)) + line for index, line in enumerate(lines or [""])]

"""Energy in words: what was metered, how finely, and how variants compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import units

Device = Mapping[str, Any]


def has_energy(device: Device) -> bool:
    """Whether a variant of a device has an energy figure."""
    return any(variant["energy_j"] is not None for variant in device["variants"].values())


def metered(device: Device) -> str | None:
    """What an energy figure counts and how finely: the scope, the sensor's floor, period and pace. None without one."""
    if not has_energy(device):
        return None
    energy = device["energy"]
    parts = [f"energy is that of the {energy['scope'] or 'metered scope, which the meter does not tell'}"]
    if energy["period_s"]:
        parts.append(f"a reading every {units.duration(energy['period_s'] * 1e9)}")
    parts.append(_floor(energy))
    if energy["idle_power_w"] is not None:
        parts.append(f"idle {units.power(energy['idle_power_w'])}")
    if energy["pace_hz"]:
        parts.append(f"paced at {energy['pace_hz']:g} inferences/s, the idle time between included")
    return ", ".join(parts)


def _floor(energy: Mapping[str, Any]) -> str:
    """The smallest step of the sensor: an interval says nothing of it."""
    if energy["floor_w"]:
        return f"in steps of {units.power(energy['floor_w'])}"
    if energy["floor_j"]:
        return f"in steps of {units.energy(energy['floor_j'])}"
    return "the sensor's step is not known"


def compared(device: Device, reference: str | None) -> str | None:
    """How many times less energy each variant takes than the reference: the claim that a sensor's bias hardly touches.

    None where nothing was compared.
    """
    found = []
    for name, variant in device["variants"].items():
        detail = variant["energy_detail"]
        if name == reference or not detail or detail["ratio_to_reference"] is None:
            continue
        low, high = detail["ratio_to_reference_ci"]
        unclear = " (no difference shown)" if low <= 1 <= high else ""
        found.append(f"{name} {units.times(detail['ratio_to_reference'])} [{low:.2f}, {high:.2f}]{unclear}")
    return f"energy of {reference} / variant, per inference: {', '.join(found)}" if found else None


def doubtful(device: Device) -> list[str]:
    """What the interval of an energy figure does not say: idle-subtracted figures that may be nothing, rejected
    windows."""
    energy, details = device["energy"], {name: variant["energy_detail"] for name, variant in device["variants"].items()}
    unclear = [name for name, detail in details.items() if detail and detail["dynamic_unclear"]]
    lines = [f"above idling the energy is not told from 0 ({', '.join(unclear)})"] if unclear else []
    reasons: dict[str, int] = {}
    for window in energy["windows"]:
        if window["rejected"]:
            reasons[window["rejected"]] = reasons.get(window["rejected"], 0) + 1
    many = {reason: f"{n} energy window{'s' if n > 1 else ''} rejected: {reason}" for reason, n in reasons.items()}
    return [*lines, *many.values()]

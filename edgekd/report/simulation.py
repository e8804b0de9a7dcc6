"""What of a measurement is simulated: said loudly, and never counted as measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARK = "SIMULATED"


def all_simulated(device: Mapping[str, Any]) -> str | None:
    """Why every figure of a device is simulated: its runtime is a stand-in. None where it is not."""
    reason: str | None = (device.get("runtime") or {}).get("simulated")
    return reason


def energy_simulated(device: Mapping[str, Any]) -> bool:
    """Whether the energy of a device is simulated."""
    energy = device.get("energy") or {}
    return bool(energy.get("meter") and energy.get("simulated"))


def notices(device: Mapping[str, Any]) -> list[str]:
    """What a reader must see before any figure: what is simulated, and why."""
    everything = all_simulated(device)
    found = [f"{MARK}, all figures: {everything}"] if everything else []
    what = "energy and the state of the device" if energy_simulated(device) else "the state of the device"
    others = [reason for reason in device.get("simulated") or () if reason != everything]
    return found + [f"{MARK}, {what}: {reason}" for reason in others]

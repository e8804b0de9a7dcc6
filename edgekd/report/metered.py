"""Energy in a report: what a device's meter found of each variant and over time, or why there is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.report import external
from edgekd.report.energy import Energies, EnergyPerInference, estimate
from edgekd.report.evidence import EnergyEvidence, Evidence
from edgekd.report.integration import MAX_GAP, NS, Judged, Readings, RejectedError, polygon_means
from edgekd.report.statistics import Estimate

NO_METER = "no meter was read"
_POINTS = 600  # of a plot
_SHORTEST_S = 0.1  # of a plot
_HEADER = ("meter", "reason", "scope", "scope_kind", "floor_w", "floor_j", "period_s")


@dataclass(frozen=True)
class Metered:
    """The energy of a device.

    Args:
        device: What the report says of the meter and the windows.
        energies: Of the variants; None where nothing could be made of the readings, and `reason` says why.
        simulated: Why the figures are no measurement, or None.
    """

    device: dict[str, Any]
    energies: Energies | None
    reason: str | None
    simulated: str | None = None

    def figures(self, name: str) -> dict[str, Any]:
        """The energy figures of a variant, and why there are none."""
        found = self.energies.variants.get(name) if self.energies else None
        reasons = self.energies.reasons if self.energies else {}
        return {
            "energy_j": found.gross.value if found else None,
            "energy_j_ci": list(found.gross.ci) if found else None,
            "energy_detail": _detail(found, self.energies) if found and self.energies else None,
            "energy_reason": None if found else self.reason or reasons.get(name) or "no window was recorded",
            "energy_simulated": self.simulated if found else None,
        }


def not_metered(reason: str) -> Metered:
    """The energy of a device of which nothing is known."""
    return Metered({**dict.fromkeys(_HEADER), "reason": reason, "simulated": False, **_nothing()}, None, reason)


def assess(evidence: Evidence, reference: str | None) -> Metered:
    """Integrate the readings of a device and judge its windows."""
    header = evidence.content["energy"]
    device = {**{key: header[key] for key in _HEADER}, "simulated": header["simulated"], **_nothing()}
    why = evidence.content["simulated"]
    simulated = (why[-1] if why else "the meter is not the machine's own") if header["simulated"] else None
    if evidence.energy is None:
        reason = header["reason"] or NO_METER
        return Metered({**device, "reason": reason}, None, reason, simulated)
    energy = evidence.energy
    warmup = energy.content.warmup
    device |= {"pace_hz": energy.content.pace_hz, "warmup": warmup.model_dump() if warmup else None}
    try:
        readings, more = _readings(evidence, energy)
        device |= more
        device |= _trace(readings, energy)
        quick = bool(evidence.content["method"]["quick"])
        found = estimate(readings, energy.windows, reference=reference, quick=quick)
    except (RejectedError, EdgekdError) as rejected:
        return Metered({**device, "reason": str(rejected)}, None, str(rejected), simulated)
    device |= {"idle_power_w": found.idle_power_w, "windows": _windows(found.windows)}
    return Metered(device, found, None, simulated)


def _nothing() -> dict[str, Any]:
    return {"pace_hz": None, "warmup": None, "clock": None, "idle_power_w": None, "windows": [], "trace": None}


def _readings(evidence: Evidence, energy: EnergyEvidence) -> tuple[Readings, dict[str, Any]]:
    """The readings, and what they add to the description of the meter."""
    if energy.readings is not None:
        return energy.readings, {}
    if evidence.content["energy"]["meter"] != external.METER:
        raise RejectedError("the measurement holds no readings of the meter")
    if evidence.external is None:
        raise RejectedError(
            f"the samples of the external meter are missing: edgekd report RUN --power {evidence.folder.name}=FILE.csv"
        )
    trace = external.read(evidence.external)
    readings, clock = external.on_device(trace, energy)
    shown = {"offset_s": clock.offset_s - clock.origin_s, "drift": clock.drift, "correlation": clock.correlation}
    return readings, {"scope": trace.scope, "period_s": readings.period_s, "clock": shown}


def _detail(found: EnergyPerInference, energies: Energies) -> dict[str, Any]:
    ratio = found.ratio
    return {
        "dynamic_j": found.dynamic.value if found.dynamic else None,
        "dynamic_j_ci": _ci(found.dynamic),
        "dynamic_unclear": found.dynamic_unclear,
        "low_j": found.low,
        "high_j": found.high,
        "windows": found.windows,
        "rejected": found.rejected,
        "inferences": found.inferences,
        "late": found.late,
        "seconds": found.seconds,
        "mean_power_w": found.mean_power_w,
        "idle_power_w": energies.idle_power_w,
        "ratio_to_reference": ratio.value if ratio else None,
        "ratio_to_reference_ci": _ci(ratio),
    }


def _ci(found: Estimate | None) -> list[float] | None:
    return list(found.ci) if found else None


def _windows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Every window in seconds since the first one's begin, with what it gave, or why it was rejected."""
    begin = judged[0].window.start_ns if judged else 0
    return [
        {
            "kind": each.window.kind,
            "variant": each.window.variant,
            "start_s": (each.window.start_ns - begin) * NS,
            "end_s": (each.window.end_ns - begin) * NS,
            "power_w": each.watts if each.reason is None else None,
            "rejected": each.reason,
        }
        for each in judged
    ]


def _trace(readings: Readings, energy: EnergyEvidence) -> dict[str, Any]:
    """Mean power over time, in at most 600 steps, on the time axis of the windows; null where nothing was read."""
    if not energy.windows or len(readings.time_ns) < 3 or (np.diff(readings.time_ns) <= 0).any():
        return {}
    total = readings.summed()
    known = np.abs(total) < np.inf
    times = (readings.time_ns[known] - min(window.start_ns for window in energy.windows)).astype(np.float64) * NS
    if len(times) < 3 or times[-1] - times[0] < _SHORTEST_S:
        return {}
    edges = np.linspace(times[0], times[-1], min(_POINTS, len(times) - 1) + 1, dtype=np.float64)
    if readings.kind == "power":
        watts = polygon_means(times, total[known], edges)
    else:
        watts = np.diff(np.interp(edges, times, total[known])) / np.diff(edges)
    middles = (edges[1:] + edges[:-1]) / 2
    right = np.clip(np.searchsorted(times, middles), 1, len(times) - 1)
    seen = times[right] - times[right - 1] <= MAX_GAP * readings.period_s
    return {"trace": {
        "time_s": [_short(moment) for moment in middles],
        "power_w": [_short(value) if there else None for value, there in zip(watts, seen, strict=True)],
    }}  # fmt: skip


def _short(value: float) -> float:
    """To six significant digits: a plot shows no more, and the page is kept small."""
    return float(f"{value:.6g}")

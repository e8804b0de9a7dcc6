"""A first look at a measurement on the device that made it: plain percentiles and medians, no intervals.

The host computes what counts, from the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from edgekd.agent.files import read_json, read_npz
from edgekd.agent.latency import CONTROL

if TYPE_CHECKING:
    from edgekd.agent.backends import Array

NOTE = "a preview without intervals; a host computes the report from the measurement folder (--out)"


def summary(measurement: Dict[str, Any], folder: Path) -> Dict[str, Any]:
    """Return what a measurement says, as JSON values.

    Args:
        measurement: The content of measurement.json.
        folder: Its folder.

    Returns:
        "models": by name "error", "latency_ms" {"p50", "p90", "p99", "calls"}, "speedup" {"ratio", "processes":
        [lowest, highest], "no_difference"}, "per_second" (all cores saturated), "energy_mj" (gross, median of the
        windows), "energy_reason", "precision"; each null where it was not measured. "control": the A/A control as a
        speed-up. Then how it was measured, and what changed meanwhile.
    """
    columns = _columns(measurement, folder)
    reference = measurement["reference"]
    control = next((name for name in columns if name.endswith(CONTROL)), None)
    noise = None if control is None else _paired(columns[control[: -len(CONTROL)]], columns[control])
    models = {}
    for name, variant in measurement["variants"].items():
        energy, reason = _energy(measurement, folder, name)
        speedup = None
        if reference in columns and name in columns and name != reference:
            speedup = _paired(columns[reference], columns[name])
            speedup["no_difference"] = noise is None or _overlap(speedup["processes"], noise["processes"])
        models[name] = {
            "error": variant["error"],
            "latency_ms": _latency(columns[name]) if name in columns else None,
            "speedup": speedup,
            "per_second": _per_second(variant["throughput"]),
            "energy_mj": energy,
            "energy_reason": reason,
            "precision": variant["facts"].get("precision"),
        }
    return {
        "note": NOTE,
        "runtime": "%s %s" % (measurement["runtime"]["name"], measurement["runtime"]["version"]),
        "batch_size": measurement["batch_size"],
        "quick": measurement["method"]["quick"],
        "reference": reference,
        "models": models,
        "control": noise,
        "latency_reason": measurement["latency_reason"],
        "energy_scope": measurement["energy"]["scope"],
        "simulated": measurement.get("simulated", []),
        "locked_clocks": measurement.get("locked_clocks"),
        "changes": measurement["environment"]["changes"],
    }


def text(told: Dict[str, Any]) -> str:
    """Return a summary as lines for a terminal."""
    quick = ", quick" if told["quick"] else ""
    lines = ["%s, batch %d%s, inputs %s" % (told["runtime"], told["batch_size"], quick, told["inputs"]), ""]
    rows = [["", "p50 ms", "p90 ms", "p99 ms", "speed-up", "all cores /s", "mJ", "layers ran in"]]
    rows += [_row(name, model, told["reference"]) for name, model in told["models"].items()]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:]))]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    lines.append("")
    if told["control"] is not None:
        lines.append(
            "noise: the same model against itself gives x%.3f (processes x%.3f to x%.3f)"
            % (told["control"]["ratio"], *told["control"]["processes"])
        )
    lines += ["latency: not measured: %s" % told["latency_reason"]] if told["latency_reason"] else []
    lines += _energy_lines(told)
    lines += ["error: %s: %s" % (name, model["error"]) for name, model in told["models"].items() if model["error"]]
    lines += ["SIMULATED, not measured: %s" % reason for reason in told["simulated"]]
    lines += ["clocks: %s" % told["locked_clocks"]] if told["locked_clocks"] else []
    lines += ["the device changed: %s" % change for change in told["changes"]]
    return "\n".join([*lines, "this is %s" % told["note"]])


def _columns(measurement: Dict[str, Any], folder: Path) -> Dict[str, List[Array]]:
    """Return the raw nanoseconds [rounds, calls] of each process by column."""
    latency = measurement["latency"]
    if latency is None:
        return {}
    processes = [read_npz(folder / name) for name in latency["processes"]]
    return {
        name: [arrays["latency_ns_%d" % index] for arrays in processes] for index, name in enumerate(latency["columns"])
    }


def _latency(processes: List[Array]) -> Dict[str, Any]:
    calls = np.concatenate([process.ravel() for process in processes]) / 1e6
    p50, p90, p99 = (float(value) for value in np.percentile(calls, (50, 90, 99)))
    return {"p50": p50, "p90": p90, "p99": p99, "calls": int(calls.size)}


def _paired(reference: List[Array], variant: List[Array]) -> Dict[str, Any]:
    """Return how many times faster a variant is, round by round, and between which values the processes lie."""
    ratios = [np.median(a, axis=1) / np.median(b, axis=1) for a, b in zip(reference, variant)]
    medians = [float(np.median(process)) for process in ratios]
    return {"ratio": float(np.median(np.concatenate(ratios))), "processes": [min(medians), max(medians)]}


def _overlap(one: List[float], other: List[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _per_second(throughput: Optional[Dict[str, Any]]) -> Optional[float]:
    return None if throughput is None else float(throughput["inferences"] / throughput["seconds"])


def _energy(measurement: Dict[str, Any], folder: Path, name: str) -> Tuple[Optional[float], Optional[str]]:
    """Return (millijoules per inference, None), or (None, why there are none)."""
    energy = measurement["energy"]
    if energy["windows"] is None:
        return None, energy["reason"] or "no window was measured"
    windows = [window for window in read_json(folder / energy["windows"])["windows"] if window["variant"] == name]
    good = [window for window in windows if window["rejected"] is None and window["mean_power_w"] is not None]
    if not good:
        reasons = sorted({str(window["rejected"]) for window in windows if window["rejected"] is not None})
        return None, "every window was rejected: %s" % "; ".join(reasons) if reasons else "no power was recorded here"
    joules = [window["mean_power_w"] * window["seconds"] / window["inferences"] for window in good]
    return float(np.median(joules)) * 1e3, None


def _row(name: str, model: Dict[str, Any], reference: Optional[str]) -> List[str]:
    latency, speedup = model["latency_ms"], model["speedup"]
    times = ["-"] * 3 if latency is None else ["%.3f" % latency[key] for key in ("p50", "p90", "p99")]
    if speedup is None:
        ratio = "teacher" if name == reference else "-"
    else:
        ratio = "x%.2f%s" % (speedup["ratio"], " (no difference)" if speedup["no_difference"] else "")
    rate = "-" if model["per_second"] is None else "%.1f" % model["per_second"]
    energy = "-" if model["energy_mj"] is None else "%.3g" % model["energy_mj"]
    ran = ", ".join("%d x %s" % (count, kind) for kind, count in (model["precision"] or {}).items())
    return [name, *times, ratio, rate, energy, ran or "-"]


def _energy_lines(told: Dict[str, Any]) -> List[str]:
    measured = any(model["energy_mj"] is not None for model in told["models"].values())
    reasons = {model["energy_reason"] for model in told["models"].values() if model["energy_reason"]}
    lines = ["energy: gross, %s" % told["energy_scope"]] if measured else []
    for reason in sorted(reasons):
        lines += ["energy: not measured:", *("  " + part for part in reason.split("; "))]
    return lines

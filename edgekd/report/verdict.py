"""The verdict on one device: which variant to use there, and whether it passes the gates.

The choice is made on the validation split (accuracy, agreement, drop) and on what the device measured (speed, memory,
energy, size); the test split then judges the chosen variant and never chooses. Gates use the point estimate, their
reason prints the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekd.report import classes, roles, units
from edgekd.report.gates import QUALITY_GATES, evaluate
from edgekd.report.gpu import impossible
from edgekd.report.latency import comparison
from edgekd.report.precisions import precision_faults
from edgekd.report.simulation import all_simulated
from edgekd.report.statistics import CONFIDENCE

Variant = Mapping[str, Any]

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not_measured"
SAME_SIZE = 1.01
"""Files whose sizes differ by less are as large: names and metadata take a few bytes."""


def judge(device: Mapping[str, Any], *, gates: Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    """Return the verdict on one device of a report.

    Args:
        device: Its entry in the report, with "variants", "comparisons", "noise_floor" and "error".
        gates: The limits that the recipe set, by name.
        reference: The variant that the others are compared with. It is no candidate, nor is any whose role says so.

    Returns:
        "status", "gates", "recommended" (None when no variant passed), "best" (the variant that the gates judge),
        "missed" (its gates that were not passed), "candidates" (each with the reason why it was chosen or not), "why",
        "remarks".
    """
    variants: Mapping[str, Variant] = device["variants"]
    if device["error"]:
        return _nothing(gates, f"{device['error']['kind']}: {device['error']['message']}")
    names = roles.candidates(variants, reference)
    working = [name for name in names if not variants[name]["error"]]
    if not working:
        return _nothing(gates, "; ".join(f"{name}: {variants[name]['error']}" for name in names) or "no variant")
    base = variants.get(reference) if reference else None
    remarks = _remarks(device, working, gates, reference)
    simulated = all_simulated(device)
    if simulated:
        return {**_nothing(gates, f"simulated: {simulated}"), "remarks": remarks}
    choosing = gates if _has_validation(variants, working) else _without_quality(gates, remarks)
    on_validation = {
        name: _evaluated(choosing, variants[name], base, variants[name]["validation"], "validation") for name in working
    }
    faults = {name: precision_faults(name, device) for name in working}
    passing = [name for name in working if not _missed_count(on_validation[name])]
    chosen, why = _choose(passing, faults, device) if passing else (None, "")
    best = chosen or min(working, key=lambda name: (_missed_count(on_validation[name]), _rank(variants[name])))
    judged = _evaluated(gates, variants[best], base, variants[best], "test")
    if chosen is None:
        judged = _with_validation(judged, on_validation[best])
    missed = [gate["name"] for gate in judged if gate["status"] != PASSED]
    return {
        "status": _status(gate["status"] for gate in judged),
        "gates": judged,
        "recommended": chosen,
        "best": best,
        "missed": missed,
        "why": why or _why_none(best, on_validation[best]),
        "candidates": [_candidate(name, chosen, on_validation, faults, device) for name in names],
        "remarks": remarks,
    }


def _nothing(gates: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The verdict on a device of which nothing was measured."""
    judged = [
        {"name": name, "limit": limit, "value": None, "status": NOT_MEASURED, "reason": reason, "split": None}
        for name, limit in gates.items()
    ]
    return {
        "status": NOT_MEASURED,
        "gates": judged,
        "recommended": None,
        "best": None,
        "missed": list(gates),
        "why": reason,
        "candidates": [],
        "remarks": [],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Gates of one variant


def _evaluated(
    gates: Mapping[str, Any], variant: Variant, base: Variant | None, quality: Mapping[str, Any], split: str
) -> list[dict[str, Any]]:
    found = [evaluate(name, limit, variant, base, quality) for name, limit in gates.items() if limit is not False]
    return [{**gate, "split": split if gate["name"] in QUALITY_GATES else None} for gate in found]


def _status(statuses: Iterable[str]) -> str:
    found = set(statuses)
    return FAILED if FAILED in found else NOT_MEASURED if NOT_MEASURED in found else PASSED


def _missed_count(gates: Sequence[Mapping[str, Any]]) -> int:
    return sum(gate["status"] != PASSED for gate in gates)


def _with_validation(judged: list[dict[str, Any]], validation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test gates of a variant that missed some on validation: what it missed there stays missed."""
    missed = {gate["name"]: gate for gate in validation if gate["status"] != PASSED}
    return [missed.get(gate["name"], gate) if gate["status"] == PASSED else gate for gate in judged]


def _has_validation(variants: Mapping[str, Variant], names: Iterable[str]) -> bool:
    return any(variants[name]["validation"]["samples"] is not None for name in names)


def _without_quality(gates: Mapping[str, Any], remarks: list[str]) -> dict[str, Any]:
    left_out = [name for name in gates if name in QUALITY_GATES]
    if left_out:
        remarks.append(
            "there are no validation outputs: the choice rests on the other gates, and the test split only judges it "
            f"({', '.join(left_out)})"
        )
    return {name: limit for name, limit in gates.items() if name not in QUALITY_GATES}


# ---------------------------------------------------------------------------------------------------------------------
# The choice


def _rank(variant: Variant) -> tuple[float, float]:
    """Sort key: fastest first (by paired speed-up, without a reference by p50), then smallest."""
    latency = variant["latency_ns"]
    slowness = 1 / variant["speedup"] if variant["speedup"] else latency["p50"] if latency else float("inf")
    return slowness, variant["size_bytes"] or float("inf")


def _choose(passing: Sequence[str], faults: Mapping[str, Sequence[str]], device: Mapping[str, Any]) -> tuple[str, str]:
    """The fastest; among those that the run cannot tell from it, the smallest file, and of such the best on validation.

    One in lower precision with a fault (slower than its float, not in that precision here) gives way to any other that
    passes.
    """
    variants = device["variants"]
    pool = [name for name in passing if not faults[name]] or passing
    fastest = min(pool, key=lambda name: _rank(variants[name]))
    if variants[fastest]["latency_ns"] is None:
        return fastest, "speed was not measured: the smallest that passes every gate"
    equal = [name for name in pool if name == fastest or _no_difference(fastest, name, device)]
    sizes = {name: _rank(variants[name])[1] for name in equal}
    scores = {name: variants[name]["validation"]["accuracy"] or 0.0 for name in equal}
    small = [name for name in equal if sizes[name] <= SAME_SIZE * min(sizes.values())]
    chosen = min(small, key=lambda name: (-scores[name], _rank(variants[name])))
    if chosen == fastest:
        alone = "the only one" if len(passing) == 1 else "the fastest"
        return chosen, "; but ".join([f"{alone} that passes every gate ({_speed(variants[chosen])})", *faults[chosen]])
    speeds = f"{_speed(variants[chosen])} and {_speed(variants[fastest])}"
    gain = f"smaller: {_size(variants[chosen])} against {_size(variants[fastest])}"
    if fastest in small:
        gain = f"better on validation: {units.percent(scores[chosen])} against {units.percent(scores[fastest])}"
    return chosen, f"as fast as {fastest} within what this run can tell ({speeds}), and {gain}"


def _no_difference(one: str, other: str, device: Mapping[str, Any]) -> bool:
    pair = comparison(one, other, device)
    return pair is not None and bool(pair["no_difference"])


def _candidate(
    name: str,
    chosen: str | None,
    on_validation: Mapping[str, Sequence[Mapping[str, Any]]],
    faults: Mapping[str, Sequence[str]],
    device: Mapping[str, Any],
) -> dict[str, Any]:
    """One line on a candidate: why it is, or is not, the one to use."""
    variants = device["variants"]
    if variants[name]["error"]:
        return {"name": name, "status": "error", "reason": variants[name]["error"]}
    missed = _all_missed(on_validation[name])
    if name == chosen:
        return {"name": name, "status": "recommended", "reason": "passes every gate"}
    if missed or faults[name]:
        return {"name": name, "status": "missed", "reason": "; ".join([*missed, *faults[name]])}
    assert chosen is not None  # it passed, so something was chosen
    if _no_difference(name, chosen, device):
        reason = f"no faster than {chosen} within what this run can tell, and not smaller ({_size(variants[name])})"
    else:
        reason = f"slower: {_speed(variants[name])} vs {_speed(variants[chosen])}"
    return {"name": name, "status": "passed", "reason": reason}


def _all_missed(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why each gate was missed; one reason of several gates once."""
    return list(dict.fromkeys(_missed(gate) for gate in gates if gate["status"] != PASSED))


def _missed(gate: Mapping[str, Any]) -> str:
    return f"{gate['reason']} on validation" if gate["split"] == "validation" else str(gate["reason"])


def _why_none(best: str, gates: Sequence[Mapping[str, Any]]) -> str:
    return f"no variant passes every gate; best so far is {best}: " + "; ".join(_all_missed(gates))


def _speed(variant: Variant) -> str:
    if variant["speedup"] is not None:
        return units.times(variant["speedup"])
    return units.duration(variant["latency_ns"]["p50"]) if variant["latency_ns"] else "not timed"


def _size(variant: Variant) -> str:
    return units.size(variant["size_bytes"]) if variant["size_bytes"] else "size unknown"


# ---------------------------------------------------------------------------------------------------------------------
# What else to know


def _remarks(
    device: Mapping[str, Any], names: Sequence[str], gates: Mapping[str, Any], reference: str | None
) -> list[str]:
    """What a reader must know besides the gates."""
    variants = device["variants"]
    remarks = _circumstances(device)
    remarks += [] if gates else ["no gate was set: nothing could fail"]
    fallen = classes.fallen(variants, reference)
    if fallen:
        remarks.append(fallen)
    for name in names:
        remarks += [f"{name}: {fault}" for fault in precision_faults(name, device)]
        speedup = variants[name]["speedup"]
        if name != reference and speedup is not None and variants[name]["no_difference"]:
            remarks.append(f"{name}: its speed does not differ from {reference} by more than this run can tell")
        elif name != reference and speedup is not None and speedup < 1:
            remarks.append(f"{name}: slower than {reference} ({units.times(speedup)})")
    unstable = [name for name, found in variants.items() if found["latency_ns"] and found["latency_ns"]["unstable"]]
    if unstable:
        which = "all variants" if len(unstable) == len(variants) else ", ".join(unstable)
        remarks.append(f"speed wandered by more than 10 % ({which}): compare speed-ups, not milliseconds")
    if device.get("unsteady_warmup"):
        remarks.append(f"warm-up did not become steady in its time ({', '.join(device['unsteady_warmup'])})")
    if (device.get("spinning") or {}).get("spins"):
        share = device["spinning"]["cpu_share_idle"]
        remarks.append(f"idle sessions kept {share:.0%} of the core busy: latencies are not to be trusted")
    if (device.get("method") or {}).get("quick"):
        remarks.append("a quick measurement: fewer samples than the protocol asks for")
    floor = device["noise_floor"]
    if floor and floor["floor"] > 0.03:
        remarks.append(
            f"the noise floor is {floor['floor']:.1%}: the same model timed twice differed by that much "
            f"({CONFIDENCE:.0%} interval)"
        )
    remarks += [f"device state changed: {change}" for change in device["state"]["changes"] or []]
    return remarks + _doubts(device)


def _circumstances(device: Mapping[str, Any]) -> list[str]:
    """How the device was not as it will be in use, or not the one that was asked for."""
    found = list(device.get("builds") or ())
    substituted, locked = device.get("substituted"), device.get("locked_clocks")
    if substituted:
        found.append(
            f"{substituted['used']} ran in place of {substituted['asked']}: the figures are those of another runtime"
        )
    if locked:
        found.append(f"clocks were locked for the measurement ({locked}): speed and power are those of locked clocks")
    return found


def _doubts(device: Mapping[str, Any]) -> list[str]:
    """What speaks against the GPU's times and the energy."""
    found = [
        f"{name}: the host's p50 is below the GPU's: it did not wait for the GPU, and its latency is not to be trusted"
        for name, variant in device["variants"].items()
        if impossible(variant.get("gpu_ns"))
    ]
    energy = device.get("energy") or {}
    warmup = energy.get("warmup")
    if warmup and not warmup["steady"]:
        why = warmup["reason"] or f"after {warmup['seconds']:.0f} s"
        found.append(f"energy: the device had not become steady before the windows ({why})")
    details = {name: variant.get("energy_detail") for name, variant in device["variants"].items()}
    late = [
        f"{name} {found['late']} of {found['inferences']}" for name, found in details.items() if found and found["late"]
    ]
    if late:
        found.append(f"energy: paced inferences missed their slot ({', '.join(late)})")
    return found

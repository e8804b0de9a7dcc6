"""One device of a report: every number of every variant, from the raw outputs and samples that the device gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import latency, quality
from edgekd.report.classes import by_class
from edgekd.report.energy import RejectedError, energy_per_inference
from edgekd.report.evidence import Arrays, Evidence, Run
from edgekd.report.gain import distillation_gain
from edgekd.report.latency import Latencies
from edgekd.report.roles import CANDIDATE
from edgekd.report.statistics import is_no_difference
from edgekd.tasks import Task

NO_REFERENCE = "no reference was timed beside it"
SILENT = "the agent did not measure it"


def measured(run: Run, device: str, task: Task) -> dict[str, Any]:
    """Return everything a report says of a device that was measured, but for the verdict."""
    evidence = run.measurements[device]
    content = evidence.content
    qualities = _qualities(run, device, task)
    latencies = _latencies(run, evidence)
    variants = {name: _variant(run, device, name, latencies, found) for name, found in qualities.items()}
    environment = content.get("environment") or {}
    energy = content.get("energy") or {}
    return {
        "error": None,
        "variants": variants,
        "distillation_gain_pp": distillation_gain(
            variants, {name: qualities[name]["test"].scores for name in variants}
        ),
        "noise_floor": latencies.noise_floor,
        "comparisons": latencies.comparisons,
        "distribution": latencies.distribution,
        "energy": {key: energy.get(key) for key in ("meter", "reason", "scope", "floor_j")},
        "state": {key: environment.get(key) for key in ("before", "after", "changes")},
        **{key: content.get(key) for key in ("backend", "runtime", "cores", "batch_size", "method", "agent")},
        **{key: content.get(key) for key in ("started_at", "finished_at")},
        "spinning": (content.get("latency") or {}).get("spinning"),
        "unsteady_warmup": latencies.unsteady,
        **{key: run.content["devices"][device].get(key) for key in ("profile", "scheme")},
    }


def not_measured(run: Run, device: str) -> dict[str, Any]:
    """Return what a report says of a device that gave no measurement: every figure null, with the reason."""
    content = run.content["devices"][device]
    error = content.get("error") or {"kind": "failed", "message": "the run holds no measurement of this device"}
    keys = ("distillation_gain_pp", "noise_floor", "distribution", "energy", "backend", "runtime", "cores")
    nothing = latency.not_timed(error["message"])
    names = [name for name in run.content["variants"] if name in (content.get("models") or run.content["variants"])]
    return {
        "error": error,
        "variants": {name: _variant(run, device, name, nothing, {}) for name in names},
        **dict.fromkeys((*keys, "batch_size", "method", "agent", "started_at", "finished_at", "spinning")),
        "comparisons": [],
        "unsteady_warmup": [],
        "state": {"before": None, "after": None, "changes": None},
        **{key: content.get(key) for key in ("profile", "scheme")},
    }


def _latencies(run: Run, evidence: Evidence) -> Latencies:
    if evidence.latency is None:
        return latency.not_timed(evidence.content.get("latency_reason") or "latency was not measured")
    return latency.assess(evidence.latency, run.content["reference"])


def _qualities(run: Run, device: str, task: Task) -> dict[str, dict[str, quality.Quality]]:
    """The quality by split of every variant meant for this device, in pipeline order, then any other measured one."""
    evidence = run.measurements[device]
    meant = run.content["devices"][device].get("models") or run.content["variants"]
    names = [name for name in run.content["variants"] if name in meant]
    names += [name for name in evidence.content["variants"] if name not in names]
    splits = ("test", "validation")
    by_split = {}
    for split in splits:
        outputs = {name: _outputs(evidence, name, split) for name in names}
        by_split[split] = quality.assess(outputs, run.labels.get(split), run.content["reference"], task)
    return {name: {split: by_split[split][name] for split in splits} for name in names}


def _outputs(evidence: Evidence, name: str, split: str) -> Arrays | None:
    content = evidence.content["variants"].get(name)
    return None if content is None or content.get("error") else evidence.outputs(name, split)


def _variant(
    run: Run, device: str, name: str, latencies: Latencies, qualities: Mapping[str, quality.Quality]
) -> dict[str, Any]:
    evidence = run.measurements.get(device)
    error: str | None = None
    content: Mapping[str, Any] = {}
    if evidence is not None:
        content = evidence.content["variants"].get(name) or {"error": "the device's measurement does not contain it"}
        error = content.get("error")
    described = run.content["variants"].get(name) or {}
    model = (run.content["devices"][device].get("models") or {}).get(name) or {}
    facts = content.get("facts") or {}
    energy, energy_reason = _energy(evidence, name, error or latencies.reason)
    reasons = _reasons(run, name, content, latencies, qualities)
    none = quality.Quality(dict.fromkeys(quality.FIGURES), {})
    test = qualities.get("test", none)
    throughput = content.get("throughput")
    return {
        "error": error,
        "role": described.get("role", CANDIDATE),
        **test.figures,
        "by_class": by_class(test.scores, run.labels.get("test"), _class_names(run)),
        "validation": qualities.get("validation", none).figures,
        "parameters": described.get("parameters"),
        "macs": described.get("macs"),
        "size_bytes": model.get("size_bytes"),
        "latency_ns": latencies.summaries.get(name),
        **_speedup(name, latencies),
        "throughput_per_s": throughput["inferences"] / throughput["seconds"] if throughput else None,
        "throughput_threads": throughput["threads"] if throughput else None,
        **{key: content.get(key) for key in ("load_ns", "cold_start_ns", "peak_memory_bytes")},
        **energy,
        "energy_reason": energy_reason,
        "precision": facts.get("precision"),
        "facts": facts,
        "model": {key: model.get(key) for key in ("file", "sha256")},
        "reasons": {key: error or why for key, why in reasons.items()},
    }


def _class_names(run: Run) -> list[str]:
    """The names of the classes; none where the targets are no class indices, or the run does not say."""
    data = run.content["provenance"].get("data")
    return list(data.get("classes") or ()) if isinstance(data, Mapping) else []


def _speedup(name: str, latencies: Latencies) -> dict[str, Any]:
    found = latencies.speedups.get(name)
    return {
        "speedup": found.value if found else None,
        "speedup_ci": list(found.ci) if found else None,
        "no_difference": is_no_difference(found, latencies.floor) if found else None,
    }


def _reasons(
    run: Run,
    name: str,
    content: Mapping[str, Any],
    latencies: Latencies,
    qualities: Mapping[str, quality.Quality],
) -> dict[str, str]:
    """Why each figure that is null is null."""
    reasons = (
        dict(qualities["test"].reasons)
        if qualities
        else dict.fromkeys(("accuracy", "agreement_with_teacher", "drop_pp"), latencies.reason or SILENT)
    )
    if run.content.get("inputs") == "random" and qualities:
        reasons |= dict.fromkeys({"accuracy", "drop_pp"} & reasons.keys(), "the inputs are random: there are no labels")
    if name not in latencies.summaries:
        reasons["latency_ns"] = latencies.reason or "it was not timed"
    if name not in latencies.speedups:
        reasons["speedup"] = latencies.reason or NO_REFERENCE
    silent = latencies.reason if not content else SILENT
    for key, field, given in (
        ("throughput_per_s", "throughput", "throughput_reason"),
        ("peak_memory_bytes", "peak_memory_bytes", "memory_reason"),
        ("cold_start_ns", "cold_start_ns", "cold_start_reason"),
    ):
        if content.get(field) is None:
            reasons[key] = content.get(given) or silent or SILENT
    return reasons


def _energy(evidence: Evidence | None, name: str, problem: str | None) -> tuple[dict[str, Any], str | None]:
    """The energy figures of a variant, and why there are none."""
    nothing: dict[str, Any] = {"energy_j": None, "energy_j_ci": None, "energy_detail": None}
    if evidence is None or evidence.energy is None:
        header = evidence.content.get("energy") or {} if evidence else {}
        return nothing, header.get("reason") or problem or "no meter was read"
    try:
        found = energy_per_inference(evidence.energy.get("active", {}).get(name, []), evidence.energy.get("idle", []))
    except RejectedError as reason:
        rejected = [each["reason"] for each in evidence.energy.get("rejected", []) if each.get("variant") == name]
        return nothing, problem or "; ".join([str(reason), *rejected[:1]])
    detail = {
        "dynamic_j": found.dynamic.value if found.dynamic else None,
        "dynamic_j_ci": list(found.dynamic.ci) if found.dynamic else None,
        "low_j": found.low,
        "high_j": found.high,
        "windows": found.windows,
        "inferences": found.inferences,
        "mean_power_w": found.mean_power_w,
    }
    return {"energy_j": found.gross.value, "energy_j_ci": list(found.gross.ci), "energy_detail": detail}, None

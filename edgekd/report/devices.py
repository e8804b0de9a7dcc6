"""One device of a report: every number of every variant, from the raw outputs and samples that the device gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.report import latency, metered, quality
from edgekd.report.classes import by_class
from edgekd.report.evidence import Arrays, Evidence, Run
from edgekd.report.gain import distillation_gain, point_gains
from edgekd.report.gpu import gpu_time
from edgekd.report.latency import Latencies
from edgekd.report.metered import Metered
from edgekd.report.roles import CANDIDATE
from edgekd.report.statistics import is_no_difference
from edgekd.tasks import Task

NO_REFERENCE = "no reference was timed beside it"
SILENT = "the agent did not measure it"
_RAW = ("gpu_ns", "host_ns")  # facts that are summed up, not shown
_COPIED = ("backend", "runtime", "cores", "batch_size", "method", "agent", "started_at", "finished_at")
_SIMULATION = ("simulated", "substituted", "locked_clocks")


def measured(run: Run, device: str, task: Task) -> dict[str, Any]:
    """Return everything a report says of a device that was measured, but for the verdict."""
    evidence = run.measurements[device]
    content = evidence.content
    qualities = _qualities(run, device, task)
    latencies = _latencies(run, evidence)
    energy = metered.assess(evidence, run.content["reference"])
    variants = {name: _variant(run, device, name, latencies, energy, found) for name, found in qualities.items()}
    scores = {name: found["test"].scores for name, found in qualities.items()}
    return {
        "error": None,
        "variants": variants,
        "distillation_gain_pp": distillation_gain(variants, scores),
        "point_gains_pp": point_gains(variants, scores),
        "noise_floor": latencies.noise_floor,
        "comparisons": latencies.comparisons,
        "distribution": latencies.distribution,
        "energy": energy.device,
        "state": dict(content["environment"]),
        **{key: content[key] for key in (*_COPIED, *_SIMULATION)},
        "spinning": content["latency"]["spinning"] if content["latency"] else None,
        "unsteady_warmup": latencies.unsteady,
        **{key: run.content["devices"][device].get(key) for key in ("profile", "scheme", "in_place_of", "builds")},
    }


def not_measured(run: Run, device: str) -> dict[str, Any]:
    """Return what a report says of a device that gave no measurement: every figure null, with the reason."""
    content = run.content["devices"][device]
    error = content.get("error") or {"kind": "failed", "message": "the run holds no measurement of this device"}
    keys = ("distillation_gain_pp", "point_gains_pp", "noise_floor", "distribution", "spinning", *_COPIED, *_SIMULATION)
    nothing, unmetered = latency.not_timed(error["message"]), metered.not_metered(error["message"])
    names = [name for name in run.content["variants"] if name in (content.get("models") or run.content["variants"])]
    return {
        "error": error,
        "variants": {name: _variant(run, device, name, nothing, unmetered, {}) for name in names},
        **dict.fromkeys(keys),
        "energy": unmetered.device,
        "simulated": [],
        "comparisons": [],
        "unsteady_warmup": [],
        "state": {"before": None, "after": None, "changes": None},
        **{key: content.get(key) for key in ("profile", "scheme", "in_place_of", "builds")},
    }


def _latencies(run: Run, evidence: Evidence) -> Latencies:
    if evidence.latency is None:
        return latency.not_timed(evidence.content["latency_reason"] or "latency was not measured")
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
    run: Run,
    device: str,
    name: str,
    latencies: Latencies,
    energy: Metered,
    qualities: Mapping[str, quality.Quality],
) -> dict[str, Any]:
    evidence = run.measurements.get(device)
    error: str | None = None
    content: Mapping[str, Any] = {}
    if evidence is not None:
        missing = (run.content["devices"][device].get("refused") or {}).get(name, "the measurement does not contain it")
        content = evidence.content["variants"].get(name) or {"error": missing}
        error = content.get("error")
    described = run.content["variants"].get(name) or {}
    model = (run.content["devices"][device].get("models") or {}).get(name) or {}
    reasons = _reasons(run, name, content, latencies, qualities)
    none = quality.Quality(dict.fromkeys(quality.FIGURES), {})
    test = qualities.get("test", none)
    energy_figures = energy.figures(name)
    if error and energy_figures["energy_j"] is None:
        energy_figures["energy_reason"] = error
    return {
        "error": error,
        "role": described.get("role", CANDIDATE),
        "point": described.get("point"),
        "integers": described.get("integers"),
        **test.figures,
        "by_class": by_class(test.scores, run.labels.get("test"), _class_names(run)),
        "validation": qualities.get("validation", none).figures,
        "parameters": described.get("parameters"),
        "macs": described.get("macs"),
        "size_bytes": model.get("size_bytes"),
        "zero_share": model.get("zero_share"),
        "compressed_bytes": model.get("compressed_bytes"),
        "latency_ns": latencies.summaries.get(name),
        **_speedup(name, latencies),
        **_alone(content),
        **energy_figures,
        "model": {key: model.get(key) for key in ("file", "sha256")},
        "reasons": {key: error or why for key, why in reasons.items()},
    }


def _alone(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the device says of a variant by itself, outside of the rounds."""
    throughput = content.get("throughput")
    facts = {key: value for key, value in (content.get("facts") or {}).items() if value is not None}
    return {
        "gpu_ns": gpu_time(facts),
        "throughput_per_s": throughput["inferences"] / throughput["seconds"] if throughput else None,
        "throughput_threads": throughput["threads"] if throughput else None,
        **{key: content.get(key) for key in ("load_ns", "cold_start_ns", "peak_memory_bytes")},
        "precision": facts.get("precision"),
        "facts": {key: value for key, value in facts.items() if key not in _RAW} | _layers(facts),
        "prepare": content.get("prepare") or {},
    }


def _layers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of the layers: their raw times stay in the measurement."""
    if "layers" not in facts:
        return {}
    return {"layers": [{key: layer[key] for key in ("name", "type", "precision")} for layer in facts["layers"]]}


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

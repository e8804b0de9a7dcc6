"""Run directories made of numbers that are known beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
ENERGY = ("meter", "reason", "scope", "scope_kind", "floor_w", "floor_j", "period_s", "windows", "samples")


@dataclass(frozen=True)
class Fake:
    """A variant with known properties.

    Args:
        wrong: Of the samples of a split, how many it gets wrong (the first ones), or which, by split.
        latency_us: The latency of every call, before noise.
        role: What run.json says of it; nothing when None.
    """

    latency_us: float | None
    wrong: dict[str, int | Sequence[int]] = field(default_factory=lambda: {"test": 0, "validation": 0})
    size: int = 1_000_000
    parameters: int | None = 250_000
    macs: int | None = 40_000_000
    precision: dict[str, int] | None = None
    error: str | None = None
    joules: float | None = None
    memory: int | None = 5_000_000
    layers: list[dict[str, str]] | None = None
    role: str | None = None


TEACHER = Fake(1000.0, {"test": 10, "validation": 10}, size=1_000_000, precision={"float32": 11})
STUDENT = Fake(400.0, {"test": 12, "validation": 11}, size=200_000, precision={"float32": 11})
PRUNED = Fake(300.0, {"test": 14, "validation": 12}, size=100_000, precision={"float32": 11})
INT8 = Fake(200.0, {"test": 15, "validation": 15}, size=30_000, precision={"int8": 9, "float32": 2})
BASELINE = Fake(400.0, {"test": 20, "validation": 12}, size=200_000, precision={"float32": 11}, role="baseline")
CHAIN = {"teacher": TEACHER, "student": STUDENT, "pruned": PRUNED, "int8": INT8}
TERMS = {
    "labels": {"loss": [0.2, 0.1, 0.1], "share": [0.1, 0.2, 0.25], "gradient_norm": [0.5, 0.25, 0.125]},
    "kd": {"loss": [1.8, 0.4, 0.3], "share": [0.9, 0.8, 0.75], "gradient_norm": [4.0, 2.0, None]},
}

CHOICE = {
    "chosen": "wide",
    "rounds": [
        {"epochs": 1, "validation": {"small": 0.8, "wide": 0.9, "deep": 0.91}},
        {"epochs": 2, "validation": {"wide": 0.95, "deep": 0.94}},
    ],
    "candidates": {
        "small": {"validation": 0.97, "parameters": None, "macs": None, "calibration_error": None},
        "wide": {"validation": 0.99, "parameters": 1_000_000, "macs": 20_000_000, "calibration_error": 0.0123},
        "deep": {"validation": 0.992, "parameters": 3_000_000, "macs": 60_000_000, "calibration_error": 0.0211},
    },
}


def outputs_and_labels(n: int, wrong: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits that miss the label of the first `wrong` samples, or of those listed, and hit the others."""
    labels = np.arange(n) % CLASSES
    predicted = labels.copy()
    missed = list(range(wrong)) if isinstance(wrong, int) else list(wrong)
    predicted[missed] = (labels[missed] + 1) % CLASSES
    return np.eye(CLASSES, dtype=np.float32)[predicted] * 5, labels.astype(np.int64)


def latencies(us: float, rng: np.random.Generator, state: np.ndarray, calls: int, noise: float) -> np.ndarray:
    """Nanoseconds [rounds, calls]: the latency in the machine's state of each round [rounds], with noise per call."""
    jitter = rng.gamma(2.0, noise / 2, size=(len(state), calls)) if noise else np.zeros((len(state), calls))
    return np.maximum(1, (us * 1000 * state[:, None] * (1 + jitter))).astype(np.int64)


def write_measurement(
    folder: Path,
    variants: dict[str, Fake],
    *,
    reference: str | None = "teacher",
    samples: dict[str, int] | None = None,
    processes: int = 3,
    rounds: int = 40,
    calls: int = 10,
    noise: float = 0.02,
    wander: float = 0.0,
    control: bool = True,
    seed: int = 0,
    **more: Any,
) -> None:
    """Write a measurement directory; `more` replaces keys of measurement.json."""
    rng = np.random.default_rng(seed)
    samples = {"test": 1000, "validation": 500} if samples is None else samples
    files: dict[str, str] = {}

    def keep(name: str, path: Path) -> str:
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return name

    (folder / "outputs").mkdir(parents=True)
    (folder / "samples").mkdir()
    described: dict[str, Any] = {}
    for index, (name, fake) in enumerate(variants.items()):
        outputs = {}
        for split, n in samples.items() if fake.error is None else ():
            path = folder / "outputs" / f"{index}.{split}.npz"
            np.savez(path, logits=outputs_and_labels(n, fake.wrong[split])[0])
            outputs[split] = keep(f"outputs/{path.name}", path)
        described[name] = {
            "error": fake.error,
            "outputs": outputs,
            "cold_start_ns": 20_000_000,
            "load_ns": 10_000_000,
            "peak_memory_bytes": fake.memory,
            "memory_reason": None if fake.memory else "the kernel does not say",
            "throughput": {"inferences": 2000, "seconds": 2.0, "threads": 2},
            "throughput_reason": None,
            "prepare": {},
            "facts": {"provider": "CPUExecutionProvider", "precision": fake.precision, "layers": fake.layers},
        }
    timed = {name: fake for name, fake in variants.items() if fake.error is None and fake.latency_us is not None}
    columns = list(timed)
    if control and timed:
        columns.append(f"{reference if reference in timed else columns[0]}#control")
    names = []
    for process in range(processes if timed else 0):
        state = 1 + wander * rng.random(rounds)
        arrays = {"order": np.array([rng.permutation(len(columns)) for _ in range(rounds)], np.int16)}
        for index, column in enumerate(columns):
            us = timed[column.removesuffix("#control")].latency_us
            assert us is not None
            arrays[f"latency_ns_{index}"] = latencies(us, rng, state, calls, noise)
            arrays[f"settling_ns_{index}"] = latencies(us, rng, state, 3, noise)
            arrays[f"warmup_ns_{index}"] = latencies(us, rng, state, 1, noise).ravel()
        path = folder / "samples" / f"{process}.npz"
        np.savez(path, **arrays)
        names.append(keep(f"samples/{process}.npz", path))
    metered = {name: fake.joules for name, fake in variants.items() if fake.joules is not None}
    energy = {**dict.fromkeys(ENERGY), "reason": "no readable RAPL domain", "simulated": False}
    if metered:
        described_energy, arrays = energy_files(metered)
        path = folder / "samples" / "energy.json"
        path.write_text(json.dumps(described_energy))
        np.savez(folder / "samples" / "power.npz", **arrays)
        energy |= {
            "meter": "rapl", "reason": None, "scope": "CPU package (package-0)", "scope_kind": "package",
            "floor_j": 6.1e-5, "period_s": described_energy["period_s"],
            "windows": keep("samples/energy.json", path),
            "samples": keep("samples/power.npz", folder / "samples" / "power.npz"),
        }  # fmt: skip
    content = {
        "protocol": 2, "agent": "0.1.0", "started_at": "2030-01-01T00:00:00+00:00",
        "finished_at": "2030-01-01T00:01:00+00:00", "device": "cpu", "backend": "onnxruntime",
        "runtime": {"name": "onnxruntime", "version": "1.31.1"}, "cores": [1],
        "simulated": [], "substituted": None, "locked_clocks": None,
        "environment": {
            "before": {"governor": "performance", "temperature_c": {"cpu": 41.0}, "cpu_flags": ["avx2", "avx512_vnni"]},
            "after": {"governor": "performance", "temperature_c": {"cpu": 47.5}, "cpu_flags": ["avx2", "avx512_vnni"]},
            "changes": [],
        },
        "reference": reference, "batch_size": 1,
        "method": {"processes": processes, "seconds": 10.0, "inferences": 1000, "quick": False},
        "variants": described,
        "latency": {"columns": columns, "processes": names, "core": 1,
                    "spinning": {"checked": True, "cpu_share_idle": 0.01}} if timed else None,
        "latency_reason": None if timed else "nothing to time", "energy": energy, "files": files,
    }  # fmt: skip
    (folder / "measurement.json").write_text(json.dumps({**content, **more}))


def energy_files(
    joules: dict[str, float],
    *,
    windows: int = 5,
    seconds: float = 30.0,
    idle_w: float = 4.0,
    period_s: float = 0.1,
    inferences: int = 10_000,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """samples/energy.json and samples/power.npz of a counter, idle windows before and after, the order ABBA.

    Every inference takes exactly the joules given, and windows begin and end at readings, so that all is exact.
    """
    ticks = round(seconds / period_s)
    names = list(joules)
    order = [name for turn in range(windows) for name in (names if turn % 2 == 0 else names[::-1])]
    watts: list[float] = [idle_w] * 10
    described = []
    for variant in (None, *order, None):
        power = idle_w if variant is None else joules[variant] * inferences / seconds
        described.append({
            "kind": "idle" if variant is None else "active", "variant": variant, "seconds": seconds,
            "start_ns": round(len(watts) * period_s * 1e9), "end_ns": round((len(watts) + ticks) * period_s * 1e9),
            "inferences": 0 if variant is None else inferences, "late": 0, "mean_power_w": power, "rejected": None,
        })  # fmt: skip
        watts += [power] * ticks + [idle_w] * 10
    counter = np.concatenate([[0.0], np.cumsum(watts) * period_s])
    time_ns = np.round(np.arange(len(counter)) * period_s * 1e9).astype(np.int64)
    content = {
        "channels": [{"name": "package-0", "kind": "energy"}], "total": ["package-0"], "period_s": period_s,
        "pace_hz": None, "bursts": [], "warmup": {"seconds": 12.0, "steady": True, "reason": None},
        "windows": described,
    }  # fmt: skip
    return content, {"time_ns": time_ns, "values": counter[:, None]}


def write_run(
    folder: Path,
    variants: dict[str, Fake] | None = None,
    *,
    gates: dict[str, Any] | None = None,
    reference: str | None = "teacher",
    devices: tuple[str, ...] = ("cpu",),
    errors: dict[str, dict[str, str]] | None = None,
    samples: dict[str, int] | None = None,
    labels: bool = True,
    run: dict[str, Any] | None = None,
    **measurement: Any,
) -> Path:
    """Write a run directory of fake variants and return it.

    Args:
        errors: By device; such a device has no measurement.
        run: Replaces keys of run.json.
        measurement: Passed to `write_measurement`.
    """
    variants = CHAIN if variants is None else variants
    samples = {"test": 1000, "validation": 500} if samples is None else samples
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for device in devices:
        error = (errors or {}).get(device)
        described[device] = {
            "profile": {"backend": "onnxruntime"},
            "scheme": {"activations": "u8"},
            "models": {
                name: {"file": f"models/{name}.onnx", "size_bytes": fake.size, "sha256": "0" * 64}
                for name, fake in variants.items()
            },
            "error": error,
        }
        if error is None:
            options = {"device": device, **measurement}
            write_measurement(
                folder / "measurements" / device, variants, reference=reference, samples=samples, **options
            )
    if labels:
        np.savez(folder / "labels.npz", **{split: outputs_and_labels(n, 0)[1] for split, n in samples.items()})
    curves = {"epoch": [1, 2, 3], "train_loss": [2.0, 1.0, 0.5], "validation_accuracy": [0.5, 0.8, 0.95]}
    content = {
        "schema": 1, "edgekd": "0.1.0", "recipe": "digits", "kind": "pipeline", "run_id": "20300101-000000-digits-abcd",
        "task": "classification", "inputs": "data", "reference": reference, "gates": gates or {},
        "variants": {
            name: {"parameters": fake.parameters, "macs": fake.macs, **({"role": fake.role} if fake.role else {})}
            for name, fake in variants.items()
        },
        "devices": described,
        "stages": [
            {"name": "teacher", "artifact": "aa" * 32, "cached": False, "seconds": 12.5, "facts": {"curves": curves}},
            {"name": "distill", "artifact": "bb" * 32, "cached": True, "seconds": 0.1,
             "facts": {"curves": curves, "terms": TERMS}},
            {"name": "export", "artifact": "cc" * 32, "cached": False, "seconds": 1.5, "facts": {"opset": 18}},
        ],
        "provenance": {
            "command": ["edgekd", "pipeline", "digits", "--device", "cpu"], "started_at": "2030-01-01T00:00:00+00:00",
            "versions": {"edgekd": "0.1.0", "numpy": "2.0"}, "host": {"machine": "x86_64"},
            "data": {
                "digest": "dd" * 32, "counts": {"train": 1000, "validation": 500, "test": 1000},
                "classes": [f"digit {k}" for k in range(CLASSES)],
            },
            "recipe": {"version": 1, "data": "digits"}, "git": None,
        },
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**content, **(run or {})}))
    return folder

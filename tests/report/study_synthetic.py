"""Study folders made of numbers that are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

EASE = 1.5  # of the average item


def write_study(
    folder: Path,
    gains: Mapping[str, float],
    *,
    seeds: int = 5,
    items: int = 1000,
    spread: float = 0.02,
    study: Mapping[str, Any] | None = None,
    trials: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
) -> Path:
    """Write a study whose methods are better than the baseline by so much, on a latent scale.

    Args:
        folder: Where to.
        gains: By method; 0.1 is worth about 1 pp.
        seeds: How many.
        items: How many test items; an item's ease and a seed's luck are the same for all methods.
        spread: How much a method's gain differs from seed to seed.
        study: Other content of study.json.
        trials: Other content of single trials; scores of those that are not done are left out.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ease = rng.normal(EASE, 1.0, items)
    luck = rng.normal(0, 0.3, (seeds, items))
    scores = {"teacher": (ease + 0.3 > 0).astype(np.float64)}
    listed = []
    for name, gain in {"baseline": 0.0, **gains}.items():
        for seed in range(seeds):
            right = ease + luck[seed] + gain + rng.normal(0, spread) + rng.normal(0, 0.05, items) > 0
            trial = {
                "method": name,
                "seed": seed,
                "artifact": f"{name}-{seed}-0123456789abcdef",
                "seconds": 60.0 + seed,
                "validation": float(right.mean()),
                "terms": {"task": 0.1, name: 0.9},
                "status": "done",
                "error": None,
                **(trials or {}).get((name, seed), {}),
            }
            listed.append(trial)
            if trial["status"] == "done":
                scores[f"{name}/{seed}"] = right.astype(np.float64)
    content = {
        "schema": 1,
        "edgekd": "1.0",
        "recipe": "digits",
        "task": "classification",
        "metric": "accuracy",
        "baseline": "baseline",
        "seeds": list(range(seeds)),
        "methods": [{"name": name, "changes": {"distill.losses": [name]}} for name in gains],
        "trials": listed,
        "teacher": {"name": "resnet", "test": 0.9, "parameters": 308_000, "macs": 41_200_000},
        "student": {"parameters": 78_000, "macs": 9_100_000},
        "budget": {"epochs": 20, "batch_size": 128, "samples": 1_000_000},
        "margin_pp": 0.1,
        "provenance": {
            "command": ["edgekd", "study", "digits"],
            "started_at": "2026-01-02T03:04:05+00:00",
            "versions": {"edgekd": "1.0"},
            "host": {"machine": "x86_64"},
        },
        **(study or {}),
    }
    (folder / "study.json").write_text(json.dumps(content))
    np.savez(folder / "scores.npz", **scores)
    return folder

"""A recipe that runs in seconds, and what a run of it gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import Recipe, Result

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
QUICK = {"quick": True, "processes": 1, "seconds": 0.05, "inferences": 20}
"""The shortest measurement."""


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Chain:
    """A finished run of the tiny recipe, and the store it filled."""

    recipe: Recipe
    store: Path
    result: Result

    @property
    def path(self) -> Path:
        return self.result.path

    @property
    def content(self) -> dict[str, Any]:
        return json.loads((self.path / "run.json").read_text())


def tiny(**changes: Any) -> dict[str, Any]:
    """Return the content of a recipe that runs in seconds, without its version."""
    network = {"model": "convnet", "batch_size": 32, "learning_rate": 5e-3}
    return {
        "name": "tiny",
        "data": {"source": "digits", "validation": 0.25, "train_samples": 400, "test_samples": 120},
        "teacher": {**network, "width": 16, "blocks": [1, 1], "epochs": 3},
        "student": {**network, "width": 16, "blocks": [1], "epochs": 2},
        "prune": {"ratio": 0.5, "epochs": 1},
        "quantize": {"samples": 64},
        "measure": QUICK,
        **changes,
    }

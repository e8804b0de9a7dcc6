"""A recipe that runs in seconds, and what a run of it gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgekd import Recipe, Result
from edgekd.recipe import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
QUICK = {"quick": True, "processes": 1, "seconds": 0.05, "inferences": 20}
"""The shortest measurement."""
SHORT = [
    "measure.quick=true", "measure.processes=1", "measure.seconds=0.05", "measure.inferences=20", "quantize.samples=64",
]  # fmt: skip
"""What `--set` makes of any shipped recipe for a short measurement."""
TINY = [
    *SHORT, "prune.epochs=1", "name=tiny", "gates={}",
    "data.train_samples=400", "data.validation=0.25", "data.test_samples=120",
    "teacher.width=16", "teacher.blocks=[1, 1]", "teacher.epochs=3", "teacher.batch_size=32",
    "student.width=16", "student.blocks=[1]", "student.epochs=2", "student.batch_size=32", "prune.ratio=0.5",
]  # fmt: skip
"""What `--set` makes of the default recipe, so that it runs in seconds."""


@contextmanager
def short_timings() -> Iterator[None]:
    """Measure the networks of a search for a moment each."""
    from edgekd.search import clock, latency_model, timing

    method = replace(timing.METHOD, processes=1, seconds=0.02, inferences=20, warmup_seconds=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "METHOD", method)
        patch.setattr(clock, "METHOD", method)
        patch.setattr(latency_model, "BUSY", float("inf"))  # so short a measurement is noisy, and is kept all the same
        yield


def shortened(name: str) -> list[str]:
    """Return what `--set` makes of a shipped recipe, so that it runs on few samples for one epoch each."""
    recipe = Recipe.load(name)
    networks = [f"teachers.{one}" for one in recipe.teachers] or ["teacher"]
    trained = [*networks, "student", *(["prune"] if recipe.options("prune") else [])]
    if (quantize := recipe.options("quantize")) and "qat" in quantize.mode:
        trained.append("quantize")
    samples = ["data.train_samples=200", "data.validation=50", "data.test_samples=50"]
    return [*SHORT, *samples, *(f"{one}.epochs=1" for one in trained)]


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
    """Return the content of the default recipe in its shortest form, without its version, and with changes."""
    content = Recipe.load(DEFAULT, TINY).resolved()
    del content["version"]
    return {**content, **changes}

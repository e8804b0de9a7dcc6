"""Does the teacher help? The same student, with and without, by several methods, on several seeds, at equal budget."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import checks, lessons, making, pipeline, rundir, steps, tasks
from edgekd import plan as planning
from edgekd.artifact import Artifact, write_text
from edgekd.errors import StageError, UsageError
from edgekd.lessons import BASELINE
from edgekd.making import Show, Workshop
from edgekd.recipe import Recipe
from edgekd.recording import Record, recorded
from edgekd.report.study import build
from edgekd.report.study.evidence import SCORES_FILE, STUDY_FILE
from edgekd.stages import declared
from edgekd.stages.baseline import Options as Baseline
from edgekd.steps import Step
from edgekd.version import __version__

SCHEMA = 1
LOSSES = "distill.losses"
VARIED = ("distill", "targets", "teacher", "teachers", "assistants", "choose")
_JOINED = re.compile(r"\s*\+\s*(?=[a-z{])")
"""Between two losses; the sign of an exponent stands before a digit."""


@dataclass(frozen=True)
class Method:
    """A way to teach: what it changes of the recipe."""

    name: str
    changes: tuple[str, ...]

    def told(self) -> dict[str, str]:
        """Return what it changes, by key."""
        pairs = (change.split("=", 1) for change in self.changes)
        return {key: value for key, value in pairs if value != "null"}


@dataclass(frozen=True)
class Study:
    """A finished study: its folder, the content of its results.json, and how many trials failed."""

    path: Path
    results: Mapping[str, Any]
    failed: int


def methods(vary: Sequence[str]) -> list[Method]:
    """Return every combination of what is varied.

    Args:
        vary: "key=value,value,..." each. A value is YAML; of `distill.losses` it is a loss, or several joined by "+",
            such as kd+attention, with their published weights.

    Raises:
        UsageError: one is not of this form, or varies something else than the teaching.
    """
    axes = [_axis(text) for text in vary]
    if not axes:
        return [Method("distilled", ())]
    return [
        Method(", ".join(name for name, _ in chosen), tuple(change for _, changes in chosen for change in changes))
        for chosen in product(*axes)
    ]


def _axis(text: str) -> list[tuple[str, tuple[str, ...]]]:
    key, equals, values = text.partition("=")
    # Commas within brackets belong to a value.
    found = [value.strip() for value in re.split(r",(?![^\[{(]*[\])}])", values) if value.strip()]
    if not equals or not found:
        raise UsageError(f"--vary {text}: write key=value,value,..., such as {LOSSES}=kd,dkd,attention")
    if key.partition(".")[0] not in VARIED:
        raise UsageError(
            f"--vary {key}: a study compares ways to teach one student at an equal budget; vary {', '.join(VARIED)} "
            "(and use --set for what is the same in all trials)"
        )
    if key == LOSSES:
        short = (f"{key.partition('.')[0]}.temperature=null", "distill.alpha=null")
        return [(value, (f"{key}=[{_JOINED.sub(', ', value)}]", *short)) for value in found]
    return [(f"{key.rpartition('.')[2]} {value}", (f"{key}={value}",)) for value in found]


def run(
    recipe: str,
    *,
    seeds: int = 5,
    vary: Sequence[str] = (),
    overrides: Sequence[str] = (),
    margin_pp: float = 0.1,
    out: Path | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    show: Show | None = None,
) -> Study:
    """Train every method and the student without a teacher on every seed, and compare them on the test split.

    The teacher, the splits and the views of the data are the same in all trials; a seed decides the student's first
    weights and the order of the samples. Every trial is an artifact: an interrupted study goes on where it was.

    Args:
        recipe: a shipped recipe's name, or the path of a YAML file.
        vary: as in `methods`.
        margin_pp: percentage points below which an advantage is not worth having.
        out: where the study's folder shall be. Default: `runs/` in the store.

    Raises:
        UsageError: found before any work.
        StageError: the teacher could not be made; what is finished is kept.
    """
    started = datetime.now(UTC)
    base = Recipe.load(recipe, overrides)
    plans = {method: Recipe.load(recipe, [*overrides, *method.changes]) for method in methods(vary)}
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least one")
    if base.options("distill") is None:
        raise UsageError(f"{recipe}: distill is switched off: there is nothing to study")
    if out is not None:
        rundir.check_target(out, STUDY_FILE)
    for each in plans.values():
        checks.check(each, (), data_dir)
    shop = pipeline.open_workshop(base, store=store, data_dir=data_dir, show=show or Show())
    if shop.compute.processes > 1:
        raise UsageError("a study trains in one process; run several studies side by side on one store instead")
    for each in plans.values():
        made = steps.training_steps(each)
        making.rehearse(shop, each, planning.plan(shop.store, each, made, shop.data, shop.compute))
    facts = {"kind": "study", "recipe": base.name, "methods": [method.name for method in plans], "seeds": seeds}
    with recorded(shop.store, shop.show, f"study-{base.name}", started, base, **facts) as record:
        shop = replace(shop, show=record.show, store=record.store)
        return _write(base, plans, range(base.seed, base.seed + seeds), margin_pp, shop, out, record)


def _write(
    base: Recipe,
    plans: Mapping[Method, Recipe],
    seeds: Sequence[int],
    margin_pp: float,
    shop: Workshop,
    out: Path | None,
    record: Record,
) -> Study:
    """Run all trials and write the study's folder."""
    scores: dict[str, np.ndarray] = {}
    trials = []
    made: dict[str, Artifact] = {}
    prepared = {method: lessons.prepared(recipe, shop, made) for method, recipe in plans.items()}
    teacher = next(iter(prepared.values()))[steps.reference(base)]
    scores["teacher"] = lessons.scores(base, teacher, shop, "teacher")
    for seed in seeds:  # by seed first: an early look at an unfinished study compares all methods
        for method, recipe in [(Method(BASELINE, ()), base), *plans.items()]:
            found = _trial(method, lessons.seeded(recipe, seed), prepared.get(method, {}), shop)
            if isinstance(found, Artifact):
                scores[f"{method.name}/{seed}"] = lessons.scores(base, found, shop, f"{method.name}, seed {seed}")
            trials.append(_row(method, seed, found))
    student: dict[str, Any] = next((row["profile"] for row in trials if row["profile"]), {})
    failed = sum(row["status"] == "failed" for row in trials)
    content = {
        "schema": SCHEMA,
        "recipe": base.name,
        "run_id": record.run_id,
        "task": base.task,
        "metric": tasks.load(base.task).metric,
        "baseline": BASELINE,
        "seeds": list(seeds),
        "methods": [
            {"name": method.name, "changes": dict(c.split("=", 1) for c in method.changes)} for method in plans
        ],
        "trials": [{name: value for name, value in row.items() if name != "profile"} for row in trials],
        "teacher": {"name": steps.reference(base), "test": float(scores["teacher"].mean()), **_profile(teacher)},
        "student": student,
        "budget": _budget(base, shop),
        "margin_pp": margin_pp,
        "provenance": rundir.provenance(record.started, recipe=base.resolved(), data={"digest": shop.data.digest}),
    }
    with rundir.replacing(record.target(out)) as folder:
        np.savez_compressed(folder / SCORES_FILE, **scores)  # type: ignore[arg-type]
        write_text(folder / STUDY_FILE, json.dumps({"edgekd": __version__, **content}, indent=1))
        results = build.write(folder)
        record.finish(folder, failed=failed, exit_code=StageError.exit_code if failed else 0)
    return Study(record.target(out), results, failed)


def _trial(method: Method, recipe: Recipe, prepared: Mapping[str, Artifact], shop: Workshop) -> Artifact | StageError:
    """Train one student; a training that fails is told, and is no reason to leave the others undone."""
    label = f"{method.name}, seed {recipe.seed}"
    try:
        if method.name != BASELINE:
            return lessons.student(recipe, label, prepared, shop)
        step = Step(label, BASELINE, declared()[BASELINE].stage, BASELINE, given={BASELINE: Baseline()})
        return making.make(shop, recipe, step, prepared)[0]
    except StageError as error:
        shop.show.say(f"{label:<24} failed: {error}")
        shop.show.note("trial failed", {"step": label, "message": str(error)})
        return error


def _row(method: Method, seed: int, found: Artifact | StageError) -> dict[str, Any]:
    row = {"method": method.name, "seed": seed, "artifact": None, "seconds": None, "validation": None, "terms": {}}
    if isinstance(found, StageError):
        return {**row, "status": "failed", "error": str(found), "profile": {}}
    return {
        **row,
        "artifact": found.digest,
        "seconds": found.seconds,
        "validation": found.facts["validation"],
        "terms": found.facts.get("terms") or {},
        "status": "done",
        "error": None,
        "profile": _profile(found),
    }


def _profile(found: Artifact) -> dict[str, Any]:
    return {name: found.facts[name] for name in ("parameters", "macs")}


def _budget(recipe: Recipe, shop: Workshop) -> dict[str, Any]:
    student = recipe.student
    assert student is not None
    return {"epochs": student.epochs, "batch_size": student.batch_size, "samples": len(shop.data.train)}

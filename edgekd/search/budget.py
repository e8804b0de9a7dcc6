"""Runs with a budget: the networks that its points ask for are looked for, made, and measured beside the others."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import making, pipeline
from edgekd.artifact import Artifact
from edgekd.errors import StageError
from edgekd.filing import Job
from edgekd.graph.lint import read
from edgekd.making import Show
from edgekd.options import Gates
from edgekd.pipeline import More, Result
from edgekd.profiles import Handling
from edgekd.recipe import Recipe
from edgekd.search import checking, clock, points, proposing, trials
from edgekd.search.clock import Clock, Predictors
from edgekd.search.points import Checked, Found, Times, Tried
from edgekd.search.proposing import FLOAT, INT8, Allowed, Candidate, Proposer, Structure
from edgekd.search.trials import Line
from edgekd.stages.budget import STAGE, Options, Ordering
from edgekd.stages.prune import Options as Pruning
from edgekd.steps import Step, reference

LEARNED = "edgekd.search.learned"
_NS_PER_MS = 1e6


def run(
    recipe: Recipe,
    devices: Sequence[str] | str = ("cpu",),
    *,
    handling: Handling | None = None,
    out: Path | str | None = None,
    store: Path | None = None,
    data_dir: Path | None = None,
    accelerate_config: Path | None = None,
    show: Show | None = None,
    predictors: Predictors | None = None,
) -> Result:
    """Run a recipe on devices, with or without a budget; all else is as of `pipeline.run`.

    Args:
        predictors: what the search takes for the latency of networks that it has not measured. Default: a model that is
            learned on each device.
    """

    def beyond(job: Job, known: Mapping[str, Artifact], handling: Handling) -> More:
        return search(job, known, handling, predictors or learned())

    return pipeline.run(
        recipe, devices, handling=handling, out=out, store=store, data_dir=data_dir,
        accelerate_config=accelerate_config, show=show, beyond=None if recipe.options("budget") is None else beyond,
    )  # fmt: skip


def learned() -> Predictors:
    """Return the latency model, whose packages not every installation has."""
    found: Predictors = importlib.import_module(LEARNED).predictor
    return found


def search(job: Job, known: Mapping[str, Artifact], handling: Handling, predictors: Predictors) -> More:
    """Find the network of each point of a budget, and make all that is measured of it.

    Args:
        known: artifacts by the labels of the job's steps.

    Raises:
        StageError: nothing of the student can be cut, or a device could not be measured.
    """
    options = trials.options(job.recipe)
    names = options.devices(tuple(job.places))
    structures = cuttable(job, known, options)
    clocks = clock.make_clocks(job, known, names, structures, predictors)
    made: dict[str, tuple[Artifact, bool]] = {}
    steps: list[Step] = []
    content: dict[str, Any] = {}
    for name, limits in options.points.items():
        proposer = Proposer(structures, clocks, allowed(job, known, clocks, limits), {})
        job.shop.show.say(f"budget[{name}]: looking for {_told(limits)} on {', '.join(names)}")
        bench = _Bench(job, known, handling, name, limits, clocks, structures, time.monotonic() + 60 * options.minutes)
        found = points.find(name, proposer, bench, options.finalists)
        lines = bench.lines(found.best.candidate)
        for line in lines:
            there = {**known, **{label: artifact for label, (artifact, _) in made.items()}}
            made |= trials.make(job, line, there)
            steps += line.steps
        content[name] = _point(found, limits, names, structures, lines[0])
        job.shop.show.say(f"budget[{name}]: {found.refused or 'found'}")
    rows = [pipeline.row(label, artifact, cached=cached) for label, (artifact, cached) in made.items()]
    artifacts = {label: artifact for label, (artifact, _) in made.items()}
    facts = {name: dict(own.predictor.facts) for name, own in clocks.items()}
    return More(steps, artifacts, rows, {"budget": {"points": content, "latency_model": facts}})


def allowed(job: Job, known: Mapping[str, Artifact], clocks: Mapping[str, Clock], limits: Gates) -> dict[str, Allowed]:
    """Return what a point allows on each device: times as parts of the reference's, in the same rounds."""
    file = known[f"export[{reference(job.recipe)}]"]
    sizes = [limits.max_size_mb * 1e6] if limits.max_size_mb else []
    sizes += [file.facts["size_bytes"] / limits.min_compression] if limits.min_compression else []
    found = {}
    for name, own in clocks.items():
        times = [1 / limits.min_speedup] if limits.min_speedup else []
        if limits.max_p50_ms or limits.max_p99_ms:
            timed = own.timed({"reference": read(own.reference)})["reference"]
            times += [limits.max_p50_ms * _NS_PER_MS / timed.p50_ns] if limits.max_p50_ms else []
            times += [limits.max_p99_ms * _NS_PER_MS / timed.p99_ns] if limits.max_p99_ms else []
        found[name] = Allowed(min(times, default=proposing.UNLIMITED), min(sizes, default=proposing.UNLIMITED))
    return found


def plan(job: Job) -> list[dict[str, str]]:
    """Return what a search would do, as the lines of a plan: what it finds decides what is made."""
    if job.recipe.options("budget") is None:
        return []
    options = trials.options(job.recipe)
    names = options.devices(tuple(job.places))
    several = f"{options.finalists} finalists for {options.short} epochs, the best"
    whole = f"{several if options.finalists > 1 else 'one network'} for {options.epochs} epochs"
    return [
        {
            "step": f"budget[{name}]",
            "state": "will run",
            "reason": f"looks for {_told(limits)} on {', '.join(names)}: trains {whole}; then again, tighter, "
            f"while what is measured misses a limit, for at most {options.minutes:g} minutes",
        }
        for name, limits in options.points.items()
    ]


@dataclass(frozen=True)
class _Bench:
    """`points.Bench`, with everything kept in the store."""

    job: Job
    known: Mapping[str, Artifact]
    handling: Handling
    name: str
    limits: Gates
    clocks: Mapping[str, Clock]
    structures: Sequence[Structure]
    until: float

    def time(self, candidates: Sequence[Candidate]) -> list[Times]:
        """Measure networks that are cut from the templates; of each interval the slow end counts."""
        networks = {
            f"{index}-{precision}": (one.structure, precision, one.widths)
            for index, one in enumerate(candidates)
            for precision in self._precisions(one)
        }
        timed = {device: own.measure(networks) for device, own in self.clocks.items()}
        return [
            {
                device: {precision: 1 / found[f"{index}-{precision}"].low for precision in self._precisions(one)}
                for device, found in timed.items()
            }
            for index, one in enumerate(candidates)
        ]

    def score(self, candidate: Candidate, times: Times) -> float:
        """Train for a short time, and judge the variants that the devices would use."""
        block = self._block(candidate, self._budget.short)
        made = trials.make(self.job, trials.trial(self.job, block), self.known)
        used = {points.in_use(of) for of in times.values()}
        scores = {label: found.facts["validation"] for label, (found, _) in made.items() if "/judge[" in label}
        return min(float(score) for label, score in scores.items() if (FLOAT if "pruned" in label else INT8) in used)

    def check(self, candidate: Candidate, *, again: bool = False) -> Checked:
        """Train fully, export, validate, and measure beside the reference."""
        line = self._whole(candidate)
        made = trials.make(self.job, line, self.known)
        there = {**self.known, **{label: artifact for label, (artifact, _) in made.items()}}
        return checking.check(self.job, there, line.steps, self.name, self.limits, self.handling, again=again)

    def time_is_left(self) -> bool:
        """Return whether the point's minutes are not over."""
        return time.monotonic() < self.until

    def say(self, text: str) -> None:
        """Tell a line."""
        self.job.shop.show.say(text)

    def lines(self, candidate: Candidate) -> tuple[Line, Line]:
        """Return the steps of a point's network, and of the plainly trained one of its shape."""
        block = self._block(candidate, self._budget.epochs)
        return self._whole(candidate), trials.plain(self.job, block, self.name)

    @property
    def _budget(self) -> Options:
        return trials.options(self.job.recipe)

    def _block(self, candidate: Candidate, epochs: int) -> Pruning:
        return trials.pruning(self.job.recipe, self.structures[candidate.structure], candidate, epochs)

    def _whole(self, candidate: Candidate) -> Line:
        return trials.whole(self.job, self._block(candidate, self._budget.epochs), self.name, self.limits)

    def _precisions(self, candidate: Candidate) -> Sequence[str]:
        if candidate.precision == FLOAT:
            return [FLOAT]
        return next(iter(self.clocks.values())).precisions


def cuttable(job: Job, known: Mapping[str, Artifact], options: Options) -> list[Structure]:
    """Return what of the student can be cut, and what it counts, as the budget stage says.

    Raises:
        StageError: nothing.
    """
    given = Ordering(batches=options.batches, depth=options.depth, exclude=options.exclude)
    student = next(step for step in job.steps if step.name == "distill" and step.variant == "student")
    needs = {role: label for role, label in student.needs.items() if role.partition("/")[0] in STAGE.consumes}
    step = Step("budget", "budget", STAGE, "", {**needs, "model": student.label}, {"budget": given})
    made, _ = making.make(job.shop, job.recipe, step, known)
    found = proposing.structures(made.facts, options.round_to)
    if not any(structure.groups for structure in found):
        raise StageError("budget: no channel of the student can be cut; exclude less, or choose another student")
    return found


def _point(
    found: Found, limits: Gates, devices: Sequence[str], structures: Sequence[Structure], line: Line
) -> dict[str, Any]:
    """Return what run.json says of a point."""
    best = found.best
    block = line.recipe.options("prune")
    assert block is not None
    return {
        "devices": list(devices),
        "limits": limits.model_dump(exclude_none=True, exclude_defaults=True),
        "refused": found.refused,
        "variants": [step.variant for step in line.steps if step.stage.makes],
        "prune": block.model_dump(mode="json", include={"widths", "blocks", "importance", "epochs", "learning_rate"}),
        "predicted": _speedups(best.predicted),
        "finalists": [_finalist(one, structures) for one in found.tried],
    }


def _finalist(one: Tried, structures: Sequence[Structure]) -> dict[str, Any]:
    return {
        "widths": dict(one.candidate.widths),
        "blocks": list(structures[one.candidate.structure].removed),
        "how": one.candidate.how,
        "harm": one.candidate.harm,
        "predicted": _speedups(one.predicted),
        "measured": _speedups(one.measured or {}),
        "validation": one.score,
        "missed": None if one.checked is None else [missed.told for missed in one.checked.missed],
    }


def _speedups(times: Times) -> dict[str, dict[str, float]]:
    return {device: {precision: 1 / value for precision, value in of.items()} for device, of in times.items()}


def _told(limits: Gates) -> str:
    asked = limits.model_dump(exclude_none=True, exclude_defaults=True)
    return ", ".join(f"{name} {value:g}" for name, value in asked.items())

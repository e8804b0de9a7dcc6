"""Budgets: are they met as measured, and is the search worth it? Against uniform width, MACs, and random search.

A teacher and a wide student are trained on a part of Fashion-MNIST. For each speed-up over the teacher, four methods
choose a network that holds it as measured on the device, in float:

- ours: `budget`, with the latency model and all that belongs to it.
- uniform: the same part of the channels of every layer, any whole number of them, the widest that holds it.
- macs: our descent with multiply-accumulates in place of the latency model; the largest limit on them that holds it.
- random: as many random networks that hold it as the search has finalists, the best of them after the same short
  training.

Each network is then distilled in full, from the same student, on several seeds. Accuracy is that of the test split, the
mean over the seeds; differences to ours are paired by sample, with their 95 % interval. The claims: every budget is met
as measured or refused with a reason, and no method is better than ours by an interval above zero. Exit code 1 where one
fails.

Usage: python benchmarks/budget.py --data-dir DATA [--work FOLDER] [--samples 6000] [--speedups 4 8 16] [--seeds 3]
A tiny form, to see it work: --samples 300 --epochs 1 --seeds 1 --networks 20 --speedups 3
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from machine import here

from edgekd import lessons, making, pipeline
from edgekd.artifact import Artifact
from edgekd.filing import Job
from edgekd.making import Show
from edgekd.options import Gates
from edgekd.profiles import Handling
from edgekd.recipe import Recipe
from edgekd.report.statistics import paired_difference_interval
from edgekd.search import budget, clock, descent, trials
from edgekd.search.clock import Clock
from edgekd.search.proposing import FLOAT, Allowed, Candidate, Proposer, Structure
from edgekd.stages.prune import Options as Pruning

METHODS = ("ours", "uniform", "macs", "random")
ROUNDS = 7
"""In which the limit on multiply-accumulates, or on the width, is halved to where the measured time holds."""
DRAWS = 400


@dataclass(frozen=True)
class Bench:
    """All that the methods choose with."""

    job: Job
    known: Mapping[str, Artifact]
    clock: Clock
    structures: Sequence[Structure]

    def time(self, candidate: Candidate) -> float:
        """Return the measured time of a candidate, as a part of the teacher's."""
        network = (candidate.structure, FLOAT, candidate.widths)
        return 1 / self.clock.measure({"one": network})["one"].speedup

    def block(self, candidate: Candidate, epochs: int) -> Pruning:
        """Return what makes a candidate in a recipe."""
        return trials.pruning(self.job.recipe, self.structures[candidate.structure], candidate, epochs)

    def tried(self, candidate: Candidate) -> float:
        """Return the validation score after the short training of a finalist."""
        block = self.block(candidate, trials.options(self.job.recipe).short)
        made = trials.make(self.job, trials.trial(self.job, block), self.known)
        return float(made["trial/judge[pruned]"][0].facts["validation"])


def widest(bench: Bench, limit: float, propose: Callable[[float], Candidate | None]) -> Candidate | None:
    """Return the candidate of the largest allowance that holds a time as measured.

    Args:
        propose: gives the candidate of an allowance between 0 and 1.
    """
    low, high, found = 0.0, 1.0, None
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        candidate = propose(middle)
        if candidate is not None and bench.time(candidate) <= limit:
            low, found = middle, candidate
        elif candidate is None:
            low = middle
        else:
            high = middle
    return found


def uniform(bench: Bench, limit: float) -> Candidate | None:
    """Return the widest network of full depth that keeps the same part everywhere."""

    def propose(part: float) -> Candidate | None:
        full = descent.full(bench.structures[0].groups)
        widths = {name: max(1, round(part * width)) for name, width in full.items()}
        return Candidate(0, FLOAT, "uniform", widths, 0.0)

    return widest(bench, limit, propose)


def macs(bench: Bench, limit: float) -> Candidate | None:
    """Return what our descent finds where multiply-accumulates are what is limited."""
    counting = replace(bench.clock, predictor=clock.macs(bench.clock))

    def propose(part: float) -> Candidate | None:
        allowed = {bench.clock.name: Allowed(time=part)}
        found = Proposer(bench.structures, {bench.clock.name: counting}, allowed, {}).candidates()
        return next((one for one in found if one.how == "descent"), None)

    return widest(bench, limit, propose)


def random(bench: Bench, limit: float, seed: int = 0) -> Candidate | None:
    """Return the best of some random networks, after the short training that our finalists have."""
    generator = np.random.default_rng(seed)
    count = trials.options(bench.job.recipe).finalists
    holding = []
    for candidate in drawn(bench, limit, generator):
        if 0.9 * limit <= bench.time(candidate) <= limit:
            holding.append(candidate)
        if len(holding) == count:
            break
    return max(holding, key=bench.tried, default=None)


def drawn(bench: Bench, limit: float, generator: np.random.Generator) -> Iterator[Candidate]:
    """Yield random networks whose predicted time is a little below a limit."""
    for _ in range(DRAWS):
        index = int(generator.integers(len(bench.structures)))
        groups = bench.structures[index].groups
        size = generator.uniform(0.05, 1.0)
        widths = {}
        for one in groups:
            wanted = size * one.choices[-1] * np.exp(generator.normal(0.0, 0.5))
            widths[one.name] = min(one.choices, key=lambda choice, wanted=wanted: abs(choice - wanted))
        (predicted,) = bench.clock.predict(index, FLOAT, [widths])
        if 0.9 * limit <= predicted <= limit:
            yield Candidate(index, FLOAT, "random", widths, descent.harm(groups, widths))


def scores(bench: Bench, block: Pruning, seeds: Sequence[int], name: str) -> np.ndarray:
    """Return the score of each test sample after full distillation, (seeds, N)."""
    found = []
    for seed in seeds:
        recipe = lessons.seeded(bench.job.recipe, seed)
        job = replace(bench.job, recipe=recipe)
        line = trials.whole(job, block, name, Gates())
        made = trials.make(job, replace(line, steps=line.steps[:1]), bench.known)
        found.append(lessons.scores(recipe, made[f"{name}/prune"][0], bench.job.shop, f"{name}, seed {seed}"))
    return np.stack(found)


def compare(
    bench: Bench, name: str, found: Mapping[str, Candidate | None], ours: Pruning, seeds: Sequence[int]
) -> bool:
    """Print a row for each method, and return whether none is better than ours."""
    epochs = trials.options(bench.job.recipe).epochs
    blocks = {"ours": ours, **{method: bench.block(one, epochs) for method, one in found.items() if one is not None}}
    by_method = {method: scores(bench, block, seeds, f"{name}{method}") for method, block in blocks.items()}
    held = True
    for method, own in by_method.items():
        means = 100 * own.mean(axis=1)
        spread = f"{means.mean():.2f} % (seeds: {', '.join(f'{mean:.2f}' for mean in means)})"
        if method == "ours":
            print(f"| {name} | ours | {spread} | | |")
            continue
        difference = 100 * (by_method["ours"].mean() - own.mean())
        low, high = (100 * end for end in paired_difference_interval(by_method["ours"].mean(axis=0), own.mean(axis=0)))
        verdict = "ours is better" if low > 0 else "ours is WORSE" if high < 0 else "no difference shown"
        held &= high >= 0
        print(f"| {name} | {method} | {spread} | {difference:+.2f} pp [{low:+.2f}, {high:+.2f}] | {verdict} |")
    for method in METHODS:
        if method not in by_method:
            print(f"| {name} | {method} | no network holds the limit | | |")
    return held


def prepared(arguments: argparse.Namespace, store: Path) -> Job:
    points = ", ".join(f"{named(speedup)}: {{min_speedup: {speedup:g}}}" for speedup in arguments.speedups)
    overrides = [
        f"data.train_samples={arguments.samples}",
        f"data.validation={arguments.samples // 4}",
        f"teacher.epochs={arguments.epochs}",
        f"student.epochs={arguments.epochs}",
        "quantize=false",
        f"budget={{device: {arguments.device}, points: {{{points}}}, networks: {arguments.networks}, "
        f"epochs: {arguments.epochs}}}",
    ]
    recipe = Recipe.load("fashion-mnist-budget", overrides)
    show = Show(say=lambda text: print(f"  {text}", file=sys.stderr, flush=True))
    return pipeline.prepare(recipe, [arguments.device], store=store, data_dir=arguments.data_dir, show=show)


def named(speedup: float) -> str:
    return f"x{speedup:g}".replace(".", "p")


def measure(arguments: argparse.Namespace, store: Path) -> bool:
    """Run the search, then every other method, and return whether the claims hold."""
    job = prepared(arguments, store)
    making.rehearse(job.shop, job.recipe, pipeline.plan(job))
    known, _ = pipeline.stages(job)
    started = time.monotonic()
    more = budget.search(job, known, Handling(), budget.learned())
    seconds = time.monotonic() - started
    options = trials.options(job.recipe)
    structures = budget.cuttable(job, known, options)
    own = clock.make_clocks(job, known, [arguments.device], structures, budget.learned())[arguments.device]
    bench, held = Bench(job, known, own, structures), True
    told = own.predictor.facts["float"]
    print(f"latency model: mean error {told['mape']:.1%} held out, Spearman {told['spearman']:.3f}")
    print(f"search: {seconds:.0f} s")
    rows: dict[str, dict[str, Candidate | None]] = {}
    print("\n| budget | predicted | measured, cut from the template | verdict of the search |\n|---|---|---|---|")
    for name, limits in options.points.items():
        point = more.content["budget"]["points"][name]
        limit = 1 / (limits.min_speedup or 1)
        ours = candidate_of(point, structures)
        print(
            f"| {limits.min_speedup:g}x | {1 / max(own.predict(ours.structure, FLOAT, [ours.widths])[0], 1e-9):.2f}x | "
            f"{1 / bench.time(ours):.2f}x | {point['refused'] or 'met, with its whole interval'} |"
        )
        held &= point["refused"] is None or bool(point["finalists"])
        # At equal latency: what ours takes is what the others may take.
        limit = max(bench.time(ours), limit) if point["refused"] else limit
        rows[name] = {"uniform": uniform(bench, limit), "macs": macs(bench, limit), "random": random(bench, limit)}
        for method, one in rows[name].items():
            if one is not None:
                print(f"| {limits.min_speedup:g}x | {method} | {1 / bench.time(one):.2f}x | |")
    print("\n| budget | method | test accuracy | ours minus it | verdict |\n|---|---|---|---|---|")
    for name, found in rows.items():
        block = bench.block(candidate_of(more.content["budget"]["points"][name], structures), options.epochs)
        held &= compare(bench, name, found, block, range(arguments.seeds))
    return held


def candidate_of(point: Mapping[str, object], structures: Sequence[Structure]) -> Candidate:
    """Return the network that the search chose."""
    prune = point["prune"]
    assert isinstance(prune, dict)
    index = [structure.removed for structure in structures].index(tuple(prune["blocks"]))
    harm = structures[index].harm + descent.harm(structures[index].groups, prune["widths"])
    return Candidate(index, FLOAT, "descent", prune["widths"], harm)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, help="keep everything here, and go on from it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--speedups", type=float, nargs="+", default=[4, 8, 16])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=100)
    arguments = parser.parse_args()
    print(here())
    print(f"{' '.join(sys.argv)}\n")
    with tempfile.TemporaryDirectory() as temporary:
        held = measure(arguments, arguments.work or Path(temporary))
    print(f"\n{'the claims hold' if held else 'a claim FAILED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

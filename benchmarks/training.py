"""What distillation adds to a training step, and what our loop adds to a bare one.

1. A step that learns from labels and from kept answers of the teacher, against a step that learns from labels alone.
2. A step that asks the teacher itself, against its parts: the teacher's forward pass and the step with labels.
3. Our loop against that of bare_training.py, with the same batches, optimizer, schedule and loss; that the weights
   agree after the first steps is checked.

All sides take turns of a few steps in random order, in one process; a ratio is the median over the rounds of the
ratios of a round, with a bootstrap interval. Our side is what `fit` runs in an epoch, paused between two steps.
Checkpoints are left out there (at most 2 % of the time), and scores after an epoch; a second comparison, of `fit` as a
whole with a bare training that scores too, has both in it. Exit code 1 where a ratio is above its limit.

Usage: python benchmarks/training.py [--network mlp|resnet] [--device cpu|cuda] [--threads 2] [--rounds 100]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare_training import (
    ALPHA,
    BATCH,
    PAIRS,
    SEED,
    TEMPERATURE,
    TRAIN,
    Bare,
    Setting,
    bare_losses,
    bare_training,
    prepare,
)
from machine import here
from numpy.typing import NDArray
from torch import nn

from edgekd import tasks
from edgekd.distill.distill import objective
from edgekd.distill.teachers import Source
from edgekd.models import parameters
from edgekd.report.statistics import Estimate, paired_medians
from edgekd.stage import silent
from edgekd.stages.distill import Options
from edgekd.training import loop
from edgekd.training.engine import lay_out, place
from edgekd.training.feeding import Feed, Shown
from edgekd.training.objective import Objective

KEPT_LIMIT, LIVE_LIMIT, LOOP_LIMIT = 1.05, 1.10, 1.05
WHOLE_EPOCHS = 2

Seconds = NDArray[np.float64]


class Paused:
    """A feed that ends after so many steps and goes on where it was."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self.cut, self.steps_left = feed, feed.cut, 0
        self._running: Iterator[tuple[int, Iterator[Shown]]] = iter(())

    def steps(self, epoch: int, first: int) -> Iterator[tuple[int, Iterator[Shown]]]:
        """Yield the next steps as the feed does."""
        if first == 0:
            self._running = self._feed.steps(epoch, 0)
        yield from islice(self._running, self.steps_left)


class NoCheckpoints:
    """What a training offers its checkpoints to."""

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write nothing."""
        del state


class Ours:
    """The loop of `fit`: what it prepares and what it does in an epoch."""

    def __init__(self, setting: Setting, kind: str, folder: Path) -> None:
        self.model = copy.deepcopy(setting.student)
        given = loop._prepare(
            self.model, goal(setting, self.model, kind), setting.data, setting.training, setting.accelerator,
            (SEED, SEED), folder, silent,
        )  # fmt: skip
        self._state = loop._resume(given)
        self._feed = Paused(given.feed)
        self._setting = replace(given, feed=self._feed, writer=NoCheckpoints())  # type: ignore[arg-type]

    def __call__(self, steps: int) -> None:
        """Take so many steps."""
        state = self._state
        while steps:
            before = state.step
            self._feed.steps_left = steps
            loop._epoch(self._setting, state)
            steps -= state.step - before
            if state.step == self._feed.cut.steps:
                self._setting.ledger.close(state.step)
                state.epoch, state.step = state.epoch + 1, 0


def goal(setting: Setting, model: nn.Module, kind: str) -> Objective:
    """Return what a recipe's student minimises."""
    teacher = copy.deepcopy(setting.teacher)
    example = torch.from_numpy(setting.data.train.inputs[:2])
    source = Source("teacher", teacher, example, setting.artifact if kind == "kept" else None)
    options = Options(temperature=TEMPERATURE, alpha=0.0 if kind == "labels" else ALPHA)
    return objective(
        options, model, [source], setting.data, tasks.load("classification"), setting.training,
        accelerator=setting.accelerator, seed=SEED,
    )  # fmt: skip


def teacher_alone(setting: Setting) -> Callable[[int], None]:
    """Return what runs the teacher on a batch that is in the cache already."""
    inputs = torch.from_numpy(setting.data.train.inputs[:BATCH])
    teacher = copy.deepcopy(setting.teacher)
    layout = lay_out(teacher, inputs)
    teacher = place(teacher, setting.device, layout)
    inputs = inputs.to(setting.device).contiguous(memory_format=layout)

    def forward(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                teacher(inputs)

    return forward


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(setting: Setting, steps: int, rounds: int, folder: Path) -> dict[str, Seconds]:
    """Return the seconds per step of all sides in each round."""
    losses = bare_losses(setting)
    sides: dict[str, Callable[[int], None]] = {f"bare, {kind}": Bare(setting, loss) for kind, loss in losses.items()}
    sides |= {f"ours, {kind}": Ours(setting, kind, folder) for kind in losses}
    for side in sides.values():
        side(steps)
    for kind in losses:
        same_weights(sides[f"ours, {kind}"], sides[f"bare, {kind}"])
    sides |= {"bare, labels again": Bare(setting, losses["labels"]), "teacher": teacher_alone(setting)}
    found = {name: np.zeros(rounds) for name in sides}
    random = np.random.default_rng(SEED)
    for index in range(-2, rounds):
        for name in random.permutation(list(sides)).tolist():
            taken = seconds(lambda name=name: sides[name](steps), setting.device)  # type: ignore[misc]
            if index >= 0:
                found[name][index] = taken / steps
    return found


def same_weights(ours: Any, bare: Any) -> None:
    """Raise unless both trained the same network to the same weights."""
    for own, other in zip(ours.model.parameters(), bare.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def our_training(setting: Setting, kind: str) -> None:
    model = copy.deepcopy(setting.student)
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(
            model, goal(setting, model, kind), setting.data, tasks.load("classification"), setting.training,
            accelerator=setting.accelerator, seed=SEED, view_seed=SEED, out=Path(folder), progress=silent,
        )  # fmt: skip


def compare_whole(setting: Setting, rounds: int) -> dict[str, Seconds]:
    """Return the seconds per step of whole trainings from kept answers, with preparation, scores and checkpoints."""
    setting = replace(setting, training=setting.training.model_copy(update={"epochs": WHOLE_EPOCHS}))
    loss = bare_losses(setting)["kept"]
    sides = {"ours": lambda: our_training(setting, "kept"), "bare": lambda: bare_training(setting, loss)}
    found = {name: np.zeros(rounds) for name in sides}
    random = np.random.default_rng(SEED)
    for index in range(rounds):
        for name in random.permutation(list(sides)).tolist():
            found[name][index] = seconds(sides[name], setting.device) / (WHOLE_EPOCHS * (TRAIN // BATCH))
    return found


@dataclass(frozen=True)
class Claim:
    """A ratio and its limit, if it has one."""

    name: str
    ratio: Estimate
    limit: float | None

    @property
    def missed(self) -> bool:
        """Whether the ratio is above its limit."""
        return self.limit is not None and self.ratio.value > self.limit


def ratio(own: Seconds, other: Seconds) -> Estimate:
    return paired_medians([[own / other]])[0]


def claims(found: Mapping[str, Seconds], whole: Mapping[str, Seconds] | None) -> list[Claim]:
    made = []
    for side, limit in (("ours", KEPT_LIMIT), ("bare", None)):
        of = ratio(found[f"{side}, kept"], found[f"{side}, labels"])
        made.append(Claim(f"kept answers / labels alone, {side}", of, limit))
    for side, limit in (("ours", LIVE_LIMIT), ("bare", None)):
        of = ratio(found[f"{side}, live"], found["teacher"] + found[f"{side}, labels"])
        made.append(Claim(f"live teacher / (teacher + labels alone), {side}", of, limit))
        of = ratio(found[f"{side}, live"], found["teacher"] + found[f"{side}, kept"])
        made.append(Claim(f"live teacher / (teacher + kept answers), {side}", of, None))
    for kind in ("labels", "kept", "live"):
        of = ratio(found[f"ours, {kind}"], found[f"bare, {kind}"])
        made.append(Claim(f"our loop / bare loop, {kind}", of, LOOP_LIMIT))
    if whole is not None:
        name = f"fit / bare training, {WHOLE_EPOCHS} epochs as a whole, kept"
        made.append(Claim(name, ratio(whole["ours"], whole["bare"]), None))
    again = ratio(found["bare, labels again"], found["bare, labels"])
    return [*made, Claim("control: bare loop / itself, labels", again, None)]


def report(found: Mapping[str, Seconds], made: Sequence[Claim]) -> None:
    print(f"\n{'step':<20}{'median ms':>11}{'quartiles':>19}{'items/s':>11}")
    for name, taken in found.items():
        low, middle, high = np.percentile(taken * 1e3, (25, 50, 75))
        print(f"{name:<20}{middle:>11.3f}{f'{low:.3f} - {high:.3f}':>19}{BATCH / middle * 1e3:>11,.0f}")
    print(f"\n{'ratio, paired by round':<54}{'median':>8}{'95 % interval':>17}{'limit':>7}")
    for claim in made:
        interval = "{:.3f} - {:.3f}".format(*claim.ratio.ci)
        told = "" if claim.limit is None else f"{claim.limit:>7.2f}  {'MISSED' if claim.missed else 'ok'}"
        print(f"{claim.name:<54}{claim.ratio.value:>8.3f}{interval:>17}{told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=PAIRS, default="mlp")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--rounds", type=int, default=100, help="turns of each side")
    parser.add_argument("--steps", type=int, help="steps of a turn (default: 50 for mlp, 3 for resnet)")
    parser.add_argument("--whole", type=int, default=5, help="whole trainings of each side; 0: none")
    parser.add_argument("--json", type=Path, help="write all times and ratios to this file too")
    chosen = parser.parse_args()
    pair = PAIRS[chosen.network]
    steps = chosen.steps or pair.steps
    print(f"{here()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(pair, chosen.device, chosen.threads, steps * (chosen.rounds + 3), Path(folder))
        print(
            f"{chosen.network} on {chosen.device}, {chosen.threads} threads, batch {BATCH}: student of "
            f"{parameters(setting.student):,} parameters, teacher of {parameters(setting.teacher):,}; {chosen.rounds} "
            f"rounds of {steps} steps"
        )
        found = compare(setting, steps, chosen.rounds, Path(folder))
        whole = compare_whole(setting, chosen.whole) if chosen.whole else None
    made = claims(found, whole)
    report(found, made)
    if chosen.json is not None:
        ratios = {
            claim.name: {"ratio": claim.ratio.value, "ci": claim.ratio.ci, "limit": claim.limit} for claim in made
        }
        times = {name: taken.tolist() for name, taken in found.items()}
        chosen.json.write_text(json.dumps({"seconds_per_step": times, "ratios": ratios}, indent=1) + "\n")
    if any(claim.missed for claim in made):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""What distillation adds to a training step, and what our loop adds to a bare one.

1. A step that learns from labels and from kept answers of the teacher, against a step that learns from labels alone.
2. A step that asks the teacher itself, against its parts: the teacher's forward pass and the step with labels.
3. Our loop against a loop written down here, with the same batches, optimizer, schedule and loss; that the weights
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
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from edgekd import tasks
from edgekd.agent import environment
from edgekd.artifact import Artifact
from edgekd.data import Data, Split
from edgekd.distill.distill import objective
from edgekd.distill.teachers import Source, frozen
from edgekd.models import mlp, parameters, resnet
from edgekd.options import Network
from edgekd.report.statistics import Estimate, paired_medians
from edgekd.stage import silent
from edgekd.stages.distill import Options
from edgekd.training import loop
from edgekd.training.engine import accelerate, lay_out, mixed, place
from edgekd.training.evaluation import BATCH as SCORED
from edgekd.training.feeding import ORDER, Feed, Shown
from edgekd.training.objective import Objective
from edgekd.training.schedule import learning_rate

BATCH, CLASSES, SEED = 128, 10, 0
SHAPE, TRAIN, VALIDATION = (1, 28, 28), 54_000, 6_000
TEMPERATURE, ALPHA = 4.0, 0.9
KEPT_LIMIT, LIVE_LIMIT, LOOP_LIMIT = 1.05, 1.10, 1.05
WHOLE_EPOCHS = 2

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, and how many steps a turn has."""

    build: Callable[..., nn.Module]
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    steps: int


PAIRS = {
    "mlp": Pair(mlp.build, {"widths": (96, 32)}, {"widths": (320, 170)}, 50),
    "resnet": Pair(resnet.build, {"width": 8}, {"width": 16, "blocks": (2, 2, 2)}, 3),
}


@dataclass(frozen=True)
class Setting:
    """What all sides share.

    Args:
        student: untrained; each side trains a copy.
        kept: the teacher's answers to the training split, fp16 (N, K).
        artifact: the same as the targets stage leaves them.
    """

    data: Data
    training: Network
    accelerator: Accelerator
    student: nn.Module
    teacher: nn.Module
    kept: Tensor
    artifact: Artifact

    @property
    def device(self) -> torch.device:
        """Where the networks are trained."""
        return torch.device(self.accelerator.device)

    @property
    def epochs(self) -> int:
        """Of the training."""
        return self.training.epochs or 0


def images(count: int, seed: int) -> Split:
    """Return noisy copies of ten random images."""
    random = np.random.default_rng(seed)
    targets = random.integers(CLASSES, size=count)
    originals = np.random.default_rng(SEED).standard_normal((CLASSES, *SHAPE), np.float32)
    return Split(originals[targets] + 3 * random.standard_normal((count, *SHAPE), np.float32), targets)


def prepare(pair: Pair, compute: str, threads: int, steps: int, folder: Path) -> Setting:
    data = Data("synthetic", images(TRAIN, 1), images(VALIDATION, 2), images(CLASSES, 3), tuple("0123456789"))
    training = Network(model="of a pair", epochs=1 + steps // (TRAIN // BATCH), batch_size=BATCH)
    accelerator = accelerate(compute, "fp32")
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    student = pair.build(input_shape=SHAPE, classes=CLASSES, **pair.student)
    teacher = frozen(pair.build(input_shape=SHAPE, classes=CLASSES, **pair.teacher)).to(accelerator.device)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(data.train.inputs), 1000)
        kept = torch.cat([teacher(part.to(accelerator.device)) for part in parts]).half()
    np.save(folder / "answers-0000.npy", kept.cpu().numpy())
    facts = {"views": 1, "top": None, "classes": CLASSES, "temperature": 1.0, "size_bytes": kept.nbytes}
    artifact = Artifact(folder, "targets", "", "", facts)
    return Setting(data, training, accelerator, student, teacher.cpu(), kept, artifact)


def distilled(logits: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
    """Return the loss of response distillation, as in any tutorial."""
    soft = kl_div(
        log_softmax(logits / TEMPERATURE, dim=1), softmax(answers / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return (1 - ALPHA) * cross_entropy(logits, labels) + ALPHA * TEMPERATURE**2 * soft


def bare_losses(setting: Setting) -> dict[str, Loss]:
    """Return what the bare loop minimises, by kind."""
    teacher = copy.deepcopy(setting.teacher)
    layout = lay_out(teacher, torch.from_numpy(setting.data.train.inputs[:2]))
    teacher = place(teacher, setting.device, layout)

    def labels(logits: Tensor, _: Tensor, targets: Tensor, __: Tensor) -> Tensor:
        return cross_entropy(logits, targets)

    def kept(logits: Tensor, _: Tensor, targets: Tensor, samples: Tensor) -> Tensor:
        return distilled(logits, targets, setting.kept.index_select(0, samples).float())

    def live(logits: Tensor, inputs: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(inputs)
        return distilled(logits, targets, answers)

    return {"labels": labels, "kept": kept, "live": live}


def bare_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    setting: Setting,
    loss_of: Loss,
    layout: torch.memory_format,
    epoch: int,
) -> Iterator[None]:
    """Train for an epoch as one would write it down first, and pause after each step."""
    train, training = setting.data.train, setting.training
    inputs = torch.from_numpy(train.inputs).to(setting.device)
    targets = torch.from_numpy(train.targets).to(setting.device)
    generator = torch.Generator().manual_seed(mixed(SEED, epoch, ORDER))
    order = torch.randperm(len(train), generator=generator).to(setting.device)
    steps = len(train) // BATCH
    losses = []
    model.train()
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        batch = inputs.index_select(0, chosen).contiguous(memory_format=layout)
        rate = learning_rate(training, epoch * steps + step, setting.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model(batch), batch, targets.index_select(0, chosen), chosen)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        yield
    torch.stack(losses).mean().item()


def bare_parts(setting: Setting) -> tuple[nn.Module, torch.optim.Optimizer, torch.memory_format]:
    """Return a copy of the student with its optimizer and layout: what `fit` would choose."""
    model = copy.deepcopy(setting.student)
    layout = lay_out(model, torch.from_numpy(setting.data.train.inputs[:2]))
    model = place(model, setting.device, layout)
    groups = [
        {"params": [each for each in model.parameters() if each.ndim > 1], "weight_decay": 1e-4},
        {"params": [each for each in model.parameters() if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, 1e-3, fused=True), layout


class Bare:
    """The bare loop."""

    def __init__(self, setting: Setting, loss: Loss) -> None:
        self.model, optimizer, layout = bare_parts(setting)
        epochs = range(setting.epochs)
        self._running = (
            None for epoch in epochs for _ in bare_epoch(self.model, optimizer, setting, loss, layout, epoch)
        )

    def __call__(self, steps: int) -> None:
        """Take so many steps."""
        for _ in islice(self._running, steps):
            pass


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


def bare_training(setting: Setting, loss: Loss) -> None:
    """Train with a score after each epoch, and keep the best weights."""
    model, optimizer, layout = bare_parts(setting)
    split, best, state = setting.data.validation, -1.0, None
    for epoch in range(setting.epochs):
        for _ in bare_epoch(model, optimizer, setting, loss, layout, epoch):
            pass
        model.eval()
        right = 0
        with torch.no_grad():
            for begin in range(0, len(split), SCORED):
                part = torch.from_numpy(split.inputs[begin : begin + SCORED]).to(setting.device, memory_format=layout)
                predicted = model(part).argmax(1).cpu().numpy()
                right += int((predicted == split.targets[begin : begin + SCORED]).sum())
        if right >= best:
            best, state = right, copy.deepcopy(model.state_dict())
    assert state is not None
    model.load_state_dict(state)


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
    state = environment.snapshot()
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {state['cpu']}, {platform.platform()}, load {state['load_average']}, "
        f"torch {torch.__version__}"
    )
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

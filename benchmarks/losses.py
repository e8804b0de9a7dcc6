"""Time and peak memory of every loss, forward and backward, against the plain formula: python benchmarks/losses.py

The plain formulas are those of plain_losses.py; that both sides give the same value and gradient is checked first. What
a loss learns of its own (vid, infonce, crd, reviewkd) is part of both sides. Features are maps (B, 256, 8, 8), or where
it says so embeddings (B, 256); answers are (B, 100).

Both sides take turns in random order, in one process; the ratio is the median over the rounds of the ratios of a round,
with a bootstrap interval. Memory is the most that one step allocates beyond its inputs: on the CPU by the events of
torch's profiler, which see every tensor and none of the interpreter (a process's resident size is hundreds of megabytes
before the first loss, and what was freed stays in it), on CUDA by torch.cuda.max_memory_allocated.

A plain formula is left out where it would take more memory than --gigabytes. Exit code 1 where the two disagree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells when it starts and stops, unless told before
import torch
from machine import here
from plain_losses import PLAIN, SAMPLES
from torch import Tensor, nn

from edgekd.distill.objective import function_of
from edgekd.report.statistics import paired_medians
from edgekd.terms import Loss, Term, losses

CLASSES, CHANNELS, SIDE = 100, 256, 8
TURN = 0.002
"""Seconds at least that a side calculates before the other one has its turn."""
LEAST_ROUNDS = 3

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """A loss on a batch.

    Args:
        leaves: what the gradient is taken for.
        plain: None where it would not fit.
        exact: whether both sides give the same, or draw their own random numbers.
    """

    name: str
    shape: tuple[int, ...]
    ours: Step
    plain: Step | None
    leaves: list[Tensor]
    parts: nn.Module | None
    exact: bool


@dataclass
class Row:
    """What is printed of a case: seconds, bytes, and ours over plain."""

    loss: str
    shape: tuple[int, ...]
    ours_s: float
    plain_s: float | None
    ratio: float | None
    ci: tuple[float, float] | None
    rounds: int
    ours_bytes: int
    plain_bytes: int | None


def features(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return what a layer gives behind a ReLU; of answers random ones."""
    drawn = torch.randn(shape, device=device)
    return 3 * drawn if shape[1:] == (CLASSES,) else drawn.relu_()


def needed(name: str, shape: tuple[int, ...]) -> int:
    """Return about how many bytes the plain formula takes, where that is much."""
    batch, width = shape[0], math.prod(shape[1:])
    if name == "rkd_angle":
        return 5 * 4 * batch * batch * width
    return 2 * 4 * batch * 16384 * 128 if name == "crd" else 0


def case(loss: Loss, shape: tuple[int, ...], device: torch.device, most: float) -> Case:
    """Return a loss with its published options on random features."""
    torch.manual_seed(0)
    term = Term(loss, loss.schema())
    function, options = function_of(term), term.arguments(loss.own)
    batch = shape[0]
    student: Any = features(shape, device).requires_grad_()
    teacher: Any = features(shape, device)
    leaves = [student]
    if loss.together:
        student, teacher = [student, features(shape, device).requires_grad_()], [teacher, features(shape, device)]
        leaves = [*student]
    targets = torch.randint(CLASSES, (batch,), device=device)
    samples = torch.randperm(SAMPLES, device=device)[:batch]
    plain, parts = PLAIN[loss.name], None
    if loss.parts:
        one: Any = [shape[1:]] * 2 if loss.together else shape[1:]
        made = function_of(term, "_parts")(one, one, samples=SAMPLES, **term.arguments(loss.making)).to(device)
        parts = made
        leaves += [each for each in made.parameters() if each.requires_grad]

    def ours() -> Tensor:
        if parts is not None:
            given = parts(student, teacher, samples=samples, targets=targets)
        else:
            given = {"student": student, "teacher": teacher, **({"targets": targets} if loss.targets else {})}
        value: Tensor = function(**given, **options)
        return value

    def theirs() -> Tensor:
        if parts is not None:
            return plain(student, teacher, parts, samples, targets)
        return plain(student, teacher, targets) if loss.targets else plain(student, teacher)

    fits = needed(loss.name, shape) <= most * 1e9
    return Case(
        loss.name, shape, ours, theirs if fits else None, leaves, parts,
        exact=loss.name != "crd",
    )  # fmt: skip


def cases(batches: Sequence[int], names: Sequence[str], device: torch.device, most: float) -> Iterator[Case]:
    known = {loss.name: loss for loss in losses().values()}
    for name, loss in known.items():
        if names and name not in names:
            continue
        shapes: list[tuple[int, ...]] = [(CLASSES,)] if loss.on == "answers" else [(CHANNELS, SIDE, SIDE)]
        if loss.default_layer == "embedding" and not loss.parts:
            shapes.append((CHANNELS,))
        for shape in shapes:
            for batch in batches:
                yield case(loss, (batch, *shape), device, most)


def step(of: Step, leaves: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a loss and its gradient."""
    value = of()
    return value, torch.autograd.grad(value, leaves)


def agree(one: Case) -> str | None:
    """Return how the two sides differ, if they do."""
    if one.plain is None:
        return None
    if one.parts is not None and not one.exact:
        one.parts.eval()  # a memory stays as it is
    (value, gradient), (other, others) = step(one.ours, one.leaves), step(one.plain, one.leaves)
    if one.parts is not None:
        one.parts.train()
    allowed = 2e-3 if one.exact else 0.05
    if not abs(value.item() - other.item()) <= allowed * abs(other.item()) + 1e-6:
        return f"the value is {value.item():.6g} and by the plain formula {other.item():.6g}"
    if not one.exact:
        return None
    for own, wanted in zip(gradient, others, strict=True):
        difference = float((own - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
        if not difference <= 5e-3:
            return f"the gradients differ by {difference:.1e} of the largest element"
    return None


def peak(of: Step, leaves: Sequence[Tensor]) -> int:
    """Return the most bytes that a step has allocated at a time."""
    if leaves[0].device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(of, leaves)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        step(of, leaves)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    held = np.cumsum([change for _, change in sorted(changes, key=lambda entry: entry[0])])
    return int(held.max(initial=0))


def turn(of: Step, leaves: Sequence[Tensor], calls: int) -> float:
    """Return the seconds of a step."""
    start = time.perf_counter()
    for _ in range(calls):
        step(of, leaves)
    if leaves[0].device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def measure(one: Case, seconds: float) -> Row:
    """Let both sides take turns."""
    sides = [one.ours] if one.plain is None else [one.ours, one.plain]
    memory = [peak(side, one.leaves) for side in sides]
    found: list[list[float]] = []
    random = np.random.default_rng(0)
    calls = [max(1, math.ceil(TURN / turn(side, one.leaves, 1))) for side in sides]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < LEAST_ROUNDS:
        times = [0.0] * len(sides)
        for index in random.permutation(len(sides)).tolist():
            times[index] = turn(sides[index], one.leaves, calls[index])
        found.append(times)
    taken = np.array(found)
    ours = float(np.median(taken[:, 0]))
    if one.plain is None:
        return Row(one.name, one.shape, ours, None, None, None, len(found), memory[0], None)
    ratio = paired_medians([[taken[:, 0] / taken[:, 1]]])[0]
    plain = float(np.median(taken[:, 1]))
    return Row(one.name, one.shape, ours, plain, ratio.value, ratio.ci, len(found), memory[0], memory[1])


def line(row: Row) -> str:
    what = "x".join(map(str, row.shape))
    text = f"{row.loss:<17}{what:<15}{row.ours_s * 1e3:>10.3f}"
    if row.plain_s is None or row.ci is None or row.plain_bytes is None:
        gigabytes = needed(row.loss, row.shape) / 1e9
        return f"{text}{'-':>10}{'':>24}{row.ours_bytes / 1e6:>10.1f}   (plain: about {gigabytes:.0f} GB)"
    interval = f"{row.ci[0]:.2f} - {row.ci[1]:.2f}"
    return (
        f"{text}{row.plain_s * 1e3:>10.3f}{row.ratio:>8.2f}{interval:>16}{row.ours_bytes / 1e6:>10.1f}"
        f"{row.plain_bytes / 1e6:>10.1f}{row.ours_bytes / max(1, row.plain_bytes):>8.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", nargs="+", default=[], help="only these")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--seconds", type=float, default=0.6, help="measured time of each line, both sides")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="most memory that a plain formula may take")
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    print(f"{here()}, torch {torch.__version__}, {chosen.device}, {chosen.threads} threads")
    print(f"{'forward + backward':<32}{'ours ms':>10}{'plain ms':>10}{'ratio':>8}{'95 % interval':>16}", end="")
    print(f"{'ours MB':>10}{'plain MB':>10}{'ratio':>8}")
    rows, wrong = [], []
    for one in cases(chosen.batches, chosen.losses, device, chosen.gigabytes):
        difference = agree(one)
        if difference is not None:
            wrong.append(f"{one.name} on {one.shape}: {difference}")
        rows.append(measure(one, chosen.seconds))
        print(line(rows[-1]), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if wrong:
        sys.exit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()

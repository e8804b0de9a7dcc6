"""What training gives back of what integers cost: python benchmarks/qat.py [--seeds 5] [--cases four-bits fragile]

Per seed, on the digits: a teacher, a student of depthwise separable convolutions that learns from it, and for each case
the student calibrated (ptq) and trained on with the rounding in its forward pass and with the same teacher (qat), both
beside the float student. The cases: `four-bits`, weights of 4 bits; `fragile`, 8 bits, and a student of which two
channels are a hundred times larger than the others while what hears them is as much smaller: the same function, but all
channels share one range. The control is the float student trained on in the same way for as many epochs: what it gains
is not the rounding's, so the share is also told less that gain. Accuracy is that on the test split, of the network as
it is restored from its files; the recovered share is that of the means over seeds, with the 95 % interval of Fieller
(1954) for a ratio of paired means.

The claim: the share is 0.5 or more, in both cases. Exit code 1 where it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import here
from scipy import stats
from torch import nn

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.artifact import Artifact
from edgekd.compress import qat, quantize
from edgekd.device import Scheme
from edgekd.distill.distill import learn
from edgekd.distill.teachers import sources
from edgekd.models import Description
from edgekd.options import Data, Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.quantize import Options
from edgekd.training import networks

SHAPE = (1, 8, 8)
TEACHER = Network(model="convnet", width=32, blocks=(1, 1), epochs=10, batch_size=64, learning_rate=3e-3)
STUDENT = Network(model="qat:separable", args={"width": 8}, epochs=30, batch_size=64, learning_rate=5e-3)
CASES: dict[str, dict[str, Any]] = {"four-bits": {"weights_bits": 4, "improve": ()}, "fragile": {"improve": ()}}
OUTLIERS, TIMES = 2, 100
LEAST_SHARE = 0.5


def separable(width: int) -> nn.Module:
    """Return a small network of depthwise separable convolutions (Howard et al. 2017, arXiv:1704.04861)."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for outputs, stride in ((2 * width, 1), (2 * width, 2), (2 * width, 1)):
        layers += [
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def trained(
    network: Network, inputs: Inputs, teaching: Distillation, folder: Path, start: Path | None = None
) -> Artifact:
    """Train a network and store it."""
    folder.mkdir()
    data = datasets.of(inputs)
    description = networks.describe(network, data)
    model = networks.build(network, description, inputs.seed) if start is None else models.load(start)
    facts = learn(model, teaching, sources(inputs.artifacts), network, data, inputs, folder)
    return stored(model, description, folder, facts)


def stored(model: nn.Module, description: Description, folder: Path, facts: dict[str, Any]) -> Artifact:
    facts = networks.store(folder, Description(description.factory, description.args, SHAPE), model, facts)
    return Artifact(folder, "teacher", "", "", facts)


def made_fragile(student: Artifact, folder: Path) -> Artifact:
    """Return the same function with channels between the first two convolutions that differ a hundredfold."""
    folder.mkdir()
    model = models.load(student.path)
    with torch.no_grad():
        model[1].weight[:OUTLIERS] *= TIMES  # BatchNorm behind the first convolution
        model[1].bias[:OUTLIERS] *= TIMES
        model[3].weight[:OUTLIERS] /= TIMES  # the depthwise convolution that hears them
    return stored(model, models.describe(student.path), folder, {})


def score(folder: Path, inputs: Inputs) -> float:
    split = datasets.of(inputs).test
    with torch.no_grad():
        outputs = models.load(folder)(torch.from_numpy(split.inputs)).numpy()
    return 100 * float(np.mean(tasks.load("classification").score({"outputs": outputs}, split.targets)))


def one_seed(seed: int, cases: list[str], epochs: int, rate: float | None, root: Path) -> dict[str, float]:
    """Return the accuracy of every network, in per cent."""
    base = Inputs(
        artifacts={}, blocks={}, data_dir=None, task="classification", seed=seed, data_seed=seed,
        data=Data(source="digits"), compute="cpu", variant="int8",
        context={"scheme": Scheme(activations="u8").model_dump()},
    )  # fmt: skip
    teacher = trained(TEACHER, base, Distillation(alpha=0), root / "teacher")
    taught = replace(base, artifacts={"teacher": teacher})
    student = trained(STUDENT, taught, Distillation(), root / "student")
    found = {"teacher": score(teacher.path, base), "float": score(student.path, base)}
    longer = qat.trained_as(STUDENT, Options(mode="qat", epochs=epochs, learning_rate=rate))
    found["control"] = score(trained(longer, taught, Distillation(), root / "control", student.path).path, base)
    students = {"four-bits": student, "fragile": made_fragile(student, root / "fragile")}
    for case in cases:
        given = replace(
            base, artifacts={"teacher": teacher, "model": students[case]},
            blocks={"teacher": TEACHER, "student": STUDENT, "distill": None},
        )  # fmt: skip
        ways = {
            "ptq": Options(**CASES[case]),
            "qat": Options(mode="qat", epochs=epochs, learning_rate=rate, **CASES[case]),
        }
        for way, options in ways.items():
            out = root / f"{case} {way}"
            out.mkdir()
            quantize.quantize(options, given, out)
            found[f"{case} {way}"] = score(out, base)
    return found


def interval(values: np.ndarray) -> list[float] | None:
    """Return the mean and the ends of its 95 % interval (Student's t); None of fewer than two."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1)) / len(values) ** 0.5
    return [round(float(values.mean()) + side * half, 2) for side in (0, -1, 1)]


def share(recovered: np.ndarray, lost: np.ndarray) -> list[float | None]:
    """Return mean(recovered) / mean(lost), and the ends of its 95 % interval; None where it has no end."""
    ratio = float(recovered.mean() / lost.mean())
    if len(lost) < 2:
        return [round(ratio, 3), None, None]
    n, t2 = len(lost), float(stats.t.ppf(0.975, len(lost) - 1)) ** 2
    (rr, rl), (_, ll) = np.cov(recovered, lost) / n
    a, b, c = lost.mean() ** 2 - t2 * ll, recovered.mean() * lost.mean() - t2 * rl, recovered.mean() ** 2 - t2 * rr
    if a <= 0 or b * b < a * c:
        return [round(ratio, 3), None, None]
    root = float(np.sqrt(b * b - a * c))
    return [round(ratio, 3), round(float((b - root) / a), 3), round(float((b + root) / a), 3)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, help="default: what mode: qat takes")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # networks so small gain nothing from a second thread
    rows: list[dict[str, float]] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(seed, arguments.cases, arguments.epochs, arguments.learning_rate, Path(folder)))
        print(json.dumps({"seed": seed, **{name: round(value, 2) for name, value in rows[-1].items()}}), flush=True)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    print("mean over seeds, its 95 % interval:")
    for name, values in columns.items():
        print(f"  {name:<20} {interval(values)}")
    missed = 0
    for case in arguments.cases:
        lost, left = (columns["float"] - columns[f"{case} {way}"] for way in ("ptq", "qat"))
        found = share(lost - left, lost)
        missed += found[0] < LEAST_SHARE
        print(f"{case}: ptq loses {interval(lost)} pp, qat {interval(left)} pp; recovered {found} of it")
        print(f"  less what the control gains: {share(lost - left - (columns['control'] - columns['float']), lost)}")
    print(here())
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

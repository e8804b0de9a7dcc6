"""What training gives back of what 4-bit weights cost: python benchmarks/qat.py [--seeds 3] [--bits 4] [--epochs 10]

Per seed, on the digits: a teacher, a student that learns from it, the student calibrated (ptq), and the student trained
on with the rounding in its forward pass and with the same teacher (qat). The control is the float student trained on in
the same way for as many epochs: what it gains is not the rounding's. Accuracy is that on the test split, of the network
as it is restored from its files. Intervals over seeds are Student's t (95 %).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

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
STUDENT = Network(model="convnet", width=8, blocks=(1, 1), epochs=20, batch_size=64, learning_rate=5e-3)


def trained(
    network: Network, inputs: Inputs, teaching: Distillation, folder: Path, start: Path | None = None
) -> Artifact:
    """Train a network and store it."""
    folder.mkdir()
    data = datasets.of(inputs)
    description = networks.describe(network, data)
    model = networks.build(network, description, inputs.seed) if start is None else models.load(start)
    facts = learn(model, teaching, sources(inputs.artifacts), network, data, inputs, folder)
    facts = networks.store(folder, Description(description.factory, description.args, SHAPE), model, facts)
    return Artifact(folder, "teacher", "", "", facts)


def score(folder: Path, inputs: Inputs) -> float:
    split = datasets.of(inputs).test
    with torch.no_grad():
        outputs = models.load(folder)(torch.from_numpy(split.inputs)).numpy()
    return 100 * float(np.mean(tasks.load("classification").score({"outputs": outputs}, split.targets)))


def one_seed(seed: int, bits: int, epochs: int, root: Path) -> dict[str, float]:
    base = Inputs(
        artifacts={}, blocks={}, data_dir=None, task="classification", seed=seed, data_seed=seed,
        data=Data(source="digits"), compute="cpu", variant="int8",
        context={"scheme": Scheme(activations="u8").model_dump()},
    )  # fmt: skip
    teacher = trained(TEACHER, base, Distillation(alpha=0), root / "teacher")
    taught = replace(base, artifacts={"teacher": teacher})
    student = trained(STUDENT, taught, Distillation(), root / "student")
    options = Options(mode="qat", epochs=epochs, weights_bits=bits)
    control = trained(qat.trained_as(STUDENT, options), taught, Distillation(), root / "control", student.path)
    given = replace(
        base, artifacts={"teacher": teacher, "model": student},
        blocks={"teacher": TEACHER, "student": STUDENT, "distill": None},
    )  # fmt: skip
    found = {"teacher": score(teacher.path, base), "float": score(student.path, base)}
    found["control"] = score(control.path, base)
    for name, chosen in (("ptq", Options(weights_bits=bits)), ("qat", options)):
        (root / name).mkdir()
        quantize.quantize(chosen, given, root / name)
        found[name] = score(root / name, base)
    return found


def interval(values: list[float]) -> dict[str, Any]:
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    half = None if spread is None else float(stats.t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
    return {"mean": round(mean, 3), "half_width_95": None if half is None else round(half, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, choices=[4, 8], default=4)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(seed, arguments.bits, arguments.epochs, Path(folder)))
        print(json.dumps({"seed": seed, **{name: round(value, 2) for name, value in rows[-1].items()}}), flush=True)
    summary = {
        "accuracy": {name: interval([row[name] for row in rows]) for name in rows[0]},
        "lost_by_ptq_pp": interval([row["float"] - row["ptq"] for row in rows]),
        "lost_by_qat_pp": interval([row["float"] - row["qat"] for row in rows]),
        "recovered_pp": interval([row["qat"] - row["ptq"] for row in rows]),
    }
    lost = summary["lost_by_ptq_pp"]["mean"]
    summary["recovered_share_of_means"] = round(summary["recovered_pp"]["mean"] / lost, 3) if lost > 0 else None
    print(
        json.dumps({**summary, "machine": platform.platform(), "date": datetime.now(UTC).date().isoformat()}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

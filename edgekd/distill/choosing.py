"""The choose stage's work: which of several teachers this student learns best from, by short trials."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import softmax

from edgekd import data as datasets
from edgekd import sealing
from edgekd.artifact import CHECKPOINT, Artifact
from edgekd.data import Data
from edgekd.distill.distill import learn
from edgekd.distill.teachers import Source, frozen, sources
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.choose import Options
from edgekd.stages.distill import Options as Distillation
from edgekd.training import networks, ranks

TRIALS = "trials.json"
BLOCK = 500


def choose(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Let the student learn a little from every candidate, longer from the better ones, and keep the best teacher.

    All judging is on the validation split. The result is a copy of the chosen teacher with the evidence in its facts.
    """
    student: Network = inputs.blocks["student"]
    data = datasets.of(inputs)
    candidates = {source.name: source for source in sources(inputs.artifacts)}
    left, epochs, rounds = list(candidates), options.first_epochs, []
    while len(left) > 1:
        epochs = min(epochs, student.epochs or epochs)
        scores = {name: _trial(candidates[name], epochs, student, data, inputs, out) for name in left}
        rounds.append({"epochs": epochs, "validation": scores})
        left = sorted(left, key=lambda name: -scores[name])[: max(1, len(left) // options.eta)]
        epochs *= options.eta
    (chosen,) = left
    source = inputs.artifacts[f"teacher/{chosen}"]
    if ranks.world()[0] == 0:
        for path in source.path.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, out / path.name)
    evidence = {name: _evidence(candidates[name], inputs.artifacts[f"teacher/{name}"], data) for name in candidates}
    return {**source.facts, "chosen": chosen, "rounds": rounds, "candidates": evidence}


def _trial(candidate: Source, epochs: int, student: Network, data: Data, inputs: Inputs, out: Path) -> float:
    """Return the validation score of a student that learned from a candidate for some epochs; done once, then kept."""
    folder = out / CHECKPOINT / f"{candidate.name}-{epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / TRIALS
    if kept.is_file():
        try:
            return float(sealing.read(kept)["validation"])
        except (OSError, ValueError, KeyError) as error:
            logging.getLogger(__name__).warning("%s cannot be used: %s; the trial is made again", kept, error)
    training = student.model_copy(update={"epochs": epochs})
    distillation = inputs.blocks["distill"]
    assert isinstance(distillation, Distillation)
    model = networks.build(student, networks.describe(student, data), inputs.seed)
    score = float(learn(model, distillation, [candidate], training, data, inputs, folder)["validation"])
    if ranks.world()[0] == 0:
        sealing.write(kept, {"validation": score})
    return score


def _evidence(candidate: Source, source: Artifact, data: Data) -> Mapping[str, Any]:
    """Return what is often thought to make a good teacher, beside what the trials say."""
    assert candidate.model is not None  # no candidate's answers are kept
    model = frozen(candidate.model)
    inputs, targets = data.validation.inputs, data.validation.targets
    with torch.no_grad():
        blocks = [model(torch.from_numpy(inputs[i : i + BLOCK])) for i in range(0, len(inputs), BLOCK)]
    probabilities = softmax(torch.cat(blocks).float(), dim=-1).numpy()
    return {
        "validation": source.facts["validation"],
        "parameters": source.facts["parameters"],
        "macs": source.facts["macs"],
        "calibration_error": calibration_error(probabilities, targets),
    }


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float | None:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3).

        sum_b |b| / N * |accuracy(b) - mean confidence(b)|,  b by equal parts of confidence

    None where the targets are no labels.

    Args:
        probabilities: (N, K).
        targets: (N,).
    """
    if targets.ndim != 1 or probabilities.ndim != 2:
        return None
    sure, right = probabilities.max(1), probabilities.argmax(1) == targets
    which = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.bincount(which, sure - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(targets))

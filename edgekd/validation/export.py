"""The validate stage's work: the network in torch against its ONNX file in ONNX Runtime, on real inputs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd import data as datasets
from edgekd.artifact import write_text
from edgekd.errors import StageError
from edgekd.graph import parity
from edgekd.graph.feeding import batched_inputs
from edgekd.stage import Inputs
from edgekd.stages.validate import Options
from edgekd.training import blackbox
from edgekd.validation import behaviour, quantized, target, tolerance
from edgekd.validation.feeding import Feed
from edgekd.validation.files import Opened, open_model
from edgekd.validation.target import Target

BATCH = 64


def validate(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Check the file by itself, then compare its outputs on the validation split.

    Raises:
        StageError: the file is not sound, or the difference is outside the tolerance.
    """
    source = inputs.artifacts["model"]
    file = inputs.artifacts["onnx"].path / inputs.artifacts["onnx"].facts["file"]
    samples = datasets.of(inputs).validation.inputs[: options.samples]
    graph = _sound(file, samples, inputs.variant)
    model = blackbox.load(source)
    expected = _answers(model, samples)
    if blackbox.is_black_box(source):  # which may take a fixed number of samples
        actual = {graph.outputs[0].name: _answers(blackbox.BlackBox(file), samples)}
    else:
        actual = parity.run_onnx(file, {graph.inputs[0].name: samples}, BATCH)
    found = parity.compare({graph.outputs[0].name: expected}, actual)
    integers = source.facts.get("quantized_layers") is not None
    default = parity.INT8_TOLERANCE if integers else parity.FLOAT_TOLERANCE
    own = {
        name: value for name in ("min_sqnr_db", "min_top1_agreement") if (value := getattr(options, name)) is not None
    }
    facts = {"samples": len(samples), "parity": {name: _plain(one) for name, one in found.items()}}
    problems = parity.check(found, replace(default, **own))
    if problems:
        raise StageError(
            f"validate: the ONNX file of {inputs.variant} does not answer as its network on {len(samples)} inputs: "
            + "; ".join(problems)
        )
    write_text(out / "parity.json", json.dumps(facts, indent=1, allow_nan=False))
    return facts


def _sound(file: Path, samples: np.ndarray, variant: str) -> Opened:
    """Return an export that passed the checks that need no reference, those of `edgekd validate`.

    Raises:
        StageError: one failed.
    """
    opened, found = open_model(file)
    if opened is not None:
        found += quantized.judge(opened, None)
        loaded = target.load(opened, Target(), letter=True)
        names = {opened.inputs[0].name: opened.inputs[0].name}
        feed = Feed("validation", {opened.inputs[0].name: samples}, batched_inputs(opened.inputs), len(samples))
        limit_db = tolerance.batch_limit(opened)
        found += behaviour.probe(opened, loaded, feed, names, limit_db, declared=True).checks
    wrong = [f"{check.id}: {check.message} ({check.remedy})" for check in found if check.fails]
    if opened is None or wrong:
        raise StageError(f"validate: the ONNX file of {variant} is not sound: {'; '.join(wrong)}")
    return opened


def _plain(found: parity.Parity) -> dict[str, float | None]:
    """Return the figures for JSON, where an infinite SQNR (equal outputs) is null."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def _answers(model: nn.Module, samples: np.ndarray) -> np.ndarray:
    parts = [torch.from_numpy(samples[begin : begin + BATCH]) for begin in range(0, len(samples), BATCH)]
    with torch.no_grad():
        answers: np.ndarray = torch.cat([model(part) for part in parts]).numpy()
    return answers

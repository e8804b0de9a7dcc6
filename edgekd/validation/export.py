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
from edgekd.graph.lint import inspect
from edgekd.stage import Inputs
from edgekd.stages.validate import Options
from edgekd.training import blackbox

BATCH = 64


def validate(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Compare outputs on the validation split.

    Raises:
        StageError: the difference is outside the tolerance.
    """
    source = inputs.artifacts["model"]
    file = inputs.artifacts["onnx"].path / inputs.artifacts["onnx"].facts["file"]
    samples = datasets.of(inputs).validation.inputs[: options.samples]
    model = blackbox.load(source)
    expected = _answers(model, samples)
    graph = inspect(file)
    if blackbox.is_black_box(source):  # which may take a fixed number of samples
        actual = {graph.outputs[0].name: _answers(blackbox.BlackBox(file), samples)}
    else:
        actual = parity.run_onnx(file, {graph.inputs[0].name: samples}, BATCH)
    found = parity.compare({graph.outputs[0].name: expected}, actual)
    quantized = source.facts.get("quantized_layers") is not None
    default = parity.INT8_TOLERANCE if quantized else parity.FLOAT_TOLERANCE
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


def _plain(found: parity.Parity) -> dict[str, float | None]:
    """Return the figures for JSON, where an infinite SQNR (equal outputs) is null."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def _answers(model: nn.Module, samples: np.ndarray) -> np.ndarray:
    parts = [torch.from_numpy(samples[begin : begin + BATCH]) for begin in range(0, len(samples), BATCH)]
    with torch.no_grad():
        answers: np.ndarray = torch.cat([model(part) for part in parts]).numpy()
    return answers

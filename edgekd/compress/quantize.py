"""The quantize stage's work, and how its edit is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import data as datasets
from edgekd import models
from edgekd.compress import quantization
from edgekd.data import Data
from edgekd.device import Scheme
from edgekd.stage import Inputs
from edgekd.stages.quantize import Options

BATCH = 64


def quantize(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Calibrate the newest student on training samples, and keep its weights and ranges."""
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    scheme = Scheme.model_validate(inputs.context["scheme"])
    prepared = quantization.prepare(models.load(source.path), (models.example(description.input_shape),), scheme)
    data = datasets.of(inputs)
    count = min(options.samples, len(data.train.inputs))
    quantization.calibrate(prepared, _batches(data, count, inputs))
    edit = {"edit": "quantize", "scheme": scheme.model_dump()}
    models.save(out, description.edited(edit), quantization.observed_state(prepared))
    return {
        "parameters": source.facts["parameters"],
        "macs": source.facts["macs"],
        "scheme": scheme.label,
        "quantized_layers": quantization.quantized_layers(prepared),
        "calibration_samples": count,
    }


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, state: dict[str, Tensor]) -> nn.Module:
    """Replay a quantization: prepare the float network as before, give it the kept weights and ranges, convert."""
    prepared = quantization.prepare(model, (example,), Scheme.model_validate(edit["scheme"]))
    quantization.load_observed_state(prepared, state)
    state.clear()
    return quantization.convert(prepared)


def _batches(data: Data, count: int, inputs: Inputs) -> Iterator[Tensor]:
    """Yield calibration batches: a random choice of training samples, the same for the same seed."""
    chosen = np.random.default_rng(inputs.seed).permutation(len(data.train.inputs))[:count]
    for number, begin in enumerate(range(0, count, BATCH)):
        inputs.progress(number * BATCH, count, "calibrating")
        yield torch.from_numpy(data.train.inputs[chosen[begin : begin + BATCH]])

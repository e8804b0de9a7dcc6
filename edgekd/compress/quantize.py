"""The quantize stage's work, and how its edit is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd import data as datasets
from edgekd import models, tasks
from edgekd.compress import bucketing, histograms, mixed, qat, quantization
from edgekd.compress.improving import Seen, improve
from edgekd.data import Data
from edgekd.device import Scheme
from edgekd.errors import StageError
from edgekd.stage import Inputs
from edgekd.stages.quantize import Options
from edgekd.training import ranks

BATCH = 64
PERCENTILE = 99.99
BITS = 8


def quantize(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Calibrate the newest student on training samples, train it on if asked, and keep its weights and ranges."""
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    scheme = Scheme.model_validate(inputs.context["scheme"])
    data = datasets.of(inputs)
    count = calibration_samples(options, data)
    example = models.example(description.input_shape)
    bits = BITS if options.buckets else options.weights_bits
    model, batches = models.load(source.path), list(_batches(data, count, inputs))
    whole = quantization.captured(model, (example,))
    methods = options.improve if options.buckets is None else ()

    @lru_cache(maxsize=1)
    def integers(float_layers: frozenset[str]) -> tuple[GraphModule, Seen, list[dict[str, Any]]]:
        graph = quantization.prepare(whole, (example,), scheme, bits, float_layers)
        return graph, *improve(
            methods, graph, batches, lambda: quantization.calibrate(graph, batches, chooser(options)),
            data.validation, tasks.load(inputs.task), inputs.progress,
        )  # fmt: skip

    floats = quantization.excluded(model, options.exclude)
    facts: dict[str, Any] = {}
    if "mixed" in options.mode:
        chosen, facts = mixed.choose(
            model, lambda layers: integers(floats.union(layers))[0], options, data, inputs, out
        )
        floats = floats.union(chosen)
    prepared, seen, told = integers(floats)
    if "qat" in options.mode:
        facts = qat.train(prepared, seen, options, data, inputs, out)
    float_layers = [name for name in quantization.layers(prepared) if name in floats]
    if ranks.world()[0] == 0:
        edit = _edit(options, scheme, bits, float_layers)
        models.save(out, description.edited(edit), quantization.observed_state(prepared))
    return {
        **facts,
        "parameters": source.facts["parameters"],
        "macs": source.facts["macs"],
        "scheme": scheme.label,
        "quantized_layers": None if options.buckets else quantization.quantized_layers(prepared),
        "float_layers": float_layers,
        **_bucketing_facts(options, prepared),
        "calibration_samples": count,
        "calibration": options.calibration,
        "weights_bits": options.weights_bits,
        "mode": options.mode[0],
        "improve": told,
    }


def _edit(options: Options, scheme: Scheme, bits: int, float_layers: Sequence[str]) -> dict[str, Any]:
    """Return what `restore` needs."""
    more = {"weights_bits": bits} if bits != BITS else {"buckets": options.buckets} if options.buckets else {}
    kept = {"float_layers": list(float_layers)} if float_layers else {}
    return {"edit": "quantize", "scheme": scheme.model_dump(), **more, **kept}


def _bucketing_facts(options: Options, prepared: GraphModule) -> dict[str, int]:
    if not options.buckets:
        return {}
    size = bucketing.compressed_bytes(prepared, options.weights_bits, options.buckets)
    return {"buckets": options.buckets, "compressed_bytes": size}


def calibration_samples(options: Options, data: Data) -> int:
    """Return how many samples there are to calibrate with.

    Raises:
        StageError: none.
    """
    if not len(data.train.inputs):
        raise StageError("quantize: the training split is empty, and activations get their ranges from its samples")
    return min(options.samples, len(data.train.inputs))


def chooser(options: Options) -> histograms.Chooser | None:
    """Return how the range of an activation is chosen; None: it is all that was seen."""
    match options.calibration:
        case "percentile":
            return histograms.percentile(options.percentile or PERCENTILE)
        case "mse":
            return histograms.least_squares
        case "entropy":
            return histograms.least_information_lost
        case _:
            return None


def restore(model: nn.Module, edit: Mapping[str, Any], example: Tensor, state: dict[str, Tensor]) -> nn.Module:
    """Replay a quantization: prepare the float network as before, give it the kept weights and ranges, convert."""
    scheme = Scheme.model_validate(edit["scheme"])
    floats = edit.get("float_layers", ())
    prepared = quantization.prepare(model, (example,), scheme, edit.get("weights_bits", BITS), floats)
    quantization.load_observed_state(prepared, state)
    state.clear()
    return bucketing.without_observers(prepared) if "buckets" in edit else quantization.convert(prepared)


def _batches(data: Data, count: int, inputs: Inputs) -> Iterator[Tensor]:
    """Yield calibration batches: a random choice of training samples, the same for the same seed."""
    chosen = np.random.default_rng(inputs.seed).permutation(len(data.train.inputs))[:count]
    for number, begin in enumerate(range(0, count, BATCH)):
        inputs.progress(number * BATCH, count, "calibrating")
        yield torch.from_numpy(data.train.inputs[chosen[begin : begin + BATCH]])

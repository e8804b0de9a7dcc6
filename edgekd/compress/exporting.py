"""The export stage's work: a stored network, float or quantized, becomes an ONNX file that describes itself."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgekd import data as datasets
from edgekd import models
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect
from edgekd.stage import Inputs
from edgekd.stages.export import Options
from edgekd.version import __version__

FILE = "model.onnx"


def export(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Write a variant as ONNX with a dynamic batch axis; what is in it says where it comes from."""
    source = inputs.artifacts["model"]
    description = models.describe(source.path)
    data = datasets.of(inputs)
    model = models.load(source.path)
    quantized = source.facts.get("quantized_layers")
    metadata = {
        **inputs.metadata,
        "edgekd": __version__,
        "torch": version("torch"),
        "variant": inputs.variant,
        "network": source.digest,
        "data": data.digest,
        "classes": json.dumps(data.classes),
        "preprocessing": json.dumps(data.preprocessing, sort_keys=True),
    }
    export_onnx(
        model,
        (models.example(description.input_shape),),
        out / FILE,
        input_names=[options.input_name],
        output_names=[options.output_name],
        metadata=metadata,
        max_opset=inputs.context["max_opset"],
        quantized_layers=len(quantized) if quantized is not None else None,
    )
    found = inspect(out / FILE)
    return {
        "file": FILE,
        "size_bytes": (out / FILE).stat().st_size,
        "opset": found.opset,
        "parameters": source.facts["parameters"],
        "macs": source.facts["macs"],
        "quantized_layers": quantized,
    }

"""The export stage's work: a stored network, float or quantized, becomes an ONNX file that describes itself."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgekd import data as datasets
from edgekd import models
from edgekd.graph.adopt import adopt
from edgekd.graph.export import export_onnx
from edgekd.graph.lint import inspect
from edgekd.stage import Inputs
from edgekd.stages.export import Options
from edgekd.training.blackbox import FILE as BLACK_BOX
from edgekd.training.blackbox import is_black_box
from edgekd.version import __version__

FILE = "model.onnx"


def export(options: Options, inputs: Inputs, out: Path) -> dict[str, Any]:
    """Write a variant as ONNX with a dynamic batch axis; what is in it says where it comes from.

    A teacher that came as ONNX keeps its graph, and gets the names of input and output that all variants have.
    """
    source, data = inputs.artifacts["model"], datasets.of(inputs)
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
    if "buckets" in source.facts:  # no operator has such weights: the file holds them as floats
        told = f"{source.facts['weights_bits']} bits in buckets of {source.facts['buckets']}, stored here as floats"
        metadata |= {"weights": told, "compressed_bytes": str(source.facts["compressed_bytes"])}
    max_opset: int = inputs.context["max_opset"]
    if is_black_box(source):
        adopt(
            source.path / BLACK_BOX,
            out / FILE,
            input_name=options.input_name,
            output_name=options.output_name,
            metadata=metadata,
            max_opset=max_opset,
        )
    else:
        export_onnx(
            models.load(source.path),
            (models.example(models.describe(source.path).input_shape),),
            out / FILE,
            input_names=[options.input_name],
            output_names=[options.output_name],
            metadata=metadata,
            max_opset=max_opset,
            quantized_layers=len(quantized) if quantized is not None else None,
            weights_bits=source.facts.get("weights_bits", 8),
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

"""The latency model: how far it is off on networks that it has not seen, beside multiply-accumulates as the predictor.

A residual network is the seed; random networks with its structure and other widths are timed on each device beside a
larger float network, in floats and in the device's integers. What is predicted is the ratio to that reference in the
same rounds. Errors are those of five-fold cross-validation. The other predictor is `a + b * multiply-accumulates`,
fitted and held out in the same way.

The claim, for each device and precision: a mean error below 10 % and a rank correlation above 0.95. Exit code 1 where
it fails.

Usage: python benchmarks/latency_model.py [--devices cpu openvino] [--networks 100] [--width 24] [--store FOLDER]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd import models, profiles
from edgekd.agent import environment
from edgekd.artifact import open_store
from edgekd.compress.template import make_template
from edgekd.device import scheme
from edgekd.dispatch import placing
from edgekd.graph.export import export_onnx
from edgekd.graph.template import Template
from edgekd.making import Show
from edgekd.models import resnet
from edgekd.search import latency_model
from edgekd.search.regression import Errors

SHAPE, CLASSES, BLOCKS = (1, 28, 28), 10, (2, 2, 2)
MOST_MAPE, LEAST_SPEARMAN = 0.10, 0.95


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return resnet.build(input_shape=SHAPE, classes=CLASSES, width=width, blocks=BLOCKS).eval()


def reference(folder: Path, width: int) -> Path:
    """Write the float network that all are compared with."""
    path = folder / "reference.onnx"
    export_onnx(
        network(width), (models.example(SHAPE),), path, input_names=["input"], output_names=["logits"], metadata={},
        max_opset=20, quantized_layers=None,
    )  # fmt: skip
    return path


def templates(device: str, width: int) -> list[Template]:
    quantization = profiles.load_devices([device], {})[device].quantization
    return [make_template(lambda: network(width), SHAPE, one) for one in (None, scheme(quantization))]


def shown(errors: Errors) -> str:
    return f"{errors.mape:6.1%} | {errors.within_10:9.0%} | {errors.spearman:8.3f}"


def holds(device: str, found: latency_model.LatencyModel, seconds: float) -> bool:
    """Print a device's rows, and return whether the claim holds."""
    kept = True
    for precision, errors in found.errors.items():
        kept &= errors.mape < MOST_MAPE and errors.spearman > LEAST_SPEARMAN
        print(f"| {device} | {precision} | model | {errors.networks} | {shown(errors)} |")
        print(f"| {device} | {precision} | MACs | {errors.networks} | {shown(found.macs_errors[precision])} |")
    print(f"{device}: measured in {seconds:.0f} s; the reference beside itself: {found.noise_floor:.1%} at most")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["cpu", "openvino"])
    parser.add_argument("--networks", type=int, default=latency_model.NETWORKS)
    parser.add_argument("--width", type=int, default=24, help="of the seed; the reference is a third wider")
    parser.add_argument("--store", type=Path, help="keep what was measured, and use what is kept")
    chosen = parser.parse_args()
    print(f"{environment.cpuinfo()['model']}, {platform.system()}, {datetime.now(UTC):%Y-%m-%d}")
    print("| device | precision | predictor | networks | mean error | within 10 % | Spearman |")
    print("|---|---|---|---|---|---|---|")
    kept = True
    with tempfile.TemporaryDirectory() as temporary:
        compared = reference(Path(temporary), chosen.width * 4 // 3)
        store = open_store(chosen.store or Path(temporary) / "store")
        places, problems = placing.place(profiles.load_devices(chosen.devices, {}))
        if problems:
            sys.exit("\n".join(problems))
        feeds = {"input": np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)}
        for device in chosen.devices:
            made = templates(device, chosen.width)
            started = time.monotonic()
            found = latency_model.learn(
                device, places[device], made, compared, feeds, store=store, networks=chosen.networks, show=Show()
            )  # fmt: skip
            kept &= holds(device, found, time.monotonic() - started)
    print("the claim holds" if kept else "MISSED: mean error below 10 %, Spearman above 0.95")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

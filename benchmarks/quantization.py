"""Our int8 against ONNX Runtime's quantizer and NNCF: latency, accuracy and bytes, on two runtimes.

Each network is trained here, briefly. Every tool gets the same float ONNX file (ours: the same weights in torch), the
same 512 training images, and the settings that its manual gives for x86: ONNX Runtime `quant_pre_process` and
`quantize_static` with u8 activations, s8 weights per channel, QDQ; NNCF its defaults, and once without bias correction.
Our own agent times all files interleaved in one pinned process, and runs them over the 10,000 test images.

The claims, per network and runtime: our latency over the best other's has an interval that reaches 1.03 or below, our
accuracy is at most 0.1 points below the best other's, our file at most 1.1 times the smallest other's. Exit code 1
where one fails. With several best candidates the comparison is against each, and the worst for us is shown.

Usage: python benchmarks/quantization.py --data-dir DATA [--work FOLDER] [--networks mlp resnet-16] [--seconds 10]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from edgekd import data as datasets
from edgekd.agent import environment
from edgekd.agent.files import read_json, read_npz, sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.method import Method, Model, Power
from edgekd.compress import quantization
from edgekd.data import Data
from edgekd.device import Quantization, scheme
from edgekd.graph.export import export_onnx
from edgekd.models import mlp, resnet
from edgekd.report.statistics import Estimate, paired_medians, ratios, round_medians

OURS, OTHERS = "edgekd", ("onnxruntime", "nncf", "nncf-uncorrected")
CALIBRATION_SAMPLES, BATCH = 512, 128
RUNTIMES = {"onnxruntime": {"threads": 1}, "openvino": {"threads": 1}}
LATENCY_LIMIT, ACCURACY_LIMIT_PP, SIZE_LIMIT = 1.03, 0.1, 1.1


@dataclass(frozen=True)
class Network:
    """A network of the comparison, and how long it is trained."""

    data: str
    build: Callable[..., nn.Module]
    arguments: Mapping[str, Any]
    epochs: int


NETWORKS = {
    "mlp": Network("mnist", mlp.build, {"widths": (128, 64)}, 3),
    "resnet-16": Network("fashion-mnist", resnet.build, {"width": 16}, 3),
    "resnet-32": Network("fashion-mnist", resnet.build, {"width": 32}, 2),
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives ONNX Runtime's quantizer one image at a time."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next feed, None at the end."""
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


def trained(name: str, data: Data, work: Path) -> nn.Module:
    """Return a trained network, from the work folder if it is there."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.build(input_shape=data.train.inputs.shape[1:], classes=len(data.classes), **network.arguments)
    kept = work / f"{name}.safetensors"
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model.eval()
    images, labels = torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.targets)
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps * network.epochs)
    model.train()
    for epoch in range(network.epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{name}: epoch {epoch + 1} of {network.epochs}, loss {loss.item():.3f}", file=sys.stderr)
    save_file(model.state_dict(), kept)
    return model.eval()


def write_files(model: nn.Module, images: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    """Write the float network and everybody's int8, and return the files by name."""
    files = {name: folder / f"{name}.onnx" for name in ("float", OURS, *OTHERS)}
    example = (torch.from_numpy(images[:2]),)
    export = partial(export_onnx, input_names=["input"], output_names=["logits"], metadata={}, max_opset=20)
    export(model, example, files["float"], quantized_layers=None)
    prepared = quantization.prepare(model, example, scheme(Quantization()))
    quantization.calibrate(prepared, torch.from_numpy(images).split(64))
    layers = len(quantization.quantized_layers(prepared))
    export(quantization.convert(prepared), example, files[OURS], quantized_layers=layers)

    quant_pre_process(files["float"], folder / "preprocessed.onnx")
    quantize_static(
        folder / "preprocessed.onnx",
        files["onnxruntime"],
        Reader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    dataset = nncf.Dataset([{"input": image[None]} for image in images])
    uncorrected = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    for name, advanced in (("nncf", None), ("nncf-uncorrected", uncorrected)):
        proto = onnx.load(files["float"])
        given = nncf.quantize(proto, dataset, subset_size=len(images), advanced_parameters=advanced)
        onnx.save(given, files[name])
    return files


def measure(files: Mapping[str, Path], data: Data, runtime: str, folder: Path, method: Method) -> Path:
    """Let the agent time the files and run them over the test images; return its measurement."""
    models = tuple(Model(name, str(path.relative_to(folder)), sha256(path)) for name, path in files.items())
    write_npz(folder / "test.npz", {"input": data.test.inputs})
    write_npz(folder / "one.npz", {"input": data.test.inputs[:1]})
    job = Job(
        device=runtime,
        backend=runtime,
        options=RUNTIMES[runtime],
        models=models,
        reference=OURS,
        inputs={"test": "test.npz"},
        latency_inputs="one.npz",
        method=method,
        power=Power(meter="none"),
    )
    write_json(folder / "job.json", job.to_json())
    out = folder / f"measured-{runtime}"
    command = [sys.executable, "-m", "edgekd.agent", "run", str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the agent failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return out


def latencies(measured: Path) -> tuple[dict[str, float], dict[str, Estimate]]:
    """Return p50 in nanoseconds by file, and our latency over each other's (the control is ourselves again)."""
    latency = read_json(measured / "measurement.json")["latency"]
    processes = [read_npz(measured / name) for name in latency["processes"]]
    calls = {
        name: [process[f"latency_ns_{column}"] for process in processes]
        for column, name in enumerate(latency["columns"])
    }
    medians = {name: round_medians(of) for name, of in calls.items()}
    others = [name for name in medians if name != OURS]
    estimates = paired_medians([ratios(medians[OURS], medians[name]) for name in others])
    p50 = {name: float(np.median(np.concatenate([process.ravel() for process in of]))) for name, of in calls.items()}
    return p50, dict(zip(others, estimates, strict=True))


def accuracies(measured: Path, data: Data) -> dict[str, float]:
    """Return the accuracy of every file, from the outputs that the runtime gave."""
    variants = read_json(measured / "measurement.json")["variants"]
    return {
        name: float(np.mean(read_npz(measured / of["outputs"]["test"])["logits"].argmax(1) == data.test.targets))
        for name, of in variants.items()
    }


def report(name: str, runtime: str, files: Mapping[str, Path], measured: Path, data: Data) -> list[str]:
    """Print the table of a network on a runtime, and return the claims that failed."""
    p50, against = latencies(measured)
    accuracy = accuracies(measured, data)
    sizes = {key: path.stat().st_size for key, path in files.items()}
    precision = read_json(measured / "measurement.json")["variants"][OURS]["facts"].get("precision")
    print(f"\n{name} on {runtime} (our layers ran in: {precision})")
    print(f"{'':<20}{'p50 us':>9}{'ours / it':>11}{'95 % interval':>18}{'accuracy':>10}{'bytes':>11}")
    for key in p50:
        ratio = against.get(key)
        figures = f"{ratio.value:>11.3f}{f'{ratio.ci[0]:.3f} - {ratio.ci[1]:.3f}':>18}" if ratio else f"{'':>29}"
        known = f"{accuracy[key]:>10.4f}{sizes[key]:>11,}" if key in sizes else ""
        print(f"{key:<20}{p50[key] / 1e3:>9.1f}{figures}{known}")
    worst = max((against[key] for key in OTHERS), key=lambda estimate: estimate.ci[0])
    loss_pp = 100 * (max(accuracy[key] for key in OTHERS) - accuracy[OURS])
    bytes_ratio = sizes[OURS] / min(sizes[key] for key in OTHERS)
    claims = {
        f"latency ratio to the best other reaches {worst.ci[0]:.3f} (limit {LATENCY_LIMIT})": worst.ci[0]
        <= LATENCY_LIMIT,
        f"accuracy {loss_pp:+.2f} pp below the best other (limit {ACCURACY_LIMIT_PP})": loss_pp
        < ACCURACY_LIMIT_PP + 1e-9,
        f"bytes {bytes_ratio:.3f} of the smallest other (limit {SIZE_LIMIT})": bytes_ratio <= SIZE_LIMIT,
    }
    for claim, holds in claims.items():
        print(f"  {'ok    ' if holds else 'FAILED'} {claim}")
    return [f"{name} on {runtime}: {claim}" for claim, holds in claims.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where MNIST and Fashion-MNIST are (default: EDGEKD_DATA)")
    parser.add_argument("--work", type=Path, help="folder in which trained networks and all files are kept")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each file on each runtime")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes that the time is spread over")
    chosen = parser.parse_args()
    state = environment.snapshot()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchao", "onnxruntime", "nncf", "openvino"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {state['cpu']}, {platform.platform()}, load {state['load_average']}"
    )
    print(versions)
    method = Method(processes=chosen.processes, seconds=chosen.seconds, throughput_seconds=0.0)
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in chosen.networks:
            data = datasets.load(NETWORKS[name].data, validation=5000, data_dir=chosen.data_dir)
            images = data.train.inputs[:CALIBRATION_SAMPLES]
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
            files = write_files(trained(name, data, work), images, folder)
            for runtime in RUNTIMES:
                measured = measure(files, data, runtime, folder, method)
                failed += report(name, runtime, files, measured, data)
    if failed:
        sys.exit("\n".join(["", *failed]))


if __name__ == "__main__":
    main()

"""What `quantization.py` compares: edgekd's own modes, ONNX Runtime's quantizer and NNCF, each from the same network.

Every tool begins with the trained network in torch and ends with an ONNX file in integers. The others work on ONNX
files, so the time of torch's own export is part of theirs; the file that they are given is ours, which is smaller. All
calibrate with the same 512 images, and have the settings that their manuals give for the processor: unsigned
activations, signed weights per channel, 7 bits of weight where there is no VNNI (`reduce_range`, `overflow_fix`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekd import data as datasets
from edgekd import device, models
from edgekd.artifact import Artifact
from edgekd.compress import exporting, quantize
from edgekd.data import Data
from edgekd.distill.distill import learn
from edgekd.options import Data as DataOptions
from edgekd.options import Network
from edgekd.stage import Inputs
from edgekd.stages.distill import Options as Distillation
from edgekd.stages.export import Options as Export
from edgekd.stages.quantize import Options
from edgekd.training import networks

SAMPLES, VALIDATION, CALIBRATION = 14_000, 2_000, 512
MAX_DROP_PP = 1.0
ROUNDS = 3
OUTLIERS, TIMES = 2, 100
NETWORKS = {
    "mlp": ("mnist", Network(model="mlp", widths=(128, 64), epochs=4)),
    "resnet-16": ("fashion-mnist", Network(model="resnet", width=16, epochs=4, learning_rate=5e-3)),
    "resnet-32": ("fashion-mnist", Network(model="resnet", width=32, epochs=3, learning_rate=5e-3)),
    "fragile": ("fashion-mnist", Network(model="resnet", width=16, epochs=4, learning_rate=5e-3)),
}
TORCH = "export-by-torch"
OURS = {
    "edgekd-ptq": Options(),
    "edgekd-mixed": Options(mode="mixed", max_drop_pp=MAX_DROP_PP),
    "edgekd-qat": Options(mode="qat"),
}


@dataclass(frozen=True)
class Made:
    """A file, and what it took: the least of the rounds.

    Args:
        wall_s: by the clock, other work on the machine included.
        processor_s: of all threads, waiting ones that spin included.
    """

    path: Path
    wall_s: float
    processor_s: float

    @property
    def seconds(self) -> float:
        """The smaller of both, which is nearer to what a machine of its own would take."""
        return min(self.wall_s, self.processor_s)


@dataclass(frozen=True)
class Case:
    """A trained network with its data, and what it is calibrated with (N, *input shape)."""

    network: Artifact
    inputs: Inputs
    data: Data
    images: NDArray[np.float32]
    scheme: device.Scheme


def trained(name: str, data_dir: Path | None, work: Path) -> Case:
    """Train a network of the comparison, or take it from the work folder."""
    source, network = NETWORKS[name]
    scheme = device.scheme(device.Quantization())
    inputs = Inputs(
        artifacts={}, blocks={"teacher": network, "student": network, "distill": None}, data_dir=data_dir,
        data=DataOptions(source=source, validation=VALIDATION, train_samples=SAMPLES), task="classification", seed=0,
        data_seed=0, compute="cpu", variant=name,
        context={"scheme": scheme.model_dump(), "max_opset": 20}, metadata={},
    )  # fmt: skip
    data = datasets.of(inputs)
    folder = work / f"{network.model}-{network.width or 0}"
    if not (folder / models.DESCRIPTION).exists():
        folder.mkdir(parents=True, exist_ok=True)
        description = networks.describe(network, data)
        model = networks.build(network, description, 0)
        facts = learn(model, Distillation(alpha=0), [], network, data, inputs, folder)
        networks.store(folder, description, model, facts)
    if name == "fragile":
        folder = made_fragile(folder, work / name)
    facts = networks.profile(models.load(folder), models.describe(folder).input_shape)
    artifact = Artifact(folder, "teacher", "", name, facts)
    chosen = np.random.default_rng(inputs.seed).permutation(len(data.train))[:CALIBRATION]  # as the product chooses
    return Case(artifact, inputs, data, data.train.inputs[chosen], scheme)


def made_fragile(source: Path, folder: Path) -> Path:
    """Store the same function with two channels inside of its first block a hundred times larger than the others."""
    folder.mkdir(exist_ok=True)
    model: Any = models.load(source)
    block = model.stages[0][0]
    with torch.no_grad():
        for parameter in (block.bn1.weight, block.bn1.bias):
            parameter[:OUTLIERS] *= TIMES
        block.conv2.weight[:, :OUTLIERS] /= TIMES
    models.save(folder, models.describe(source), model.state_dict())
    return folder


def ours(options: Options, case: Case, out: Path) -> Path:
    """Quantize and export as the pipeline's stages do."""
    teaching = {"teacher": case.network} if "qat" in options.mode else {}
    out.mkdir()
    facts = quantize.quantize(
        options, replace(case.inputs, artifacts={"model": case.network, **teaching}, variant=options.mode[0]), out
    )
    kept = [one["method"] for one in facts["improve"] if one["kept"]]
    print(f"{out.name}: in float {facts['float_layers']}, repaired by {kept}, {facts.get('kept', '')}", file=sys.stderr)
    return exported(replace(case, network=Artifact(out, "quantize", "", "", facts)), out)


def exported(case: Case, out: Path) -> Path:
    """Write a network as ONNX, as the pipeline's stage does."""
    out.mkdir(exist_ok=True)
    exporting.export(Export(), replace(case.inputs, artifacts={"model": case.network}), out)
    return out / exporting.FILE


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives ONNX Runtime's quantizer one image at a time."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next feed, None at the end."""
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


def by_torch(case: Case, out: Path) -> Path:
    """Export as a user of the other tools does."""
    out.mkdir()
    torch.onnx.export(
        models.load(case.network.path), (models.example(case.data.train.inputs.shape[1:]),), out / "float.onnx",
        input_names=["input"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True, verbose=False,
    )  # fmt: skip
    return out / "float.onnx"


def onnxruntime(case: Case, source: Path, out: Path) -> Path:
    """ONNX Runtime's static quantization."""
    out.mkdir()
    quant_pre_process(source, out / "preprocessed.onnx")
    quantize_static(
        out / "preprocessed.onnx", out / "int8.onnx", Reader(case.images), quant_format=QuantFormat.QDQ,
        per_channel=True, reduce_range=case.scheme.reduce_range, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return out / "int8.onnx"


def by_nncf(case: Case, source: Path, out: Path, work: Callable[..., onnx.ModelProto], **arguments: Any) -> Path:
    """NNCF, by whichever of its functions."""
    out.mkdir()
    overflow = nncf.OverflowFix.ENABLE if case.scheme.reduce_range else nncf.OverflowFix.DISABLE
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=overflow, disable_bias_correction=arguments.pop("uncorrected", False)
    )
    calibration = nncf.Dataset([{"input": image[None]} for image in case.images])
    onnx.save(work(onnx.load(source), calibration, advanced, **arguments), out / "int8.onnx")
    return out / "int8.onnx"


def plainly(
    model: onnx.ModelProto, calibration: nncf.Dataset, advanced: nncf.AdvancedQuantizationParameters, **more: Any
) -> onnx.ModelProto:
    """NNCF's `quantize`."""
    return nncf.quantize(model, calibration, subset_size=CALIBRATION, advanced_parameters=advanced, **more)


def with_control(
    model: onnx.ModelProto, calibration: nncf.Dataset, advanced: nncf.AdvancedQuantizationParameters, data: Data
) -> onnx.ModelProto:
    """NNCF's `quantize_with_accuracy_control`, judged on the same validation split as our mixed precision."""
    whole = data.validation
    batches = [(whole.inputs[at : at + 64], whole.targets[at : at + 64]) for at in range(0, len(whole), 64)]

    def accuracy(model: onnx.ModelProto, items: Iterable[Any]) -> tuple[float, list[float]]:
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        right = [session.run(None, {"input": images})[0].argmax(1) == labels for images, labels in items]
        return float(np.mean(np.concatenate(right))), [float(batch.mean()) for batch in right]

    return nncf.quantize_with_accuracy_control(
        model, calibration, nncf.Dataset(batches, lambda item: {"input": item[0]}), accuracy,
        max_drop=MAX_DROP_PP / 100, subset_size=CALIBRATION, advanced_quantization_parameters=advanced,
        # 320 images, which is its manual's number; it counts batches.
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=5),
    )  # fmt: skip


def tools(case: Case, source: Path) -> dict[str, Callable[[Path], Path]]:
    """Return what makes each file, given the float file and a folder that is not there yet."""
    return {
        **{name: partial(ours, options, case) for name, options in OURS.items()},
        TORCH: partial(by_torch, case),
        "onnxruntime": partial(onnxruntime, case, source),
        "nncf": partial(by_nncf, case, source, work=plainly),
        "nncf-uncorrected": partial(by_nncf, case, source, work=plainly, uncorrected=True),
        "nncf-slow-bias": partial(by_nncf, case, source, work=plainly, fast_bias_correction=False),
        "nncf-control": partial(by_nncf, case, source, work=with_control, data=case.data),
    }


def make(case: Case, folder: Path) -> dict[str, Made]:
    """Make all files, in rounds of all tools: a machine is faster in some minutes than in others.

    The first round pays for what is loaded once in a process, such as the exporter. A tool of others that raises is
    told and left out.
    """
    source = exported(case, folder / "float")
    made: dict[str, Made] = {}
    working = tools(case, source)
    for number in range(ROUNDS):
        for name, work in list(working.items()):
            wall, busy = time.perf_counter(), time.process_time()
            try:
                with redirect_stdout(sys.stderr):
                    path = work(folder / f"{name}-{number}")
            except Exception as error:  # whatever it is, it is a result of the comparison
                if name in OURS or name == TORCH:
                    raise
                print(f"\n{case.inputs.variant}: {name} makes no file: {type(error).__name__}: {error}")
                del working[name]
                continue
            now = Made(path, time.perf_counter() - wall, time.process_time() - busy)
            told = f"{case.inputs.variant}: {name}: {now.wall_s:.1f} s, processor {now.processor_s:.1f} s"
            print(told, file=sys.stderr)
            before = made.get(name, now)
            made[name] = Made(path, min(now.wall_s, before.wall_s), min(now.processor_s, before.processor_s))
            if "qat" in name:  # it trains for minutes, and nothing is claimed of its time
                del working[name]
    export = made.pop(TORCH)
    for name in set(made) - set(OURS):
        of = made[name]
        made[name] = Made(of.path, of.wall_s + export.wall_s, of.processor_s + export.processor_s)
    return {"float": Made(source, export.wall_s, export.processor_s), **made}

"""What `edgekd validate` costs beyond running the two models: python benchmarks/validate.py

A residual network of the size of ResNet-18 for images of 224x224 (11.7 M parameters, 1.8 GMAC) is validated against
itself with 1,000 samples and labels. Beside it, in the same round: the bare inference of model and reference over the
same samples, ONNX Runtime on all cores in batches of 32, sessions and reading included. Both wall time and the
processor time of all threads are told: where other work shares the machine, only the latter is a fair ratio. `--int8`
validates the quantized form, which is computed to the letter on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

sys.path.append(str(Path(__file__).resolve().parents[1]))

from edgekd import validate

BATCH = 32
CLASSES = 1000


class Network:
    """A residual network in the making: four stages of two blocks, as ResNet-18 has them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.generator = np.random.default_rng(0)

    def node(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        """Add a node, and return its value."""
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def conv(self, name: str, source: str, taken: int, given: int, size: int, stride: int) -> str:
        """Add a convolution."""
        values = self.generator.standard_normal((given, taken, size, size)) * np.sqrt(2 / (taken * size * size))
        names = [f"{name}.w", f"{name}.b"]
        for one, array in zip(names, (values, np.zeros(given)), strict=True):
            self.constants.append(numpy_helper.from_array(array.astype(np.float32), one))
        return self.node("Conv", name, source, *names, pads=[size // 2] * 4, strides=[stride, stride])

    def block(self, name: str, source: str, taken: int, given: int, stride: int) -> str:
        """Add a residual block."""
        first = self.node("Relu", f"{name}.r1", self.conv(f"{name}.c1", source, taken, given, 3, stride))
        second = self.conv(f"{name}.c2", first, given, given, 3, 1)
        beside = source if taken == given else self.conv(f"{name}.down", source, taken, given, 1, stride)
        return self.node("Relu", f"{name}.r2", self.node("Add", f"{name}.sum", second, beside))

    def save(self, path: Path) -> Path:
        """Write the network."""
        value = self.node("Relu", "stem.r", self.conv("stem", "x", 3, 64, 7, 2))
        value = self.node("MaxPool", "pool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        taken = 64
        for stage, given in enumerate((64, 128, 256, 512)):
            for place in range(2):
                value = self.block(f"s{stage}.{place}", value, taken, given, 2 if place == 0 and stage else 1)
                taken = given
        flat = self.node("Flatten", "flat", self.node("GlobalAveragePool", "mean", value))
        weight = self.generator.standard_normal((CLASSES, taken)) / np.sqrt(taken)
        self.constants.append(numpy_helper.from_array(weight.astype(np.float32), "fc.w"))
        self.node("Gemm", "y", flat, "fc.w", transB=1)
        ports = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES]),
        ]
        graph = helper.make_graph(self.nodes, "net", ports[:1], ports[1:], self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path


def bare(model: Path, reference: Path, folder: Path, letter: bool) -> None:
    """Run both over all samples."""
    images = np.load(folder / "x.npy", mmap_mode="r")
    for path, exact in ((reference, False), (model, letter)):
        options = onnxruntime.SessionOptions()
        if exact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for begin in range(0, len(images), BATCH):
            session.run(None, {"x": np.asarray(images[begin : begin + BATCH])})


def quantized(path: Path, folder: Path) -> Path:
    """Return its 8-bit form by ONNX Runtime's own quantizer, calibrated on a few samples."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            images = np.load(folder / "x.npy", mmap_mode="r")
            self.batches = iter([{"x": np.asarray(images[:4])}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    target = path.with_name("int8.onnx")
    kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    quantization.quantize_static(path, target, Reader(), per_channel=True, reduce_range=True, **kinds)
    return target


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and processor time of all threads."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--int8", action="store_true", help="validate the quantized network")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "samples"
        folder.mkdir()
        reference = Network().save(Path(temporary) / "reference.onnx")
        images = np.random.default_rng(1).standard_normal((arguments.samples, 3, 224, 224), dtype=np.float32)
        np.save(folder / "x.npy", images)
        np.save(folder / "labels.npy", np.zeros(arguments.samples, np.int64))
        del images
        model = quantized(reference, folder) if arguments.int8 else reference
        ratios = []
        for _ in range(arguments.rounds):
            plain = seconds(lambda: bare(model, reference, folder, arguments.int8))
            whole = seconds(lambda: validate([model], reference, data=str(folder), max_drop_pp=1.0))
            ratios.append([many / few for many, few in zip(whole, plain, strict=True)])
            print(
                f"inference of both {plain[0]:6.1f} s (processor {plain[1]:6.1f} s)   "
                f"validate {whole[0]:6.1f} s ({whole[1]:6.1f} s)   "
                f"ratio {ratios[-1][0]:.3f} ({ratios[-1][1]:.3f})", flush=True,
            )  # fmt: skip
        wall, busy = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"validate / inference of both, {arguments.samples} samples: {wall:.3f} (processor {busy:.3f})")


if __name__ == "__main__":
    main()

"""Small ONNX files whose outputs are known, and job directories around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.agent.files import sha256, write_json, write_npz
from edgekd.agent.job import Job
from edgekd.agent.method import Method, Model

WIDTH, CLASSES = 8, 4

TINY = Method(
    processes=2,
    seconds=0.02,
    inferences=120,
    warmup_seconds=0.05,
    settling_calls=2,
    calls=10,
    throughput_seconds=0.05,
    energy_windows=5,
    energy_window_seconds=0.2,
    quick=True,
)


def weights() -> NDArray[np.float32]:
    """Return the [WIDTH, CLASSES] matrix of every linear model here."""
    return np.random.default_rng(3).standard_normal((WIDTH, CLASSES)).astype(np.float32)


def save(path: Path, nodes: list[Any], constants: list[Any], batch: int | str) -> Path:
    """Write a model from "input" [batch, WIDTH] to "logits" [batch, CLASSES]."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def linear(path: Path, batch: int | str = "batch") -> Path:
    """logits = input @ weights()."""
    node = helper.make_node("MatMul", ["input", "w"], ["logits"], "product")
    return save(path, [node], [numpy_helper.from_array(weights(), "w")], batch)


def undefined(path: Path, batch: int | str = "batch") -> Path:
    """logits = log(input @ weights()): NaN wherever the product is negative."""
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["product"], "product"),
        helper.make_node("Log", ["product"], ["logits"], "log"),
    ]
    return save(path, nodes, [numpy_helper.from_array(weights(), "w")], batch)


def quantized(path: Path, batch: int | str = "batch") -> Path:
    """The linear model with input, weights and output quantized by QuantizeLinear/DequantizeLinear pairs."""
    scale = np.float32(np.abs(weights()).max() / 127)
    constants = [
        numpy_helper.from_array(np.round(weights() / scale).astype(np.int8), "wq"),
        numpy_helper.from_array(scale, "ws"),
        numpy_helper.from_array(np.int8(0), "wz"),
        numpy_helper.from_array(np.float32(1 / 32), "xs"),
        numpy_helper.from_array(np.uint8(128), "xz"),
        numpy_helper.from_array(np.float32(1 / 4), "ys"),
        numpy_helper.from_array(np.uint8(128), "yz"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "xs", "xz"], ["xq"], "q_input"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "dq_input"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "dq_weights"),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], "product"),
        helper.make_node("QuantizeLinear", ["y", "ys", "yz"], ["yq"], "q_output"),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["logits"], "dq_output"),
    ]
    return save(path, nodes, constants, batch)


def samples(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return inputs [count, WIDTH] between -3 and 3."""
    return np.random.default_rng(seed).uniform(-3, 3, (count, WIDTH)).astype(np.float32)


def write_job(folder: Path, models: dict[str, Path], **fields: Any) -> Path:
    """Write a job over models that already lie in the folder: 70 test samples, 5 for validation, batch 1 timed."""
    write_npz(folder / "inputs/test.npz", {"input": samples(70)})
    write_npz(folder / "inputs/validation.npz", {"input": samples(5, seed=1)})
    write_npz(folder / "inputs/latency.npz", {"input": samples(1, seed=2)})
    entries = tuple(Model(name, str(path.relative_to(folder)), sha256(path)) for name, path in models.items())
    settings: dict[str, Any] = {
        "device": "cpu",
        "backend": "onnxruntime",
        "reference": "teacher",
        "inputs": {"test": "inputs/test.npz", "validation": "inputs/validation.npz"},
        "latency_inputs": "inputs/latency.npz",
        "method": TINY,
        **fields,
    }
    write_json(folder / "job.json", Job(models=entries, **settings).to_json())
    return folder

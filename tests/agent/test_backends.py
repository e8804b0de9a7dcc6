"""What holds for every backend, and what each of them tells about what really ran."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

from edgekd.agent import backends
from edgekd.agent.backends import onnxruntime as ort_backend
from edgekd.agent.errors import AgentError
from edgekd.agent.evaluating import evaluate

from .networks import CLASSES, linear, quantized, samples, undefined, weights

NAMES = ["onnxruntime", "openvino"]


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return backends.load(request.param)


def test_there_are_these() -> None:
    assert set(NAMES) <= set(backends.available())


def test_an_unknown_backend_is_named_with_those_that_exist() -> None:
    with pytest.raises(AgentError, match=r"no backend 'tflite'; there are .*onnxruntime, openvino"):
        backends.load("tflite")


@pytest.mark.parametrize(
    ("name", "remedy"), [("onnxruntime", "pip install edgekd"), ("openvino", r"edgekd\[openvino\]")]
)
def test_a_missing_runtime_names_the_package(monkeypatch: pytest.MonkeyPatch, name: str, remedy: str) -> None:
    monkeypatch.delitem(sys.modules, f"edgekd.agent.backends.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # makes its import fail
    with pytest.raises(AgentError, match=remedy):
        backends.load(name)


def test_runtime_tells_its_version(backend: Any) -> None:
    told = backend.runtime()
    module: ModuleType = sys.modules[told["name"]]
    assert module.__version__.startswith(told["version"])


def test_outputs_equal_numpy(backend: Any, tmp_path: Path) -> None:
    feeds = {"input": samples(5)}
    for shapes in (None, {"input": (5, 8)}):
        session = backend.open(linear(tmp_path / "m.onnx"), {}, shapes)
        assert session.inputs == (backends.Tensor("input", (None, 8), "float32"),)
        outputs = session.run(feeds)
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], feeds["input"] @ weights(), rtol=0, atol=1e-6)


def test_nan_stays_nan(backend: Any, tmp_path: Path) -> None:
    feeds = {"input": samples(6)}
    product = feeds["input"] @ weights()
    logits = backend.open(undefined(tmp_path / "m.onnx"), {}).run(feeds)["logits"]
    np.testing.assert_array_equal(np.isnan(logits), product < 0)
    np.testing.assert_allclose(logits[product > 0], np.log(product[product > 0]), atol=1e-5)


def test_outputs_are_the_callers_own(backend: Any, tmp_path: Path) -> None:
    session = backend.open(linear(tmp_path / "m.onnx"), {})
    first = session.run({"input": samples(2)})["logits"]
    kept = first.copy()
    session.run({"input": samples(2, seed=9)})
    np.testing.assert_array_equal(first, kept)


def test_bound_calls_do_the_work_and_do_not_disturb_each_other(backend: Any, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    sessions = [backend.open(path, {}, {"input": (1, 8)}) for _ in range(2)]
    feeds = [{"input": samples(1, seed=seed)} for seed in range(2)]
    calls = [session.bind(feed) for session, feed in zip(sessions, feeds, strict=True)]
    for call in calls:
        call()
        call()
    for session, feed in zip(sessions, feeds, strict=True):
        np.testing.assert_allclose(session.run(feed)["logits"], feed["input"] @ weights(), atol=1e-6)


def test_facts_tell_the_precision_that_ran(backend: Any, tmp_path: Path) -> None:
    feeds = {"input": samples(1)}
    told = {}
    for name, make in (("float", linear), ("int8", quantized)):
        facts = backend.open(make(tmp_path / f"{name}.onnx", 1), {}, {"input": (1, 8)}).facts(feeds)
        told[name] = facts["precision"]
        assert all({"name", "type", "precision"} <= set(layer) for layer in facts["layers"])
        assert facts["provider"] in ("CPUExecutionProvider", "CPU")
        assert facts["static_shapes"]
    assert told == {"float": {"float32": 1}, "int8": {"int8": 1}}


def test_facts_tell_for_how_long_each_layer_ran(backend: Any, tmp_path: Path) -> None:
    feeds = {"input": samples(1)}
    facts = backend.open(linear(tmp_path / "m.onnx", 1), {}, {"input": (1, 8)}).facts(feeds)
    (product,) = [layer for layer in facts["layers"] if layer["computes"]]
    assert all(isinstance(sample, int) and sample >= 0 for sample in product["times_ns"])
    assert facts.get("times_reason") is None
    if backend.runtime()["name"] == "onnxruntime":
        assert len(product["times_ns"]) == 19  # of 20 runs, without the first
    else:
        assert len(product["times_ns"]) == 3  # of three models
        assert facts["times_of"] == "the mean of up to 8 runs of a profiled model"


def test_quantized_outputs_are_near_the_float_ones(backend: Any, tmp_path: Path) -> None:
    feeds = {"input": samples(50)}
    logits = backend.open(quantized(tmp_path / "q.onnx"), {}).run(feeds)["logits"]
    # half a step of the output, of the weights (8 products) and of the input (column sums of the weights)
    weight_step = np.abs(weights()).max() / 127
    bound = 1 / 8 + np.abs(feeds["input"]).sum(1).max() * weight_step / 2 + np.abs(weights()).sum(0).max() / 64 + 0.01
    assert logits.shape == (50, CLASSES)
    assert np.abs(logits - feeds["input"] @ weights()).max() < bound


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": samples(1)}, "inputs are input, the job feeds x"),
        ({"input": samples(1).astype(np.float64)}, r"float32 \[\?x8\], the job feeds float64 \[1x8\]"),
        ({"input": samples(1)[:, :3]}, r"the job feeds float32 \[1x3\]"),
        ({"input": samples(1)[0]}, r"the job feeds float32 \[8\]"),
    ],
)
def test_wrong_feeds_are_named(backend: Any, tmp_path: Path, feeds: Any, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        backend.open(linear(tmp_path / "m.onnx"), {}).run(feeds)


def test_a_file_that_is_no_model_is_refused(backend: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(AgentError, match=r"refuses m\.onnx"):
        backend.open(tmp_path / "m.onnx", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thraeds": 1}, "has no option thraeds; it has .*threads"),
        ({"threads": "2"}, "option threads of"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_named(backend: Any, options: Any, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        backend.check(options)


def test_throughput_counts_what_it_ran(backend: Any, tmp_path: Path) -> None:
    told = backend.throughput(linear(tmp_path / "m.onnx"), {}, {"input": samples(1)}, 2, 0.05)
    assert told.threads == 2
    assert told.inferences >= 2
    assert told.seconds >= 0.05


def test_onnxruntime_does_not_fall_back(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"TensorrtExecutionProvider is not in this build .*CPUExecutionProvider"):
        ort_backend.open(linear(tmp_path / "m.onnx"), {"providers": ["TensorrtExecutionProvider"]})


def test_onnxruntime_refuses_the_provider_it_did_not_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fallen:
        """A session that fell back, as a GPU build does on a machine without a GPU."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    runtime = ort_backend.onnxruntime
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", Fallen)
    with pytest.raises(AgentError, match="asked for CUDAExecutionProvider, onnxruntime fell back to CPU"):
        ort_backend.open(tmp_path / "m.onnx", {"providers": ["CUDAExecutionProvider"]})


def test_the_warming_model_is_an_identity() -> None:
    model = onnx.load_from_string(ort_backend._IDENTITY)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "AUTO"}, "chooses by itself"),
        ({"device": "MULTI:CPU"}, "chooses by itself"),
        ({"device": "NPU.7"}, r"sees no device NPU\.7 here; it sees .*CPU"),
        ({"inference_precision": "fp8"}, "inference_precision of openvino is 'fp8'"),
    ],
)
def test_openvino_options(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(AgentError, match=message):
        backends.load("openvino").check(options)


def test_openvino_says_when_it_computes_in_bfloat16(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16 arithmetic")
    session = backends.load("openvino").open(
        linear(tmp_path / "m.onnx", 1), {"inference_precision": "bf16"}, {"input": (1, 8)}
    )
    assert session.facts({})["inference_precision"] == "bf16"
    assert session.facts({})["precision"] in ({"bfloat16": 1}, {"float32": 1})


def test_a_timed_call_on_a_gpu_waits_for_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ort_backend.open(linear(tmp_path / "m.onnx"), {})
    calls: list[str] = []
    inner = session._session

    class OnGpu:
        """The same session, which says that it runs on a GPU."""

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def run_with_iobinding(self, binding: Any) -> None:
            calls.append("run")
            inner.run_with_iobinding(binding)

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    binding = type(inner.io_binding())
    monkeypatch.setattr(binding, "synchronize_outputs", lambda self: calls.append("wait"))
    session.bind({"input": samples(1)})()
    assert calls == []  # nothing is added to what is timed on the CPU
    session._session = OnGpu()
    call = session.bind({"input": samples(1)})
    calls.clear()
    call()
    assert calls == ["run", "wait"]


class Accelerator:
    """OpenVINO's core as it is where there is a GPU and an NPU; both compute on the CPU, and refuse what they would."""

    hints = frozenset({"PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT"})
    real: ClassVar[Any]
    seen: ClassVar[list[dict[str, Any]]]

    def __init__(self) -> None:
        self._core = Accelerator.real()

    @property
    def available_devices(self) -> list[str]:
        return ["CPU", "GPU.0", "NPU"]

    def get_property(self, device: str, name: str) -> list[str]:
        assert name == "OPTIMIZATION_CAPABILITIES"
        return ["FP32", "INT8"] if device == "CPU" else ["FP16", "INT8"]

    def read_model(self, path: str) -> Any:
        return self._core.read_model(path)

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        plugin = "GPU.0" if device == "GPU" else device
        if not self.hints.issuperset(config):
            raise RuntimeError(f"[ NOT_FOUND ] {plugin} has no option {sorted(set(config) - self.hints)}")
        if plugin == "NPU" and model.is_dynamic():
            raise RuntimeError("[NPU] dynamic shapes are not supported")
        Accelerator.seen.append(config)
        return Compiled(self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), plugin)


class Compiled:
    """A compiled model that says where it would run; an NPU does not tell its layers."""

    def __init__(self, compiled: Any, plugin: str) -> None:
        self._compiled = compiled
        self._plugin = plugin

    def get_property(self, name: str) -> Any:
        return [self._plugin] if name == "EXECUTION_DEVICES" else self._compiled.get_property(name)

    def get_runtime_model(self) -> Any:
        if self._plugin == "NPU":
            raise RuntimeError("not implemented")
        return self._compiled.get_runtime_model()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("openvino")
    module = backends.load("openvino")
    Accelerator.real, Accelerator.seen = module.openvino.Core, []
    monkeypatch.setattr(module.openvino, "Core", Accelerator)
    return module


@pytest.mark.parametrize(("device", "plugin"), [("GPU", "GPU.0"), ("GPU.0", "GPU.0"), ("NPU", "NPU")])
def test_openvino_on_an_accelerator(accelerated: Any, tmp_path: Path, device: str, plugin: str) -> None:
    options = {"device": device, "inference_precision": "f16"}
    path, feeds = linear(tmp_path / "m.onnx"), {"input": samples(1)}
    session = accelerated.open(path, options, {"input": (1, 8)})
    np.testing.assert_allclose(session.run(feeds)["logits"], feeds["input"] @ weights(), atol=1e-6)
    assert Accelerator.seen == [{"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"}]
    facts = session.facts(feeds)
    assert facts["provider"] == plugin
    if plugin == "NPU":
        assert (facts["precision"], facts["layers"]) == ({}, [])
        assert "does not tell its layers" in facts["precision_reason"]
        assert "does not time its layers" in facts["times_reason"]
    else:
        assert (facts["precision"], facts["precision_reason"]) == ({"float32": 1}, None)


def test_16_bits_that_a_device_lacks_are_refused_and_the_instructions_named(accelerated: Any) -> None:
    accelerated.check({"device": "GPU", "precision": "fp16", "half_file": ""})
    accelerated.check({"precision": "fp32"})
    for options, told in (
        ({"precision": "bf16"}, r"CPU does not compute in bf16 here.*it lists FP32, INT8; .*avx512_bf16 or amx_bf16"),
        ({"inference_precision": "f16"}, r"CPU does not compute in f16 here.*avx512_fp16"),
        ({"device": "NPU", "precision": "bf16"}, r"NPU does not compute in bf16 here.*it lists FP16, INT8$"),
        ({"precision": "int8"}, "precision of openvino is 'int8'; it may be fp32, fp16, bf16"),
    ):
        with pytest.raises(AgentError, match=told):
            accelerated.check(options)


def test_a_models_own_precision_is_the_hint(accelerated: Any, tmp_path: Path) -> None:
    options = {"device": "GPU", "inference_precision": "f32", "precision": "fp16", "half_file": ""}
    session = accelerated.open(linear(tmp_path / "m.onnx"), options, {"input": (1, 8)})
    assert Accelerator.seen[-1]["INFERENCE_PRECISION_HINT"] == "f16"
    assert session.facts({"input": samples(1)})["inference_precision"] == "f16"


def test_openvino_on_an_npu_is_evaluated_one_by_one(accelerated: Any, tmp_path: Path) -> None:
    session = accelerated.open(linear(tmp_path / "m.onnx"), {"device": "NPU"})
    assert session.inputs == (backends.Tensor("input", (1, 8), "float32"),)
    inputs = samples(3)
    outputs = evaluate(session, {"input": inputs}, lambda done, total: None)
    np.testing.assert_allclose(outputs["logits"], inputs @ weights(), atol=1e-6)


def test_openvino_on_a_gpu_is_evaluated_in_batches(accelerated: Any, tmp_path: Path) -> None:
    session = accelerated.open(linear(tmp_path / "m.onnx"), {"device": "GPU"})
    assert session.inputs[0].shape == (None, 8)


def test_openvino_saturates_an_accelerator_by_its_own_hint(
    accelerated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = accelerated.openvino.AsyncInferQueue
    monkeypatch.setattr(accelerated.openvino, "AsyncInferQueue", lambda compiled: queue(compiled._compiled))
    accelerated.throughput(linear(tmp_path / "m.onnx"), {"device": "GPU"}, {"input": samples(1)}, 2, 0.02)
    assert Accelerator.seen == [{"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}]


@pytest.mark.parametrize("device", ["GPU", "NPU", "GPU.1"])
def test_openvino_lists_what_it_sees_where_a_device_is_missing(device: str) -> None:
    openvino = pytest.importorskip("openvino")
    there = openvino.Core().available_devices
    if any(name.startswith(device) for name in there):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(AgentError, match=rf"sees no device {device} here; it sees {', '.join(there)}"):
        backends.load("openvino").check({"device": device})


def test_nothing_takes_long_to_prepare(backend: Any, tmp_path: Path) -> None:
    assert backend.prepare(linear(tmp_path / "m.onnx"), {}, {"input": (1, 8)}, lambda text: None) == {}
    assert backend.FIXED_SHAPES is False

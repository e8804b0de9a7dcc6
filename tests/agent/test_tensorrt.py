"""The backend on a stand-in of every release of TensorRT, which has exactly the names of that release."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.agent import backends
from edgekd.agent.errors import AgentError

from .fakes import loading, tensorrt_api
from .fakes.bindings import releases
from .fakes.execution import PROFILED_MS
from .networks import linear, quantized, samples, save, undefined, weights

FEEDS = {"input": samples(2)}
SHAPES = {"input": (2, 8)}


@pytest.fixture(params=loading.RELEASES)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with loading.loaded(request.param, tmp_path, monkeypatch) as module:
        yield module


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The last release that lowers the precision by itself, for what does not depend on the release."""
    with loading.loaded("10.16", tmp_path, monkeypatch) as module:
        yield module


def lowers(backend: Any) -> bool:
    return hasattr(backend.trt.BuilderFlag, "FP16")


def half(path: Path) -> Path:
    """The linear model with float16 inside and float32 outside."""
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], "lower", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("Cast", ["y"], ["logits"], "raise", to=TensorProto.FLOAT),
    ]
    return save(path, nodes, [numpy_helper.from_array(weights().astype(np.float16), "w")], "batch")


def unknown(path: Path) -> Path:
    """A model with an operator that TensorRT does not have."""
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["product"], "product"),
        helper.make_node("Unique", ["product"], ["logits"], "distinct"),
    ]
    return save(path, nodes, [numpy_helper.from_array(weights(), "w")], "batch")


def test_the_stand_in_has_the_names_of_its_release_and_no_others(backend: Any) -> None:
    trt = backend.trt
    everything = {name for names in releases().values() for name in names["IBuilderConfig"]}
    for name in everything:
        assert hasattr(trt.IBuilderConfig, name) == (name in trt.names["IBuilderConfig"])
    config = trt.IBuilderConfig()
    with pytest.raises(AttributeError):
        config.max_workspace = 1  # no release has it
    gone = {"ICudaEngine": "num_bindings", "Builder": "build_engine", "IExecutionContext": "execute_async_v2"}
    for kind, name in gone.items():
        assert hasattr(getattr(trt, kind), name) == (trt.release < (10,))
    if trt.release >= (11,):
        with pytest.raises(AttributeError):
            _ = trt.BuilderFlag.FP16
    if trt.release < (8, 6):
        with pytest.raises(AttributeError):
            config.builder_optimization_level = 3


def test_outputs_equal_numpy(backend: Any, tmp_path: Path) -> None:
    for batch in ("batch", 2):
        session = backend.open(linear(tmp_path / "m.onnx", batch), {}, SHAPES)
        assert session.inputs == (backends.Tensor("input", (2, 8), "float32"),)
        outputs = session.run(FEEDS)
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], FEEDS["input"] @ weights(), rtol=0, atol=1e-6)


def test_outputs_are_the_callers_own(newest: Any, tmp_path: Path) -> None:
    session = newest.open(linear(tmp_path / "m.onnx"), {}, SHAPES)
    first = session.run(FEEDS)["logits"]
    kept = first.copy()
    session.run({"input": samples(2, seed=9)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("graph", [False, True])
def test_bound_calls_do_the_work_and_keep_their_inputs(newest: Any, tmp_path: Path, graph: bool) -> None:
    session = newest.open(linear(tmp_path / "m.onnx"), {"cuda_graph": graph}, SHAPES)
    call = session.bind(FEEDS)
    other = {"input": samples(2, seed=5)}
    np.testing.assert_allclose(session.run(other)["logits"], other["input"] @ weights(), atol=1e-6)
    call()
    ((port, memory),) = session._execution._results.items()
    np.testing.assert_allclose(port.array(memory.handle), FEEDS["input"] @ weights(), atol=1e-6)


def test_a_graph_is_told(backend: Any, tmp_path: Path) -> None:
    told = {}
    for graph in (False, True):
        facts = backend.open(linear(tmp_path / "m.onnx"), {"cuda_graph": graph}, SHAPES).facts(FEEDS)
        told[facts["cuda_graph"]] = facts["gpu_ns_of"]
        assert len(facts["gpu_ns"]) == len(facts["host_ns"]) == 50
        assert np.median(facts["gpu_ns"]) <= np.median(facts["host_ns"])
    assert told == {False: "kernels", True: "copies and kernels"}


def test_the_profiler_tells_the_time_of_each_layer(backend: Any, tmp_path: Path) -> None:
    facts = backend.open(linear(tmp_path / "m.onnx"), {}, SHAPES).facts(FEEDS)
    assert [layer["times_ns"] for layer in facts["layers"]] == [
        [round(1e6 * PROFILED_MS * place)] * 19 for place in range(1, len(facts["layers"]) + 1)
    ]
    assert facts["times_reason"] is None


def test_a_host_that_does_not_wait_for_the_gpu_is_refused(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = newest.open(linear(tmp_path / "m.onnx"), {}, SHAPES)
    monkeypatch.setattr(session._execution._cuda, "elapsed_ns", lambda begin, end: 10**9, raising=False)
    with pytest.raises(AgentError, match="keep the GPU busy for 1000000 us: it does not wait for them"):
        session.facts(FEEDS)


def test_fp32_is_float32_without_tf32(backend: Any, tmp_path: Path) -> None:
    facts = backend.open(linear(tmp_path / "m.onnx"), {}, SHAPES).facts(FEEDS)
    assert (facts["precision"], facts["precision_reason"]) == ({"float32": 1}, None)
    assert (facts["flags"], facts["tf32"], facts["source"]) == ([], False, "m.onnx")
    assert facts["provider"] == f"TensorRT {backend.trt.__version__} on Orin (stand-in)"
    assert facts["device_memory_bytes"] == (4096 if backend.trt.release < (10,) else 8192)
    assert facts["dla"] is None
    assert facts["static_shapes"]


def test_fp16_is_the_builders_or_the_files(backend: Any, tmp_path: Path) -> None:
    options = {"precision": "fp16", "half_file": str(half(tmp_path / "half.onnx"))}
    session = backend.open(linear(tmp_path / "m.onnx"), options, SHAPES)
    np.testing.assert_allclose(session.run(FEEDS)["logits"], FEEDS["input"] @ weights(), atol=0.05)
    facts = session.facts(FEEDS)
    assert facts["precision"] == {"float16": 1}
    expected = (["FP16"], "m.onnx") if lowers(backend) else ([], "half.onnx")
    assert (facts["flags"], facts["source"]) == expected


def test_fp16_never_becomes_fp32(backend: Any, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    if lowers(backend):
        assert backend.open(path, {"precision": "fp16"}, SHAPES).facts(FEEDS)["precision"] == {"float16": 1}
        return
    message = r"fp16 was asked for, but TensorRT 11\.\d\.1 cannot lower .* m\.onnx has no float16 in it; .*half_file"
    for half_file in ("", str(path)):
        with pytest.raises(AgentError, match=message):
            backend.open(path, {"precision": "fp16", "half_file": half_file}, SHAPES)
    # a file that is float16 already needs no second one
    facts = backend.open(half(tmp_path / "half.onnx"), {"precision": "fp16"}, SHAPES).facts(FEEDS)
    assert facts["precision"] == {"float16": 1}


def test_int8_is_what_the_file_says(backend: Any, tmp_path: Path) -> None:
    session = backend.open(quantized(tmp_path / "q.onnx"), {"precision": "int8"}, SHAPES)
    facts = session.facts(FEEDS)
    assert facts["precision"] == {"int8": 1}
    assert facts["flags"] == (["INT8", "FP16"] if lowers(backend) else [])
    expected = backends.load("onnxruntime").open(tmp_path / "q.onnx", {}).run(FEEDS)["logits"]
    np.testing.assert_array_equal(session.run(FEEDS)["logits"], expected)


def test_int8_without_quantization_is_refused(backend: Any, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"m\.onnx has no QuantizeLinear and DequantizeLinear; quantize the model"):
        backend.open(linear(tmp_path / "m.onnx"), {"precision": "int8"}, SHAPES)


def test_a_refusing_parser_names_the_node(backend: Any, tmp_path: Path) -> None:
    where = r"node 1 'distinct' \(Unique\)" if backend.trt.release >= (10,) else "node 1"
    with pytest.raises(AgentError, match=rf"refuses m\.onnx: {where}: No importer registered for op: Unique"):
        backend.open(unknown(tmp_path / "m.onnx"), {}, SHAPES)


def test_a_file_that_is_no_model_is_refused(newest: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(AgentError, match=r"TensorRT 10\.16\.1 refuses m\.onnx: node -1: .*Failed to parse"):
        newest.open(tmp_path / "m.onnx", {"cache": False}, SHAPES)
    with pytest.raises(AgentError, match=r"m\.onnx is no ONNX file"):
        newest.open(tmp_path / "m.onnx", {}, SHAPES)
    with pytest.raises(AgentError, match=r"there is no file .*none"):
        newest.open(tmp_path / "none.onnx", {}, SHAPES)


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        ("Could not find any implementation for node product.", ""),
        (
            "Error Code 2: OutOfMemory (Requested size was 6815744 bytes.)",
            "; lower the option workspace_mb, or end what",
        ),
    ],
)
def test_a_builder_that_builds_nothing_says_why(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, advice: str
) -> None:
    monkeypatch.setenv("FAKE_TRT_NO_TACTIC", says)
    with pytest.raises(AgentError) as raised:
        newest.open(linear(tmp_path / "m.onnx"), {}, SHAPES)
    assert f"cannot build m.onnx: {says}{advice}" in str(raised.value)
    assert ("workspace_mb" in str(raised.value)) == bool(advice)


def test_shapes_are_needed_and_must_fit(newest: Any, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"none was given for input 'input' \[\?x8\] of m\.onnx"):
        newest.open(linear(tmp_path / "m.onnx"), {})
    with pytest.raises(AgentError, match=r"input 'input' of m\.onnx is \[4x8\], the job feeds \[2x8\]"):
        newest.open(linear(tmp_path / "m.onnx", 4), {}, SHAPES)
    assert newest.open(linear(tmp_path / "m.onnx", 4), {}).inputs[0].shape == (4, 8)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": samples(2)}, "inputs are input, the job feeds x"),
        ({"input": samples(2).astype(np.float64)}, r"float32 \[2x8\], the job feeds float64 \[2x8\]"),
        ({"input": samples(1)}, r"the job feeds float32 \[1x8\]"),
    ],
)
def test_wrong_feeds_are_named(newest: Any, tmp_path: Path, feeds: Any, message: str) -> None:
    session = newest.open(linear(tmp_path / "m.onnx"), {}, SHAPES)
    for use in (session.run, session.bind):
        with pytest.raises(AgentError, match=message):
            use(feeds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"presicion": "fp16"}, "has no option presicion; it has .*precision"),
        ({"precision": "bf16"}, "precision of tensorrt is 'bf16'; it may be fp32, fp16, int8"),
        ({"workspace_mb": -1}, "workspace_mb of tensorrt is -1; it must be at least 0"),
        ({"optimization_level": 6}, "optimization_level of tensorrt is 6; it must be 0 to 5"),
        ({"threads": 0}, "threads of tensorrt is 0; it must be at least 1"),
        ({"allow_gpu_fallback": True}, "means nothing without a DLA core"),
        ({"dla": 0}, "a DLA computes in fp16 and int8 only: leave fp32 out"),
        ({"dla": 0, "precision": "fp16"}, "dla of tensorrt is 0; there are none"),
    ],
)
def test_wrong_options_are_named(newest: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        newest.check(options)


def test_a_release_without_optimization_levels_says_so(backend: Any, tmp_path: Path) -> None:
    options = {"optimization_level": 5}
    if backend.trt.release < (8, 6):
        with pytest.raises(AgentError, match=r"TensorRT 8\.5\.1 has no optimization levels"):
            backend.check(options)
        return
    session = backend.open(linear(tmp_path / "m.onnx"), options, SHAPES)
    assert session._execution._engine._told["level"] == 5


def test_the_workspace_is_what_was_asked_or_half_of_what_is_free(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_MEMORY_MB", "512")
    path = linear(tmp_path / "m.onnx")
    asked = newest.prepare(path, {"workspace_mb": 1}, SHAPES, lambda detail: None)
    assert (asked["workspace_mb"], asked["skipped_tactics"]) == (1, 1)
    free = newest.prepare(path, {}, SHAPES, lambda detail: None)
    assert (free["workspace_mb"], free["skipped_tactics"]) == (256, 0)


def test_memory_that_does_not_suffice_is_told(newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = linear(tmp_path / "m.onnx")
    newest.prepare(path, {}, SHAPES, lambda detail: None)
    monkeypatch.setenv("FAKE_CUDA_MEMORY_MB", "0")
    with pytest.raises(AgentError, match=r"cudaMalloc failed: out of memory .*; 0 of 0 MB are free"):
        newest.open(path, {}, SHAPES)


@pytest.mark.parametrize("graph", [False, True])
def test_a_bound_call_keeps_what_it_uses(newest: Any, tmp_path: Path, graph: bool) -> None:
    before = loading.live(loading.library())
    call = newest.open(linear(tmp_path / "m.onnx"), {"cuda_graph": graph}, SHAPES).bind(FEEDS)
    gc.collect()
    assert loading.live(loading.library()) > before
    call()
    del call
    gc.collect()
    assert loading.live(loading.library()) == before


def test_everything_is_freed_by_close(newest: Any, tmp_path: Path) -> None:
    before = loading.live(loading.library())
    session = newest.open(linear(tmp_path / "m.onnx"), {"cuda_graph": True}, SHAPES)
    call = session.bind(FEEDS)
    call()
    assert loading.live(loading.library()) > before
    session.close()
    assert loading.live(loading.library()) == before
    with pytest.raises(AgentError, match="this session is closed"):
        call()


def test_a_call_keeps_its_session(newest: Any, tmp_path: Path) -> None:
    call = newest.open(linear(tmp_path / "m.onnx"), {}, SHAPES).bind(FEEDS)
    call()  # on freed memory the copies would fail


def test_the_dla_takes_a_whole_network(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRT_DLA_CORES", "2")
    options = {"precision": "fp16", "dla": 1, "half_file": str(half(tmp_path / "half.onnx"))}
    if not lowers(backend):
        return  # the stand-in's DLA knows no strongly typed networks
    facts = backend.open(linear(tmp_path / "m.onnx"), options, SHAPES).facts(FEEDS)
    assert facts["dla"] == {"core": 1, "layers": ["{ForeignNode[product]}"], "gpu_layers": []}
    assert facts["precision"] is None
    assert facts["precision_reason"] == "the engine does not tell the precision of {ForeignNode[product]}"


def test_what_the_dla_cannot_run_is_refused_or_told(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRT_DLA_CORES", "1")
    path, options = undefined(tmp_path / "m.onnx"), {"precision": "fp16", "dla": 0}
    with pytest.raises(AgentError, match=r"DLA core 0 cannot run 1 layers of m\.onnx: log; allow_gpu_fallback: true"):
        newest.open(path, options, SHAPES)
    facts = newest.open(path, {**options, "allow_gpu_fallback": True}, SHAPES).facts(FEEDS)
    assert facts["not_on_dla"] == ["log"]
    assert facts["dla"]["gpu_layers"] == ["log"]


def test_an_engine_that_fell_back_by_itself_is_refused(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRT_DLA_CORES", "1")
    monkeypatch.setattr(newest.trt.IBuilderConfig, "can_run_on_DLA", lambda self, layer: True)
    with pytest.raises(AgentError, match=r"asked for DLA core 0, TensorRT put 1 layers on the GPU: log;"):
        newest.open(undefined(tmp_path / "m.onnx"), {"precision": "fp16", "dla": 0}, SHAPES)


def test_throughput_counts_what_it_ran(backend: Any, tmp_path: Path) -> None:
    before = loading.live(loading.library())
    told = backend.throughput(linear(tmp_path / "m.onnx"), {}, FEEDS, 4, 0.02)
    assert told.threads == 1
    assert told.inferences >= 2
    assert told.seconds >= 0.02
    assert loading.live(loading.library()) == before


def test_a_stand_in_is_never_taken_for_a_device(backend: Any) -> None:
    told = backend.runtime()
    assert (told["name"], told["version"]) == ("tensorrt", backend.trt.__version__)
    assert (told["gpu"], told["compute_capability"], told["cuda"]) == ("Orin (stand-in)", "8.7", "12.6")
    assert "tensorrt is a stand-in written in Python" in told["simulated"]
    assert "is not NVIDIA's CUDA runtime" in told["simulated"]


def test_classes_of_bindings_are_no_stand_in(newest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metaclass = type("pybind11_type", (type,), {})
    monkeypatch.setattr(newest.trt, "Builder", metaclass("Builder", (), {}))
    assert newest.nvinfer.stand_in() is None


def test_warming_leaves_nothing(backend: Any) -> None:
    before = loading.live(loading.library())
    backend.warm()
    assert loading.live(loading.library()) == before


@pytest.mark.parametrize("problem", [ImportError("No module named 'tensorrt'"), OSError("libnvdla_compiler.so")])
def test_an_import_that_fails_says_where_tensorrt_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: Exception
) -> None:
    (tmp_path / "tensorrt.py").write_text(f"raise {problem!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    loading._forget()
    with pytest.raises(AgentError, match=rf"{problem.args[0]}.*python: /usr/bin/python3.*--system-site-packages"):
        backends.load("tensorrt")


def test_tactics_are_timed_once_for_all_engines(newest: Any, tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {}), ("c", {"precision": "fp16"})):
        path = linear(tmp_path / f"{name}.onnx")
        if name == "b":
            path.write_bytes(path.read_bytes().replace(b"network", b"changed"))
        facts = newest.prepare(path, options, SHAPES, lambda detail: None)
        assert (facts["cached"], facts["timing_cache_reused"]) == (False, name != "a")
    assert tensorrt_api.TIMED == ["product"]


def test_a_long_build_tells_how_far_it_is(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, heard = [], threading.Event()
    phase = ": Building Engine, step 1 of 1" if backend.trt.release >= (10,) else ""

    def report(detail: str) -> None:
        told.append(detail)
        if re.fullmatch(rf"building m\.onnx as fp32, \d+ s{phase}", detail):
            heard.set()

    waited: list[bool] = []
    monkeypatch.setattr(backend.building, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(tensorrt_api, "MEANWHILE", [lambda: waited.append(heard.wait(60))])
    backend.prepare(linear(tmp_path / "m.onnx"), {}, SHAPES, report)
    assert told[0] == "building m.onnx as fp32"
    assert waited == [True]  # it was told while the build went on


def test_int64_inputs_are_narrowed_where_the_release_has_no_int64(backend: Any, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["ids"], ["x"], "cast", to=TensorProto.FLOAT)],
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    session = backend.open(tmp_path / "m.onnx", {})
    assert session.inputs[0].dtype == ("int64" if backend.trt.release >= (10,) else "int32")
    np.testing.assert_array_equal(session.run({"ids": np.array([7, -1, 2**31 - 1])})["x"], np.float32([7, -1, 2**31]))
    if backend.trt.release < (10,):
        with pytest.raises(AgentError, match=r"int32 \[3\], the job feeds int64 \[3\]"):
            session.run({"ids": np.array([7, -1, 2**31])})

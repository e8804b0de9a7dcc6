"""Whole measurements through the command line, as a host runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.agent import meters
from edgekd.agent.children import ChildError, run_child
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, sha256
from edgekd.agent.measuring import measure
from edgekd.agent.method import Method, Power

from .command import agent
from .networks import TINY, linear, quantized, samples, undefined, weights, write_job
from .sysfs import ORIN_NANO, orin_nano


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """A job with a good, a quantized, a NaN and a broken variant: its events and its measurement."""
    folder = tmp_path_factory.mktemp("whole")
    broken = folder / "job/models/broken.onnx"
    models = {
        "teacher": linear(folder / "job/models/teacher.onnx"),
        "int8": quantized(folder / "job/models/int8.onnx", 1),
        "nan": undefined(folder / "job/models/nan.onnx", 3),
        "broken": broken,
    }
    broken.write_bytes(b"not a model")
    job = write_job(folder / "job", models)
    ran = agent("run", job, folder / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()], folder / "out"


@pytest.fixture(scope="module")
def measurement(whole: tuple[list[dict[str, Any]], Path]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((whole[1] / "measurement.json").read_text())
    return content


def test_events(whole: tuple[list[dict[str, Any]], Path]) -> None:
    events = whole[0]
    assert events[-1] == {"event": "done"}
    assert {event["event"] for event in events[:-1]} == {"progress"}
    phases = list(dict.fromkeys(event["phase"] for event in events[:-1]))
    assert phases == ["evaluate", "latency", "throughput"]
    assert all(0 <= event["done"] <= event["total"] and isinstance(event["detail"], str) for event in events[:-1])


def test_head(measurement: dict[str, Any]) -> None:
    assert (measurement["protocol"], measurement["device"], measurement["backend"]) == (2, "cpu", "onnxruntime")
    assert measurement["runtime"]["name"] == "onnxruntime"
    assert measurement["method"]["quick"] is True
    assert measurement["reference"] == "teacher"
    assert measurement["batch_size"] == 1
    assert measurement["cores"] == sorted(os.sched_getaffinity(0))[-1:]
    assert measurement["started_at"] <= measurement["finished_at"]
    assert measurement["environment"]["before"]["cpu"]


def test_every_file_is_listed_with_its_hash(
    whole: tuple[list[dict[str, Any]], Path], measurement: dict[str, Any]
) -> None:
    present = {str(path.relative_to(whole[1])): sha256(path) for path in whole[1].rglob("*") if path.is_file()}
    del present["measurement.json"]
    assert measurement["files"] == present
    assert len(present) == 2 * 2 + 2  # outputs of two variants, samples of two processes


@pytest.mark.parametrize(("split", "count", "seed"), [("test", 70, 0), ("validation", 5, 1)])
def test_outputs(
    whole: tuple[list[dict[str, Any]], Path], measurement: dict[str, Any], split: str, count: int, seed: int
) -> None:
    product = samples(count, seed) @ weights()
    teacher = read_npz(whole[1] / measurement["variants"]["teacher"]["outputs"][split])
    assert list(teacher) == ["logits"]
    np.testing.assert_allclose(teacher["logits"], product, rtol=0, atol=1e-6)
    int8 = read_npz(whole[1] / measurement["variants"]["int8"]["outputs"][split])["logits"]
    np.testing.assert_array_equal(np.abs(int8 - product) < 0.6, True)


def test_what_failed_is_kept_apart(measurement: dict[str, Any]) -> None:
    variants = measurement["variants"]
    assert variants["teacher"]["error"] is variants["int8"]["error"] is None
    assert "refuses broken.onnx" in variants["broken"]["error"]
    # its batch is fixed to 3, the one that is timed has 1
    assert "float32 [3x8], the job feeds float32 [1x8]" in variants["nan"]["error"]
    for name in ("nan", "broken"):
        assert (
            variants[name]["cold_start_ns"]
            is variants[name]["peak_memory_bytes"]
            is variants[name]["throughput"]
            is None
        )
        assert variants[name]["throughput_reason"] == "the variant does not run here"


def test_numbers_of_a_variant(measurement: dict[str, Any]) -> None:
    for name in ("teacher", "int8"):
        variant = measurement["variants"][name]
        assert 0 < variant["load_ns"] < variant["cold_start_ns"]
        assert (variant["peak_memory_bytes"] is None) == (variant["memory_reason"] is not None)
        assert variant["throughput"]["inferences"] > 0
        assert variant["throughput"]["threads"] == len(os.sched_getaffinity(0))
    assert measurement["variants"]["teacher"]["facts"]["precision"] == {"float32": 1}
    assert measurement["variants"]["int8"]["facts"]["precision"] == {"int8": 1}


def test_latency_samples(whole: tuple[list[dict[str, Any]], Path], measurement: dict[str, Any]) -> None:
    latency = measurement["latency"]
    assert latency["columns"] == ["teacher", "int8", "teacher#control"]
    assert latency["processes"] == ["samples/0.npz", "samples/1.npz"]
    assert latency["core"] == measurement["cores"][0]
    assert latency["spinning"]["checked"] is True
    totals = np.zeros(3, int)
    orders = []
    for name in latency["processes"]:
        samples = read_npz(whole[1] / name)
        order = samples["order"]
        assert order.dtype == np.int16
        assert len(order) >= 5
        np.testing.assert_array_equal(np.sort(order, axis=1), np.tile([0, 1, 2], (len(order), 1)))
        orders.append(order.tolist())
        for column in range(3):
            times = samples[f"latency_ns_{column}"]
            assert (
                times.dtype
                == samples[f"settling_ns_{column}"].dtype
                == samples[f"warmup_ns_{column}"].dtype
                == np.int64
            )
            assert times.shape[0] == len(order)
            assert times.shape[1] >= TINY.calls
            assert samples[f"settling_ns_{column}"].shape == (len(order), TINY.settling_calls)
            assert samples[f"warmup_ns_{column}"].ndim == 1
            assert (times > 0).all()
            totals[column] += times.size
        assert samples["warmup_steady"].shape == (3,)
    assert (totals >= TINY.inferences).all()
    assert orders[0][:5] != orders[1][:5]  # each process has its own order


def test_no_meter_says_why(measurement: dict[str, Any]) -> None:
    energy = measurement["energy"]
    if energy["meter"] is None:
        assert energy["windows"] is None
        assert all(f"{name}: " in energy["reason"] for name in meters.ORDER)


def test_another_runtime(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    models = {"teacher": linear(tmp_path / "job/models/teacher.onnx"), "nan": undefined(tmp_path / "job/models/n.onnx")}
    job = write_job(tmp_path / "job", models, backend="openvino", method=Method(**{**vars(TINY), "processes": 1}))
    events: list[str] = []
    told = measure(job, tmp_path / "out", lambda phase, *_: events.append(phase))
    assert told["runtime"]["name"] == "openvino"
    assert told["latency"]["columns"] == ["teacher", "nan", "teacher#control"]
    assert told["variants"]["teacher"]["facts"]["precision"] == {"float32": 1}
    product = samples(70) @ weights()
    logits = read_npz(tmp_path / "out" / told["variants"]["nan"]["outputs"]["test"])["logits"]
    np.testing.assert_array_equal(np.isnan(logits), product < 0)
    assert {"evaluate", "latency", "throughput"} == set(events)


def test_only_evaluation(tmp_path: Path) -> None:
    job = write_job(
        tmp_path / "job", {"one": linear(tmp_path / "job/models/a.onnx", 4)}, reference=None, latency_inputs=None
    )
    told = measure(job, tmp_path / "out", lambda *_: None)
    assert told["latency"] is None
    assert told["latency_reason"] == told["energy"]["reason"] == "the job has no latency inputs"
    assert told["variants"]["one"]["cold_start_ns"] is None
    logits = read_npz(tmp_path / "out" / told["variants"]["one"]["outputs"]["test"])["logits"]
    np.testing.assert_allclose(logits, samples(70) @ weights(), rtol=0, atol=1e-6)  # the last batch of 4 was filled up


def test_only_timing_without_a_reference(tmp_path: Path) -> None:
    method = Method(**{**vars(TINY), "processes": 1, "throughput_seconds": 0})
    job = write_job(
        tmp_path / "job",
        {"one": linear(tmp_path / "job/models/a.onnx")},
        reference=None,
        inputs={},
        method=method,
        power=Power(meter="none"),
    )
    told = measure(job, tmp_path / "out", lambda *_: None)
    assert told["variants"]["one"]["outputs"] == {}
    assert told["latency"]["columns"] == ["one", "one#control"]
    assert told["variants"]["one"]["throughput"] is None
    assert told["variants"]["one"]["throughput_reason"] == "switched off (throughput_seconds: 0)"
    assert told["energy"]["reason"] == "energy measurement is switched off (power meter: none)"


def test_latency_and_nothing_else(tmp_path: Path) -> None:
    method = Method(**{**vars(TINY), "processes": 1, "throughput_seconds": 0, "alone": False})
    models = {name: linear(tmp_path / "job/models" / name) for name in ("teacher", "other")}
    job = write_job(tmp_path / "job", models, inputs={}, method=method, power=Power(meter="none"))
    phases = set()
    told = measure(job, tmp_path / "out", lambda phase, *_: phases.add(phase))
    assert phases == {"evaluate", "latency", "throughput"}  # the backend is checked, and that throughput is left out
    assert told["latency"]["columns"] == ["teacher", "other", "teacher#control"]
    other = told["variants"]["other"]
    assert (other["error"], other["outputs"], other["cold_start_ns"], other["facts"]) == (None, {}, None, {})
    assert other["memory_reason"] == "switched off (alone: false)"


def test_a_job_with_inputs_cannot_leave_out_what_gives_the_outputs(tmp_path: Path) -> None:
    models = {"teacher": linear(tmp_path / "job/models/t.onnx")}
    with pytest.raises(AgentError, match=r"method\.alone is false"):
        write_job(tmp_path / "job", models, method=Method(alone=False))


def test_energy_of_a_made_up_board_is_recorded_and_marked(tmp_path: Path) -> None:
    orin_nano(tmp_path / "board")
    method = Method(**{**vars(TINY), "processes": 1, "throughput_seconds": 0, "energy_windows": 1, "idle_seconds": 0.1})
    job = write_job(tmp_path / "job", {"teacher": linear(tmp_path / "job/models/t.onnx")}, inputs={}, method=method)
    ran = agent("run", job, tmp_path / "out", EDGEKD_AGENT_ROOT=tmp_path / "board")
    assert ran.returncode == 0, ran.stdout
    told = json.loads((tmp_path / "out/measurement.json").read_text())
    energy = told["energy"]
    assert (energy["meter"], energy["scope"], energy["scope_kind"]) == ("ina3221", "module (VDD_IN)", "module")
    assert energy["simulated"] is True
    assert told["simulated"] == ["power and device state are read below %s instead of /" % (tmp_path / "board")]
    assert {"samples/energy.json", "samples/power.npz"} <= set(told["files"])
    windows = json.loads((tmp_path / "out/samples/energy.json").read_text())["windows"]
    assert [(window["kind"], window["variant"]) for window in windows] == [
        ("idle", None),
        ("active", "teacher"),
        ("idle", None),
    ]
    label, millivolts, milliamperes = ORIN_NANO[0][:3]
    assert label == "VDD_IN"
    for window in windows:
        assert window["rejected"] is None
        assert window["mean_power_w"] == pytest.approx(millivolts * milliamperes / 1e6)
        assert window["seconds"] == pytest.approx((window["end_ns"] - window["start_ns"]) / 1e9, rel=0.01)


def test_a_variant_that_fails_under_the_clock_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def fail(task: dict[str, Any], *rest: Any) -> dict[str, Any]:
        if task["kind"] == "latency":
            started.append(task["columns"])
            if "int8" in task["columns"] and task["process"] == 1:
                raise ChildError("latency of int8: the process was killed by SIGKILL", "int8")
        return run_child(task, *rest)

    monkeypatch.setattr("edgekd.agent.measuring.run_child", fail)
    models = {"teacher": linear(tmp_path / "job/models/t.onnx"), "int8": quantized(tmp_path / "job/models/q.onnx")}
    told = measure(write_job(tmp_path / "job", models, inputs={}), tmp_path / "out", lambda *_: None)
    assert told["variants"]["int8"]["error"] == "latency of int8: the process was killed by SIGKILL"
    assert told["variants"]["teacher"]["error"] is None
    assert started == [["teacher", "int8", "teacher#control"]] * 2 + [["teacher", "teacher#control"]] * 2
    assert told["latency"]["columns"] == ["teacher", "teacher#control"]
    assert sorted(told["files"]) == ["samples/0.npz", "samples/1.npz"]
    assert "latency_ns_2" not in read_npz(tmp_path / "out/samples/0.npz")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "tflite"}, "no backend 'tflite'"),
        ({"options": {"providers": ["CUDAExecutionProvider"]}}, "CUDAExecutionProvider is not in this build"),
        ({"power": Power("wattmeter")}, "no power meter 'wattmeter'; there are auto, none, "),
        ({"cores": (4096,)}, r"pins to cores \[4096\]"),
        ({"options": {"threads": 2}, "cores": (0,)}, "2 threads do not fit on cores"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    job = write_job(tmp_path / "job", {"teacher": linear(tmp_path / "job/models/t.onnx")}, **fields)
    with pytest.raises(AgentError, match=message):
        measure(job, tmp_path / "out", lambda *_: None)
    assert not list((tmp_path / "out").rglob("*"))

"""`bench`: what is asked for becomes a job, and the preview says what the samples say."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.agent import job as jobs
from edgekd.agent import preview, standalone
from edgekd.agent.backends import Tensor
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_npz, write_json, write_npz
from edgekd.agent.latency import CONTROL

from .networks import TINY, linear, quantized


def chosen(*arguments: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    standalone.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return linear(tmp_path / "big/model.onnx"), quantized(tmp_path / "small/model.onnx")


def test_the_job(tmp_path: Path, models: tuple[Path, Path]) -> None:
    teacher, student = models
    asked = chosen(student, "--against", teacher, "--batch-size", "3", "--quick", "--meter", "none")
    assert standalone.write_job(tmp_path / "job", asked) == "random (seed 0): input float32[3x8]"
    job = jobs.load(tmp_path / "job")
    assert [model.name for model in job.models] == ["model", "model-2"]
    assert (job.reference, job.batch_size, job.power.meter, job.lock_clocks) == ("model", 3, "none", False)
    assert job.method.quick
    assert (tmp_path / "job" / job.models[1].file).read_bytes() == student.read_bytes()
    feeds = read_npz(tmp_path / "job" / str(job.latency_inputs))
    np.testing.assert_array_equal(feeds["input"], np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32))


def test_own_inputs(tmp_path: Path, models: tuple[Path, Path]) -> None:
    write_npz(tmp_path / "batch.npz", {"input": np.ones((5, 8), np.float32)})
    asked = chosen(models[0], "--inputs", tmp_path / "batch.npz", "--options", '{"threads": 2}', "--lock-clocks")
    assert standalone.write_job(tmp_path / "job", asked) == str(tmp_path / "batch.npz")
    job = jobs.load(tmp_path / "job")
    assert (job.reference, job.batch_size, job.options, job.lock_clocks) == (None, 5, {"threads": 2}, True)
    assert not job.method.quick


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    path = linear(tmp_path / "m/model.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    standalone.write_job(tmp_path / "job", chosen(path))
    assert (tmp_path / "job/model/weights.bin").is_file()
    assert jobs.load(tmp_path / "job").models[0].file == "model/model.onnx"


def test_random_feeds() -> None:
    tensors = [Tensor("ids", (None, None), "int64"), Tensor("mask", (None, 4), "bool"), Tensor("x", (), "float16")]
    feeds = standalone.random_feeds(tensors, {"ids": (2, 7)}, 2)
    assert {name: (array.shape, array.dtype.name) for name, array in feeds.items()} == {
        "ids": ((2, 7), "int64"),
        "mask": ((2, 4), "bool"),
        "x": ((), "float16"),
    }
    assert set(np.unique(feeds["ids"])) <= {0, 1}


@pytest.mark.parametrize(
    ("tensor", "shapes", "message"),
    [
        (Tensor("x", (None, 3, None), "float32"), {}, r"is \?x3x\?, whose \? may be anything: say --shape x=2x3x64"),
        (Tensor("x", (1, 3), "float32"), {"x": (1, 4)}, "is 1x3; 1x4 does not fit"),
        (Tensor("x", (1, 3), "float32"), {"x": (3,)}, "is 1x3; 3 does not fit"),
        (Tensor("x", (1, 3), "float32"), {"y": (3,)}, "--shape names 'y'; the model's inputs are x"),
        (Tensor("x", (None,), "str"), {}, "'x' is str: give inputs by --inputs FILE.npz"),
    ],
)
def test_inputs_that_cannot_be_made_up(tensor: Tensor, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        standalone.random_feeds([tensor], shapes, 2)


def test_what_cannot_be_benched(tmp_path: Path, models: tuple[Path, Path]) -> None:
    teacher, student = models
    write_npz(tmp_path / "batch.npz", {"input": np.ones((5, 8), np.float32)})
    with pytest.raises(AgentError, match=r"there is no file .*missing\.onnx"):
        standalone.write_job(tmp_path / "job", chosen(tmp_path / "missing.onnx"))
    with pytest.raises(AgentError, match="--precision is for tensorrt"):
        standalone.write_job(tmp_path / "job", chosen(student, "--precision", "fp16"))
    with pytest.raises(AgentError, match="--inputs has the shapes"):
        standalone.write_job(tmp_path / "job", chosen(student, "--inputs", tmp_path / "batch.npz", "--batch-size", "2"))
    wide = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 9])],
    )
    onnx.save(helper.make_model(wide), tmp_path / "wide.onnx")
    with pytest.raises(AgentError, match=r"model takes input float32\[1x8\], wide takes input float32\[1x9\]"):
        standalone.write_job(tmp_path / "job", chosen(tmp_path / "wide.onnx", "--against", teacher))


@pytest.mark.parametrize(
    "arguments",
    [["--options", "[1]"], ["--options", "{"], ["--shape", "x=1x0"], ["--shape", "1x3"], ["--batch-size", "0"]],
)
def test_what_cannot_be_read(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        chosen("m.onnx", *arguments)
    assert left.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def _measurement(folder: Path) -> dict[str, object]:
    """Write a measurement whose figures are known: the student is twice as fast, one file does not run."""
    teacher = np.full((6, 10), 2_000_000)
    teacher[:, 9] = 4_000_000
    for process in range(2):
        # The machine's speed doubles between rounds: pairs do not see it.
        speed = np.array([1, 2, 1, 2, 1, 2])[:, None]
        columns = [teacher * speed, teacher * speed // 2, teacher * speed + process * 20_000 * speed]
        arrays = {f"latency_ns_{index}": column for index, column in enumerate(columns)}
        write_npz(folder / f"samples/{process}.npz", arrays)
    powers = [(4.0, 5.0, 1000, None), (6.0, 5.0, 1000, None), (8.0, 5.0, 1000, None), (99.0, 5.0, 1000, "a gap")]
    windows = [
        {"variant": "teacher", "mean_power_w": w, "seconds": s, "inferences": n, "rejected": reason}
        for w, s, n, reason in powers
    ]
    windows.append({"variant": "student", "mean_power_w": 4.0, "seconds": 5.0, "inferences": 9, "rejected": "a gap"})
    windows.append({"variant": None, "mean_power_w": 1.0, "seconds": 5.0, "inferences": 0, "rejected": None})
    write_json(folder / "samples/energy.json", {"windows": windows})
    ran = {"facts": {"precision": {"int8": 3, "float32": 1}}, "throughput": {"inferences": 30, "seconds": 2.0}}
    return {
        "runtime": {"name": "onnxruntime", "version": "1.2.3"},
        "batch_size": 1,
        "method": {"quick": True},
        "reference": "teacher",
        "variants": {
            "teacher": {"error": None, **ran},
            "student": {"error": None, **ran},
            "broken": {"error": "no such operator", "facts": {}, "throughput": None},
        },
        "latency": {
            "columns": ["teacher", "student", f"teacher{CONTROL}"],
            "processes": ["samples/0.npz", "samples/1.npz"],
        },
        "latency_reason": None,
        "energy": {"windows": "samples/energy.json", "scope": "module (VDD_IN)", "reason": None},
        "simulated": ["sensors are made up"],
        "locked_clocks": "clocks locked by jetson_clocks, restored",
        "environment": {"changes": ["power_mode: a -> b"]},
    }


def test_the_preview_says_what_the_samples_say(tmp_path: Path) -> None:
    told = preview.summary(_measurement(tmp_path), tmp_path)
    teacher, student, broken = (told["models"][name] for name in ("teacher", "student", "broken"))
    assert teacher["latency_ms"] == {"p50": 4.0, "p90": pytest.approx(4.0), "p99": 8.0, "calls": 120}
    assert student["speedup"] == {"ratio": 2.0, "processes": [2.0, 2.0], "no_difference": False}
    assert told["control"] == {
        "ratio": pytest.approx((1 + 1 / 1.01) / 2),
        "processes": [pytest.approx(1 / 1.01), 1.0],
    }
    assert teacher["energy_mj"] == pytest.approx(6.0 * 5.0 / 1000 * 1e3)  # the median of the three good windows
    assert (student["energy_mj"], student["energy_reason"]) == (None, "every window was rejected: a gap")
    assert (teacher["per_second"], broken["per_second"]) == (15.0, None)
    assert broken["latency_ms"] is None
    json.dumps(told, allow_nan=False)


def test_the_table(tmp_path: Path) -> None:
    told = preview.summary(_measurement(tmp_path), tmp_path)
    told["inputs"] = "random (seed 0): x"
    lines = preview.text(told).splitlines()
    assert lines[0] == "onnxruntime 1.2.3, batch 1, quick, inputs random (seed 0): x"
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:6]}
    assert rows["teacher"][:6] == ["4.000", "4.000", "8.000", "teacher", "15.0", "30"]
    assert rows["student"][:6] == ["2.000", "2.000", "4.000", "x2.00", "15.0", "-"]
    assert rows["student"][6:] == ["3", "x", "int8,", "1", "x", "float32"]
    assert rows["broken"] == ["-"] * 7
    assert "noise: the same model against itself gives x0.995 (processes x0.990 to x1.000)" in lines
    assert "energy: gross, module (VDD_IN)" in lines
    assert "error: broken: no such operator" in lines
    assert "SIMULATED, not measured: sensors are made up" in lines
    assert "clocks: clocks locked by jetson_clocks, restored" in lines
    assert "the device changed: power_mode: a -> b" in lines


def test_a_difference_within_the_noise_is_none(tmp_path: Path) -> None:
    measurement = _measurement(tmp_path)
    measurement["latency"] = {
        "columns": ["teacher", "fast", "student"],
        "processes": ["samples/0.npz", "samples/1.npz"],
    }  # without a control nothing can be told apart
    assert preview.summary(measurement, tmp_path)["models"]["student"]["speedup"]["no_difference"]
    measurement["latency"]["columns"] = [f"teacher{CONTROL}", "fast", "teacher"]
    measurement["variants"] = {"teacher": measurement["variants"]["teacher"]}
    told = preview.summary(measurement, tmp_path)
    assert told["models"]["teacher"]["speedup"] is None


def test_measured_here(
    tmp_path: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(standalone, "QUICK", replace(TINY, processes=1, throughput_seconds=0.0))
    asked = chosen(models[1], "--against", models[0], "--quick", "--meter", "none", "--json", "--out", tmp_path / "out")
    assert standalone.command(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"]["model-2"]["latency_ms"]["p50"] > 0
    assert told["models"]["model-2"]["precision"] == {"int8": 1}
    assert "switched off" in told["models"]["model"]["energy_reason"]
    kept = json.loads((tmp_path / "out/measurement.json").read_text())
    assert kept["latency"]["columns"] == ["model", "model-2", f"model{CONTROL}"]

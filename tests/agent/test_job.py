from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent.errors import AgentError
from edgekd.agent.files import sha256
from edgekd.agent.job import Job, load, parse
from edgekd.agent.method import Method, Model, Power

from .networks import linear, write_job


def document(**changes: Any) -> dict[str, Any]:
    job = Job(
        device="cpu",
        backend="onnxruntime",
        models=(
            Model("teacher", "models/t.onnx", "0" * 64),
            Model("teacher-fp16", "models/t.onnx", "0" * 64, "fp16", "models/h.onnx", "2" * 64),
            Model("int8", "models/q.onnx", "1" * 64, "int8"),
        ),
        options={"threads": 2},
        reference="teacher",
        inputs={"test": "inputs/test.npz"},
        latency_inputs="inputs/latency.npz",
        batch_size=4,
        method=Method(processes=3, seconds=1, quick=True),
        cores=(1, 3),
        power=Power("ina3221", pace_hz=30, period_s=0.5),
        lock_clocks=True,
        files={"inputs/test.npz": "3" * 64},
        seed=7,
    )
    return {**json.loads(json.dumps(job.to_json())), **changes}


def test_a_job_survives_its_json() -> None:
    assert parse(document()).to_json() == document()


def test_the_defaults_are_the_full_method() -> None:
    job = parse({"protocol": 2, "device": "d", "backend": "b", "models": document()["models"]})
    assert job.method == Method(5, 10.0, 1000, 3.0, 3, 10, 2.0, 5, None, None, False)
    assert (job.cores, job.seed, job.inputs, job.latency_inputs) == (None, 0, {}, None)
    assert (job.power, job.lock_clocks, job.files) == (Power("auto", None, None), False, {})


def test_a_precision_reaches_the_backend_with_the_half_file(tmp_path: Path) -> None:
    job = parse(document())
    assert job.options_of("teacher", tmp_path) == {"threads": 2}
    half = str(tmp_path / "models/h.onnx")
    assert job.options_of("teacher-fp16", tmp_path) == {"threads": 2, "precision": "fp16", "half_file": half}
    assert job.options_of("int8", tmp_path) == {"threads": 2, "precision": "int8", "half_file": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": 1}, "protocol 1, this agent understands 2"),
        ({"protocol": None}, "protocol None"),
        ({"modles": []}, "unknown fields modles"),
        ({"backend": 3}, "job.backend is 3, which is not of the kind text"),
        ({"batch_size": True}, "not of the kind integer"),
        ({"batch_size": 0}, "at least 1"),
        ({"models": []}, "no models"),
        ({"models": [{"name": "a", "file": "b"}]}, r"job.models\[0\] lacks the field 'sha256'"),
        ({"models": document()["models"] * 2}, "two variants have the same name"),
        ({"models": [{"name": "a b", "file": "b", "sha256": ""}]}, "'a b' cannot name a variant"),
        ({"models": [{"name": "a#control", "file": "b", "sha256": ""}]}, "cannot name a variant"),
        ({"reference": "other"}, "'other' is none of the variants: teacher, teacher-fp16, int8"),
        ({"method": {"secnds": 1}}, "unknown fields secnds"),
        ({"method": {"seconds": "1"}}, "integer or number"),
        ({"method": {"seconds": math.nan}}, "method.seconds is nan, which is not"),
        ({"power": {"period_s": math.inf}}, "power.period_s is inf, which is not"),
        ({"method": {"processes": 0}}, "method.processes is 0"),
        ({"method": {"seconds": -1}}, "method.seconds is -1"),
        ({"cores": []}, "at least one core"),
        ({"cores": ["1"]}, "list of core numbers"),
        ({"power": {"meter": None}}, "job.power.meter"),
        ({"power": {"pace_hz": 0}}, "power.pace_hz is 0; it must be above 0"),
        ({"power": {"pace_hz": "fast"}}, "job.power.pace_hz"),
        ({"method": {"idle_seconds": -1}}, "method.idle_seconds is -1"),
        ({"files": {"a": 1}}, r"job.files\['a'\]"),
        ({"models": [{"name": "a", "file": "b", "sha256": "", "precision": "int4"}]}, "a: precision is 'int4'; it may"),
        ({"models": [{"name": "a", "file": "b", "sha256": "", "half_file": "c"}]}, "belong together"),
        ({"inputs": {"test": 1}}, "job.inputs.test"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        parse(document(**changes))


@pytest.mark.parametrize("content", [[], "job", 3, None])
def test_a_job_is_an_object(content: Any) -> None:
    with pytest.raises(AgentError, match="job must be an object"):
        parse(content)


def test_load_checks_the_models(tmp_path: Path) -> None:
    model = linear(tmp_path / "models/teacher.onnx")
    folder = write_job(tmp_path, {"teacher": model})
    assert load(folder).models == (Model("teacher", "models/teacher.onnx", sha256(model)),)
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(AgentError, match=r"teacher\.onnx was damaged or exchanged"):
        load(folder)
    model.unlink()
    with pytest.raises(AgentError, match=r"'models/teacher\.onnx', which is not in"):
        load(folder)


def test_load_checks_the_inputs_and_the_half_files(tmp_path: Path) -> None:
    folder = write_job(tmp_path, {"teacher": linear(tmp_path / "models/teacher.onnx")})
    content = json.loads((folder / "job.json").read_text())
    for damaged in ({"files": {"inputs/test.npz": "0" * 64}}, {"models": [half_of(content["models"][0])]}):
        (folder / "job.json").write_text(json.dumps({**content, **damaged}))
        with pytest.raises(AgentError, match=r"was damaged or exchanged .*SHA-256 is .*0{64}"):
            load(folder)


def half_of(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "precision": "fp16", "half_file": model["file"], "half_sha256": "0" * 64}


@pytest.mark.parametrize("path", ["../outside.npz", "/etc/hostname", "inputs/../../outside.npz"])
def test_paths_stay_inside_the_job(tmp_path: Path, path: str) -> None:
    folder = write_job(tmp_path / "job", {"teacher": linear(tmp_path / "job/models/teacher.onnx")})
    content = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**content, "inputs": {"test": path}}))
    with pytest.raises(AgentError, match="leads out of the job directory"):
        load(folder)


def test_a_folder_without_a_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"there is no file .*job\.json"):
        load(tmp_path)

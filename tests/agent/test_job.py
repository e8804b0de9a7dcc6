from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.agent.errors import AgentError
from edgekd.agent.files import sha256
from edgekd.agent.job import Job, Method, Model, load, parse

from .networks import linear, write_job


def document(**changes: Any) -> dict[str, Any]:
    job = Job(
        device="cpu",
        backend="onnxruntime",
        models=(Model("teacher", "models/t.onnx", "0" * 64), Model("int8", "models/q.onnx", "1" * 64)),
        options={"threads": 2},
        reference="teacher",
        inputs={"test": "inputs/test.npz"},
        latency_inputs="inputs/latency.npz",
        batch_size=4,
        method=Method(processes=3, seconds=1, quick=True),
        cores=(1, 3),
        meter="rapl",
        seed=7,
    )
    return {**json.loads(json.dumps(job.to_json())), **changes}


def test_a_job_survives_its_json() -> None:
    assert parse(document()).to_json() == document()


def test_the_defaults_are_the_full_method() -> None:
    job = parse({"protocol": 1, "device": "d", "backend": "b", "models": document()["models"]})
    assert job.method == Method(5, 10.0, 1000, 5.0, 3, 10, 2.0, 5, 30.0, False)
    assert (job.cores, job.meter, job.seed, job.inputs, job.latency_inputs) == (None, "auto", 0, {}, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": 2}, "protocol 2, this agent understands 1"),
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
        ({"reference": "other"}, "'other' is none of the variants: teacher, int8"),
        ({"method": {"secnds": 1}}, "unknown fields secnds"),
        ({"method": {"seconds": "1"}}, "integer or number"),
        ({"method": {"processes": 0}}, "method.processes is 0"),
        ({"method": {"seconds": -1}}, "method.seconds is -1"),
        ({"cores": []}, "at least one core"),
        ({"cores": ["1"]}, "list of core numbers"),
        ({"power": {"meter": None}}, "job.power.meter"),
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

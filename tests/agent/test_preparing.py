"""Engines are built in a process of their own, whose death is understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.agent.children import ChildError, run_child
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json
from edgekd.agent.preparing import work

from .fakes import loading, tensorrt_api
from .networks import linear, write_job


def test_a_backend_that_prepares_nothing_tells_nothing(tmp_path: Path) -> None:
    write_job(tmp_path, {"teacher": linear(tmp_path / "teacher.onnx")})
    details: list[tuple[str, str]] = []
    task = {"job": read_json(tmp_path / "job.json"), "job_dir": str(tmp_path), "variant": "teacher"}
    assert work(task, lambda *detail: details.append(detail)) == {"prepare": {}}
    assert details == [("teacher", "teacher: preparing")]


def test_without_latency_inputs_a_fixed_shape_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(tmp_path, {"teacher": linear(tmp_path / "teacher.onnx", 4)}, backend="tensorrt", latency_inputs=None)
    task = {"job": read_json(tmp_path / "job.json"), "job_dir": str(tmp_path), "variant": "teacher"}
    with loading.loaded("8.6", tmp_path, monkeypatch):
        assert work(task, lambda *detail: None)["prepare"]["cached"] is False
        assert work(task, lambda *detail: None)["prepare"]["cached"] is True
        write_job(tmp_path, {"teacher": linear(tmp_path / "m.onnx")}, backend="tensorrt", latency_inputs=None)
        with pytest.raises(AgentError, match="an engine is built for one shape, and none was given"):
            work({**task, "job": read_json(tmp_path / "job.json")}, lambda *detail: None)


def test_a_build_runs_apart_and_a_killed_one_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading.need_names()
    environment = tensorrt_api.install(tmp_path / "site", "8.5", loading.library())
    for name, value in {**environment, "EDGEKD_ENGINE_CACHE": str(tmp_path / "engines")}.items():
        monkeypatch.setenv(name, value)
    write_job(tmp_path, {"teacher": linear(tmp_path / "teacher.onnx")}, backend="tensorrt")
    task = {
        "kind": "prepare",
        "label": "build",
        "cores": None,
        "job": read_json(tmp_path / "job.json"),
        "job_dir": str(tmp_path),
        "variant": "teacher",
    }
    monkeypatch.setenv("FAKE_TRT_KILL", "1")
    with pytest.raises(ChildError) as caught:
        run_child(task, tmp_path / "work/0", lambda detail: None)
    assert caught.value.variant == "teacher"
    message = str(caught.value)
    assert message.startswith("build of teacher: the process was killed by SIGKILL; most likely the device ran out of")
    assert "lower the option workspace_mb, close the desktop" in message
    assert not list((tmp_path / "engines").glob("*"))
    monkeypatch.delenv("FAKE_TRT_KILL")
    details: list[str] = []
    told: dict[str, Any] = run_child(task, tmp_path / "work/1", details.append)["prepare"]
    assert (told["cached"], told["plan_bytes"] > 0) == (False, True)
    assert details == ["teacher: preparing", "teacher: building teacher.onnx as fp32"]

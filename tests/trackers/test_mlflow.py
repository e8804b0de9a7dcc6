"""What MLflow's own client reads back of a run is what the run kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Found
from mlflow.exceptions import MlflowException
from tiny import ROOT

from edgekd import log, tracking
from edgekd.report import pictures
from edgekd.trackers import Run, mlflow

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tracker does to its own process is undone in this one."""
    for name, value in mlflow.SETTINGS.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(chain, tmp_path: Path) -> Run:
    path = tmp_path / "logs" / "mine.jsonl"
    path.parent.mkdir()
    shutil.copy(chain.path / log.FILE, path)
    return Run("mine", chain.store, path, chain.recipe.resolved())


def _lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log.read_text().splitlines()]


def _read(address: str) -> tuple[MlflowClient, Found, dict[str, Found]]:
    """The run, and those within it by name."""
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("edgekd")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (parent,) = (one for one in found if mlflow.PARENT not in one.data.tags)
    inner = [one for one in found if one.data.tags.get(mlflow.PARENT) == parent.info.run_id]
    assert len(inner) == len(found) - 1
    return client, parent, {one.info.run_name: one for one in inner}


def test_a_run_in_sqlite_has_parameters_figures_curves_plots_and_files(chain, run, tmp_path, monkeypatch):
    """By the process itself, without an address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "LIMIT_S", 600.0)
    assert tracking.finish(tracking.start(["mlflow"], run), chain.path) == []
    client, parent, inner = _read(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stages = {stage["name"]: stage for stage in chain.content["stages"]}
    assert set(inner) == set(stages)
    assert {one.info.status for one in (parent, *inner.values())} == {"FINISHED"}
    assert (parent.info.run_name, parent.data.params["student.width"]) == ("mine", "16")
    assert parent.data.tags["edgekd.exit_code"] == str(chain.result.exit_code)
    assert parent.data.tags["edgekd.verdict.cpu"] == chain.result.report["devices"]["cpu"]["verdict"]["status"]
    for name in ("teacher", "distill"):
        facts = stages[name]["facts"]
        history = client.get_metric_history(inner[name].info.run_id, "validation")
        assert [one.step for one in history] == facts["curves"]["epoch"]
        assert [one.value for one in history] == pytest.approx(facts["curves"]["validation"], rel=1e-5)
        assert inner[name].data.metrics["best_validation"] == facts["validation"]
        assert inner[name].data.metrics["parameters"] == facts["parameters"]
        assert inner[name].data.tags["edgekd.artifact"] == stages[name]["artifact"]
    assert inner["teacher"].data.params["teacher.epochs"] == "3"
    variants = chain.result.report["devices"]["cpu"]["variants"]
    for name, own in variants.items():
        metrics = inner["measure[cpu]"].data.metrics
        assert metrics[f"{name}/accuracy"] == own["accuracy"]
        assert metrics[f"{name}/p50_ms"] == pytest.approx(own["latency_ns"]["p50"] / 1e6)
    files = {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert files == {"report.html", "report.json", "run.json", "models", "plots", "mine.jsonl"}
    plots = [Path(one.path).suffix for one in client.list_artifacts(parent.info.run_id, "plots")]
    assert plots
    assert set(plots) == set(pictures.SUFFIXES)
    models = {Path(one.path).name for one in client.list_artifacts(parent.info.run_id, "models")}
    assert models == {path.name for path in (chain.path / "models").iterdir()}
    assert [one.path for one in client.list_artifacts(inner["teacher"].info.run_id)] == ["manifest.json"]


def test_a_run_that_fails_in_a_folder_shows_how_far_it_came(run, tmp_path):
    address = (tmp_path / "runs").as_uri()
    board = mlflow.open_board(address, run)
    lines = _lines(run)
    at = next(index for index, line in enumerate(lines) if line["event"] == "step" and line["step"] == "distill")
    for line in lines[:at]:
        board.hear(line["event"], line)
    client, parent, inner = _read(address)
    assert {name: one.info.status for name, one in inner.items() if name in ("teacher", "distill")} == {
        "teacher": "FINISHED", "distill": "RUNNING",
    }  # fmt: skip
    epochs = [line for line in lines[:at] if line["event"] == "epoch" and line["step"] == "distill"]
    history = client.get_metric_history(inner["distill"].info.run_id, "train_loss")
    assert [(one.step, one.value) for one in history] == [(line["epoch"], line["train_loss"]) for line in epochs]
    board.hear("failed", {"message": "no luck"})
    board.end(None)
    _, parent, inner = _read(address)
    assert (parent.info.status, inner["distill"].info.status) == ("FAILED", "FAILED")
    assert parent.data.tags["edgekd.error"] == "no luck"


STARTS = """
import sys, time
from pathlib import Path
from edgekd import tracking
from edgekd.trackers import Run
tracking.start([f"mlflow={sys.argv[1]}"], Run("mine", Path(), Path(sys.argv[2]), {}))
time.sleep(600)
"""


def test_a_run_that_is_killed_is_marked_so(run, tmp_path):
    address, folder = (tmp_path / "runs").as_uri(), tmp_path / "runs"
    lines = [line for line in _lines(run) if line["event"] == "run"]
    start = {"time": lines[0]["time"], "event": "start", "step": "teacher"}
    run.log.write_text("".join(f"{json.dumps(line)}\n" for line in (*lines, start)))
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS, address, str(run.log)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        _until(lambda: len(list(folder.glob("*/*/meta.yaml"))) == 2)
    finally:
        process.kill()
        process.wait()
    _until(lambda: "end_time: null" not in "".join(path.read_text() for path in folder.glob("*/*/meta.yaml")))
    _, parent, inner = _read(address)
    assert (parent.info.status, inner["teacher"].info.status) == ("KILLED", "KILLED")


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.parametrize(("kind", "status"), [("failed", "FAILED"), ("pending", "SCHEDULED")])
def test_a_device_that_was_not_measured_has_a_run_that_says_so(run, tmp_path, kind, status):
    address = (tmp_path / "runs").as_uri()
    board = mlflow.open_board(address, run)
    board.hear("run", _lines(run)[0])
    line = {"time": "2026-01-02T00:00:01+00:00", "device": "far", "seconds": 2.0, "error": {"kind": kind}}
    board.hear("measured", line)
    board.end(None)
    _, parent, inner = _read(address)
    assert (parent.info.status, inner["measure[far]"].info.status) == ("KILLED", status)
    assert json.loads(inner["measure[far]"].data.tags["edgekd.error"]) == {"kind": kind}


# ---- a server


class _Server(BaseHTTPRequestHandler):
    """The least of MLflow's REST interface; keeps what is asked of it."""

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "/runs/get" in self.path:
            self._answer({"run": {"info": {"run_id": "r", "experiment_id": "1"}, "data": {}}})
            return
        self._answer({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}, 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.partition("/mlflow/")[2]
        self.server.calls.append((call, asked))  # type: ignore[attr-defined]
        info = {"run_id": f"r{len(self.server.calls)}", "experiment_id": "1", "status": "RUNNING"}  # type: ignore[attr-defined]
        self._answer({"experiments/create": {"experiment_id": "1"}, "runs/create": {"run": {"info": info, "data": {}}},
                      "runs/update": {"run_info": info}}.get(call, {}))  # fmt: skip

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    found = HTTPServer(("127.0.0.1", 0), _Server)
    found.calls = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_server_that_is_not_there_is_an_error_at_once(run, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match=r"127\.0\.0\.1"):
        mlflow.open_board("http://127.0.0.1:9", run)


def test_a_server_is_told_the_same(run, server):
    board = mlflow.open_board(f"http://127.0.0.1:{server.server_port}", run)
    lines = _lines(run)
    board.hear("run", lines[0])
    epoch = next(line for line in lines if line["event"] == "epoch")
    board.hear("epoch", epoch)
    board.hear("epoch", epoch)
    board.end(None)
    names = [call for call, _ in server.calls]
    assert names[:2] == ["experiments/create", "runs/create"]
    created = [asked for call, asked in server.calls if call == "runs/create"]
    assert [asked["run_name"] for asked in created] == ["mine", epoch["step"]]
    assert {"key": mlflow.PARENT, "value": "r2"} in created[1]["tags"]
    metrics = [one for call, asked in server.calls if call == "runs/log-batch" for one in asked.get("metrics", [])]
    assert {one["key"]: one["value"] for one in metrics} == {
        name: pytest.approx(epoch[name]) for name in ("validation", "train_loss", "learning_rate")
    }
    assert len(metrics) == 3
    ended = [asked["status"] for call, asked in server.calls if call == "runs/update"]
    assert ended == ["KILLED", "KILLED"]

"""MLflow: a run for the run, and within it one for each stage, with parameters, metrics, files and plots.

The address is whatever MLflow takes: http://host:port, sqlite:///file.db, a folder. Without one it is what MLflow takes
by itself: MLFLOW_TRACKING_URI, else mlflow.db in the working directory. Runs are in the experiment
MLFLOW_EXPERIMENT_NAME, else "edgekd".
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from edgekd import trackers
from edgekd.report import pictures
from edgekd.report.views import flat
from edgekd.trackers import Run, Told

PARENT = "mlflow.parentRunId"
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # a server that is gone is told soon
    "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever names a folder wants one
}  # fmt: skip
"""What the environment may say otherwise."""
MODELS = "models"
KEPT = (".html", ".json", ".svg", ".yaml")
"""The files of a run that are kept there, with its models: no samples, labels and bundles."""
_FIGURES = ("accuracy", "agreement_with_teacher", "drop_pp", "speedup", "throughput_per_s", "size_bytes", "parameters",
            "macs", "peak_memory_bytes")  # fmt: skip
_STATUS = {"failed": "FAILED", "interrupted": "KILLED"}
_AT_ONCE = 100
_NS_PER_MS = 1e6
_NONE: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")


def open_board(address: str, run: Run) -> MLflow:
    """Return a board for a run.

    Raises:
        MlflowException: the address leads nowhere.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    client = MlflowClient(address or None)
    return MLflow(client, _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "edgekd")), run)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another run was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


class MLflow:
    """The runs of one run."""

    def __init__(self, client: MlflowClient, experiment: str, run: Run) -> None:
        self._client, self._experiment, self._run = client, experiment, run
        self._parent = ""
        self._open: dict[str, str] = {}  # the stages' runs that have not ended, by label
        self._told = Told()
        self._status = "KILLED"

    def hear(self, event: str, line: Mapping[str, Any]) -> None:
        """Take a line of the run's log."""
        if event == "run":
            tags = {name: line[name] for name in ("kind", "recipe", "command", "versions", "host") if name in line}
            self._parent = self._begin(self._run.run_id, line)
            self._log(self._parent, params=parameters(self._run.recipe), tags=tags)
        elif event == "start":
            self._stage(line["step"], line)
        elif event == "epoch":
            self._curves(line["step"], line, trackers.of_epoch(line))
        elif event == "step":
            self._step(line)
        elif event == "measured":
            self._measured(line)
        elif event == "finished":
            self._log(self._parent, tags={"exit_code": line.get("exit_code")})
        elif event in _STATUS:
            self._status = _STATUS[event]
            self._log(self._parent, tags={"error": line.get("message", event)})

    def end(self, folder: Path | None) -> None:
        """Keep what the run found and its files, and end all that is open."""
        if folder is not None:
            self._status = "FINISHED"
            self._keep(folder)
        for run in (*self._open.values(), self._parent):
            self._client.set_terminated(run, self._status)

    def _begin(self, name: str, line: Mapping[str, Any], **tags: str) -> str:
        return str(self._client.create_run(self._experiment, _ms(line), tags, name).info.run_id)

    def _stage(self, label: str, line: Mapping[str, Any]) -> str:
        """Return the run of a stage, which begins with the first line that tells of it."""
        if label not in self._open:
            self._open[label] = self._begin(label, line, **{PARENT: self._parent})
        return self._open[label]

    def _step(self, line: Mapping[str, Any]) -> None:
        made, label = self._run.artifact(line), line["step"]
        run = self._stage(label, line)
        tags = {"cached": line["cached"], "artifact": made.digest}
        self._log(run, {"seconds": made.seconds, **numbers(made.facts)}, parameters(made.parts["options"]), tags)
        self._curves(label, line, trackers.curves(label, made.facts))
        self._client.log_artifact(run, str(made.path / "manifest.json"))
        self._client.set_terminated(self._open.pop(label), "FINISHED")

    def _curves(self, label: str, line: Mapping[str, Any], points: Iterable[tuple[str, int, float]]) -> None:
        found = [Metric(name, value, _ms(line), epoch) for name, epoch, value in self._told.new(label, points)]
        for part in _parts(found):
            self._client.log_batch(self._stage(label, line), metrics=part)

    def _measured(self, line: Mapping[str, Any]) -> None:
        label = f"measure[{line['device']}]"
        run = self._stage(label, line)
        self._log(run, {"seconds": line["seconds"]})
        if "error" in line:
            self._log(run, tags={"error": line["error"]})
            status = "SCHEDULED" if line["error"]["kind"] == "pending" else "FAILED"
            self._client.update_run(self._open.pop(label), status)

    def _keep(self, folder: Path) -> None:
        """Keep figures, files and plots of a finished run."""
        for path in (*(path for path in sorted(folder.iterdir()) if path.suffix in KEPT), self._run.log):
            self._client.log_artifact(self._parent, str(path))
            self._run.sign()
        for path in sorted((folder / MODELS).glob("*.onnx")):
            self._client.log_artifact(self._parent, str(path), MODELS)
            self._run.sign()
        if (folder / "report.json").is_file():
            self._found(json.loads((folder / "report.json").read_text(encoding="utf-8")))

    def _found(self, report: Mapping[str, Any]) -> None:
        for name, device in report["devices"].items():
            self._device(name, device)
        with tempfile.TemporaryDirectory(prefix="edgekd-plots-") as folder:
            pictures.write(report, Path(folder))
            self._run.sign()
            self._client.log_artifacts(self._parent, folder, "plots")

    def _device(self, name: str, device: Mapping[str, Any]) -> None:
        """Log the figures of every variant with the measurement, those of the recommended one with the run."""
        variants, verdict = device["variants"], device["verdict"]
        recommended = verdict["recommended"]
        tags = {f"verdict.{name}": verdict["status"], f"recommended.{name}": recommended}
        self._log(self._parent, figures(name, variants.get(recommended, {})), tags=tags)
        run = self._open.get(f"measure[{name}]")
        for variant, own in variants.items() if run else ():
            self._log(str(run), figures(variant, own))

    def _log(
        self,
        run: str,
        metrics: Mapping[str, float] = _NONE,
        params: Mapping[str, str] = _NONE,
        tags: Mapping[str, Any] = _NONE,
    ) -> None:
        self._run.sign()
        now = time.time_ns() // 1_000_000
        for some in _parts([Metric(name, float(value), now, 0) for name, value in metrics.items()]):
            self._client.log_batch(run, metrics=some)
        for several in _parts([Param(name, value) for name, value in params.items()]):
            self._client.log_batch(run, params=several)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()}
        self._client.log_batch(run, tags=[RunTag(f"edgekd.{name}", text) for name, text in texts.items()])


def parameters(content: Mapping[str, Any]) -> dict[str, str]:
    """Return what a document says, by dotted keys; what it leaves open is no parameter."""
    return {name: value for name, value in flat(content).items() if value != "null"}


def numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the facts that are numbers; what a training has by epoch too is its best, as `best_validation`."""
    by_epoch = facts.get("curves", {})
    found = {name: value for name, value in facts.items() if isinstance(value, int | float)}
    return {f"best_{name}" if name in by_epoch else name: value for name, value in found.items()}


def figures(of: str, variant: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured of a variant, and only that.

    Args:
        of: what the names begin with.
    """
    latency, energy = variant.get("latency_ns") or {}, variant.get("energy_j")
    found = {
        **{name: variant.get(name) for name in _FIGURES},
        **{f"{name}_ms": value / _NS_PER_MS for name, value in latency.items() if name in ("p50", "p90", "p99")},
        "energy_mj": 1000 * energy if energy is not None else None,
    }
    return {f"{of}/{name}": value for name, value in found.items() if value is not None}


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield as much at once as a server takes."""
    return (items[begin : begin + _AT_ONCE] for begin in range(0, len(items), _AT_ONCE))


def _ms(line: Mapping[str, Any]) -> int:
    return int(1000 * trackers.seconds(line))

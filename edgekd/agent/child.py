"""The child's side: one fresh process that does one task and leaves its result in a file."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict

from edgekd.agent import evaluating, latency, power, preparing, throughput
from edgekd.agent.backends import load as load_backend
from edgekd.agent.errors import AgentError
from edgekd.agent.files import read_json, write_json
from edgekd.agent.job import parse

_PR_SET_PDEATHSIG = 1

Report = Callable[[str, str], None]


def _check(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Tell which runtime this is, and that it takes the options."""
    job = parse(task["job"])
    backend = load_backend(job.backend)
    for model in job.models:
        backend.check(job.options_of(model.name, Path(task["job_dir"])))
    report("", "backend %s" % job.backend)
    return {"runtime": backend.runtime(), "fixed_shapes": backend.FIXED_SHAPES}


def _import(task: Dict[str, Any], report: Report) -> Dict[str, Any]:
    """Tell which runtime a backend has here."""
    report("", "backend %s" % task["backend"])
    return {"runtime": load_backend(task["backend"]).runtime()}


_TASKS: Dict[str, Callable[[Dict[str, Any], Report], Dict[str, Any]]] = {
    "import": _import,
    "check": _check,
    "prepare": preparing.work,
    "evaluate": evaluating.work,
    "latency": latency.work,
    "throughput": throughput.work,
    "energy": power.work,
}


def main(task_file: str, events: int) -> int:
    """Do the task in a file; write its result, or {"error": message}, where the task says.

    Args:
        task_file: JSON with "kind", "parent" (process id), "result" (path), "cores" and what the kind needs.
        events: File descriptor for progress, one JSON object per line.
    """
    task = read_json(Path(task_file))
    _die_with(task["parent"])
    if task["cores"] is not None:
        os.sched_setaffinity(0, task["cores"])

    def report(variant: str, detail: str) -> None:
        os.write(events, (json.dumps({"variant": variant, "detail": detail}) + "\n").encode("utf-8"))

    try:
        result = _TASKS[task["kind"]](task, report)
    except AgentError as error:
        write_json(Path(task["result"]), {"error": str(error)})
        return 1
    write_json(Path(task["result"]), result)
    return 0


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise AgentError("the agent that started this process is gone")

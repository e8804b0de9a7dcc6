"""`python -m edgekd.agent`: `run JOBDIR OUTDIR` measures a job, `probe` tells what this device is.

`run` writes one JSON object per line to standard output: {"event": "progress", "phase", "done", "total", "detail"},
and last {"event": "done"} (exit code 0) or {"event": "error", "message"} (exit code 1; 130 when interrupted). Only
this process writes there; what runtimes print ends in the children's logs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, List, NoReturn, Optional

from edgekd.agent import PROTOCOL, __version__, backends, environment, meters
from edgekd.agent.child import main as run_task
from edgekd.agent.errors import AgentError
from edgekd.agent.measuring import measure


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgekd.agent", description="Measures models on this device.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure a job directory")
    run.add_argument("job", type=Path, help="directory with job.json")
    run.add_argument("out", type=Path, help="directory for the measurement; absent or empty")
    commands.add_parser("probe", help="print as JSON what this device is and what can be measured on it")
    child = commands.add_parser("child")
    child.add_argument("task")
    child.add_argument("events", type=int)
    chosen = parser.parse_args(arguments)
    if chosen.command == "child":
        return run_task(chosen.task, chosen.events)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if chosen.command == "probe":
            print(json.dumps(probe(), indent=1))
        else:
            measure(chosen.job, chosen.out, _progress)
            _emit(event="done")
    except AgentError as error:
        _emit(event="error", message=str(error))
        return 1
    except KeyboardInterrupt:
        _emit(event="error", message="interrupted")
        return 130
    except BrokenPipeError:
        # Whoever listened is gone, and nobody else wants the rest. Python must not fail once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def probe() -> dict[str, Any]:
    """Return what this device is, which backends and meters work on it and why the others do not."""
    runtimes = {}
    for name in backends.available():
        try:
            runtimes[name] = backends.load(name).runtime()
        except AgentError as error:
            runtimes[name] = {"error": str(error)}
    power = {}
    for name in meters.available():
        _, meter, reason = meters.find(name)
        power[name] = {"scope": meter.scope if meter else None, "reason": reason}
    return {
        "protocol": PROTOCOL,
        "agent": __version__,
        "isa": environment.isa(),
        "environment": environment.snapshot(),
        "backends": runtimes,
        "meters": power,
    }


def _progress(phase: str, done: int, total: int, detail: str) -> None:
    _emit(event="progress", phase=phase, done=done, total=total, detail=detail)


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Turn SIGTERM into the way out that ends the children."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""Measure on this machine: the agent in a process of its own, so that no training threads are in the measured one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.errors import StageError
from edgekd.stage import Progress

STDERR_LINES = 5


class MeasurementError(StageError):
    """The device is there, but its measurement failed; the other devices go on."""


def measure(job: Path, out: Path, *, timeout_s: float, progress: Progress) -> None:
    """Run a job on this machine's agent; the measurement is then in `out`.

    Raises:
        MeasurementError: the agent failed, was killed, hung, or wrote what it should not.
    """
    command = [sys.executable, "-m", "edgekd.agent", "run", str(job), str(out)]
    with tempfile.TemporaryFile("w+") as errors, _running(command, errors) as process:
        deadline = threading.Timer(timeout_s, process.kill)
        deadline.start()
        started = time.monotonic()
        message, done = "", False
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = _event(line)
                if event.get("event") == "progress":
                    progress(
                        int(event["done"]), int(event["total"]), f"{event['phase']} {event.get('detail', '')}".strip()
                    )
                elif event.get("event") == "error":
                    message = str(event.get("message", ""))
                elif event.get("event") == "done":
                    done = True
            code = process.wait()
        finally:
            deadline.cancel()
        if code == 0 and done:
            return
        errors.seek(0)
        tail = " | ".join(errors.read().strip().splitlines()[-STDERR_LINES:])
    if message:
        raise MeasurementError(message)
    if time.monotonic() - started >= timeout_s:
        raise MeasurementError(
            f"the agent was ended after {timeout_s / 60:g} minutes (measure.timeout_minutes in the recipe)"
        )
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise MeasurementError(f"the agent {ended}" + (f"; its last words: {tail}" if tail else ""))


@contextmanager
def _running(command: list[str], errors: object) -> Iterator[subprocess.Popen[str]]:
    """Start the agent; whatever ends this block ends the agent."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # a user's `random.py` in the working directory is not the agent's
    }
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


def _event(line: str) -> dict[str, Any]:
    """Return the agent's message in a line; other text is nobody's message."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}

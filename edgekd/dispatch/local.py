"""Measure on this machine: the agent in a process of its own, so that no training threads are in the measured one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.dispatch import probing
from edgekd.dispatch.hearing import Hearing, ending, too_long
from edgekd.dispatch.pack import agent_pyz
from edgekd.errors import StageError
from edgekd.stage import Progress

END_SECONDS = 15.0
"""So long may an agent that took too long take to end its children and set clocks back."""
LONGEST_LINE = 16 << 20
"""Characters of a line that are heard together."""


class MeasurementError(StageError):
    """The device is there, but its measurement failed; the other devices go on."""


@dataclass(frozen=True)
class _Agent:
    """How the agent is started: its command line without arguments, and its environment."""

    command: list[str]
    environment: dict[str, str]


def measure(job: Path, out: Path, *, timeout_s: float, progress: Progress, python: str | None = None) -> None:
    """Run a job on this machine's agent; the measurement is then in `out`.

    Args:
        python: the interpreter that runs the agent, such as a Jetson's own, which has TensorRT. Default: this one.

    Raises:
        MeasurementError: the agent failed, was killed, hung, or wrote what it should not.
    """
    hearing = Hearing(progress)
    with (
        _agent(python) as agent,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        _running(agent, ["run", str(job), str(out)], errors) as process,
    ):
        timers = [threading.Timer(timeout_s, process.terminate), threading.Timer(timeout_s + END_SECONDS, process.kill)]
        started = time.monotonic()
        assert process.stdout is not None
        lines = iter(partial(process.stdout.readline, LONGEST_LINE), "")
        try:
            for timer in timers:
                timer.start()
            for line in lines:
                hearing.take(line)
            code = process.wait()
        finally:
            for timer in timers:
                timer.cancel()
        errors.seek(0)
        log = errors.read()
    if code == 0 and hearing.done:
        return
    if time.monotonic() - started >= timeout_s:
        raise MeasurementError(too_long(timeout_s, hearing.doing))
    if hearing.message:
        raise MeasurementError(hearing.message)
    raise MeasurementError(ending(code, log))


def probe(python: str | None = None) -> dict[str, Any]:
    """Return what the agent says of this machine, by default with this interpreter.

    Raises:
        MeasurementError: the interpreter is missing, too old, or cannot run the agent.
    """
    with _agent(python) as agent:
        try:
            done = subprocess.run(
                [*agent.command, "probe", "--json"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=agent.environment,
                timeout=probing.SECONDS, check=False,
            )  # fmt: skip
        except OSError as error:
            raise MeasurementError(f"{agent.command[0]}: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{agent.command[0]}: the agent said nothing for {probing.SECONDS:g} s") from None
    if done.returncode != 0:
        raise MeasurementError(f"{agent.command[0]}: {ending(done.returncode, done.stderr)}")
    try:
        return probing.read(done.stdout)
    except StageError as error:
        raise MeasurementError(f"{agent.command[0]}: {error}") from error


@contextmanager
def _agent(python: str | None) -> Iterator[_Agent]:
    """Give the agent: this package with this interpreter, or one file for another interpreter."""
    if python is None:
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
        # A user's `random.py` in the working directory is not the agent's.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
        yield _Agent([sys.executable, "-m", "edgekd.agent"], environment)
        return
    found = shutil.which(os.path.expanduser(python))  # noqa: PTH111 - Path's own raises where there is no such user
    if found is None:
        raise MeasurementError(f"there is no interpreter {python} on this machine (`python` in the device profile)")
    # What belongs to this interpreter would mislead the other one.
    foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    with tempfile.TemporaryDirectory(prefix="edgekd-agent-") as folder:
        agent_pyz(Path(folder) / "agent.pyz")
        environment = {name: value for name, value in os.environ.items() if name not in foreign}
        yield _Agent([found, str(Path(folder) / "agent.pyz")], environment)


@contextmanager
def _running(agent: _Agent, arguments: list[str], errors: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the agent; whatever ends this block ends the agent."""
    try:
        process = subprocess.Popen(
            [*agent.command, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
            env=agent.environment,
        )  # fmt: skip
    except OSError as error:
        raise MeasurementError(f"{agent.command[0]}: {error.strerror}") from error
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
        assert process.stdout is not None
        process.stdout.close()
